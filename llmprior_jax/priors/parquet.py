"""A store's content as a Parquet file: to move it, to publish it, to read it with other tools.

One row is one prompt with what a model said of its actions, or one sampled answer; columns that the
other kind of row has are null. Floats keep their bits.
"""

import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmprior_jax.priors.store import PriorStore, StoredScores, StoreError

_ROWS_AT_ONCE = 1024
_SCORES, _PROPOSAL = "scores", "proposal"
_SCHEMA = pa.schema(
    {
        "kind": pa.string(),
        "fingerprint": pa.string(),
        "model": pa.string(),
        "prompt": pa.string(),
        "actions": pa.list_(pa.string()),
        "log_probs": pa.list_(pa.float32()),
        "num_tokens": pa.list_(pa.int32()),
        "features": pa.list_(pa.float32()),
        "settings": pa.string(),
        "answer": pa.string(),
    }
)


def export_parquet(store: PriorStore, path: str | os.PathLike[str]) -> int:
    """Writes all that a store holds to a file, and returns the number of rows.

    Columns: `kind` ("scores" or "proposal"), `fingerprint`, `model`, `prompt`; of scores `actions`,
    `log_probs` (summed over tokens), `num_tokens`, and `features`, one action's after the other's;
    of proposals `settings` and `answer`, as JSON.

    Raises:
      StoreError: the store is damaged.
      OSError: the file cannot be written.
    """
    count = 0
    temporary = f"{os.fspath(path)}.partial"
    with pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        rows = _rows(store)
        while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))
            count += len(batch)
    os.replace(temporary, path)
    return count


def import_parquet(store: PriorStore, path: str | os.PathLike[str]) -> int:
    """Adds what `export_parquet` wrote; what the store knows already stays. Returns the rows read.

    Raises:
      FileNotFoundError: there is no such file.
      StoreError: the file is not one of `export_parquet`, or the store cannot be written.
    """
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise StoreError(f"{path} has other columns than an exported store")
            return sum(
                _add(store, batch.to_pylist(), path)
                for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE)
            )
    except (FileNotFoundError, StoreError):
        raise
    except (OSError, TypeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as Parquet: {error}") from error


def _rows(store: PriorStore) -> Iterator[dict[str, Any]]:
    for fingerprint, model, prompt, scores in store.all_scores():
        about = {"fingerprint": fingerprint, "model": model, "prompt": prompt}
        said = scores._replace(features=scores.features.ravel())
        yield {"kind": _SCORES, **about, **said._asdict()}
    for fingerprint, model, prompt, settings, answer in store.all_proposals():
        about = {"fingerprint": fingerprint, "model": model, "prompt": prompt}
        yield {"kind": _PROPOSAL, **about, "settings": settings, "answer": answer}


def _add(store: PriorStore, rows: list[dict[str, Any]], path: str | os.PathLike[str]) -> int:
    scores: dict[tuple[str, str], dict[str, StoredScores]] = {}
    proposals: dict[tuple[tuple[str, str], str], dict[str, Any]] = {}
    for row in rows:
        if None in (row["kind"], row["fingerprint"], row["model"], row["prompt"]):
            raise StoreError(f"{path}: a row lacks its kind, fingerprint, model or prompt")
        model = row["fingerprint"], row["model"]
        if row["kind"] == _PROPOSAL:
            asked = proposals.setdefault((model, row["settings"]), {})
            asked[row["prompt"]] = json.loads(row["answer"])
            continue
        n = len(row["actions"])
        said = StoredScores(
            actions=tuple(row["actions"]),
            log_probs=np.array(row["log_probs"], np.float32),
            num_tokens=np.array(row["num_tokens"], np.int32),
            features=np.array(row["features"], np.float32).reshape(n, -1),
        )
        try:
            said.check()
        except ValueError as error:
            raise StoreError(f"{path}: prompt {row['prompt'][:60]!r}: {error}") from error
        scores.setdefault(model, {})[row["prompt"]] = said
    for model, of_model in scores.items():
        store.put_scores(*model, of_model)
    for (model, settings), answers in proposals.items():
        store.put_proposals(*model, json.loads(settings), answers)
    return len(rows)
