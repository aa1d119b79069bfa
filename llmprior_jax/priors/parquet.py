"""A store's content as a Parquet file: to move it, to publish it, to read it with other tools.

One row is one prompt with what a model said of its actions, or one sampled answer; columns that the
other kind of row has are null. Floats keep their bits. A hash of all rows is in the file's
metadata, and a file that does not match it is not imported.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmprior_jax.files import DIGEST, digest, parse_json, replaced
from llmprior_jax.priors.store import PriorStore, StoreError
from llmprior_jax.priors.stored_scores import StoredScores

_ROWS_AT_ONCE = 1024
_SCORES, _PROPOSAL = "scores", "proposal"
_NUMBERS = {"log_probs": "<f4", "num_tokens": "<i4", "features": "<f4"}
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

    Entries that are damaged are left out, and a warning names each.

    Columns: `kind` ("scores" or "proposal"), `fingerprint`, `model`, `prompt`; of scores `actions`,
    `log_probs` (summed over tokens), `num_tokens`, and `features`, one action's after the other's;
    of proposals `settings` and `answer`, as JSON.

    Raises:
      StoreError: the store is damaged.
      OSError: the file cannot be written; what was there stays.
    """
    count, hashed = 0, b""
    with (
        replaced(os.fspath(path)) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer,
    ):
        rows = _rows(store)
        while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))
            count += len(batch)
            hashed = _hash(hashed, batch)
        writer.add_key_value_metadata({DIGEST: hashed.hex()})
    return count


def import_parquet(store: PriorStore | str | os.PathLike[str], path: str | os.PathLike[str]) -> int:
    """Adds what `export_parquet` wrote; what the store knows already stays. Returns the rows read.

    The whole file is checked before anything is written. One without a hash, of an older version,
    is checked row by row.

    Args:
      store: the store, or the path of one, which is made if there is none.
      path: the Parquet file.

    Raises:
      FileNotFoundError: there is no such file.
      StoreError: the file is not one of `export_parquet` or is damaged, or the store cannot be
        written.
      ValueError: the store holds other numbers of features of the same prompts.
    """
    count = sum(batch.num_rows for batch in _read(path))
    is_open = isinstance(store, PriorStore)
    with contextlib.nullcontext(store) if is_open else PriorStore(store) as opened:
        for batch in _read(path):
            for model, scores in batch.scores.items():
                opened.put_scores(*model, scores)
            for (model, settings), answers in batch.proposals.items():
                opened.put_proposals(*model, json.loads(settings), answers)
    return count


class _Batch(NamedTuple):
    """Some rows of a file, by the fingerprint and the name of the model.

    Attributes:
      num_rows: how many they are.
      scores: by prompt.
      proposals: of each of the settings, in JSON, the answers by prompt.
    """

    num_rows: int
    scores: dict[tuple[str, str], dict[str, StoredScores]]
    proposals: dict[tuple[tuple[str, str], str], dict[str, Any]]


def _rows(store: PriorStore) -> Iterator[dict[str, Any]]:
    for fingerprint, model, prompt, scores in store.all_scores():
        about = {"fingerprint": fingerprint, "model": model, "prompt": prompt}
        said = scores._replace(features=scores.features.ravel())
        yield {"kind": _SCORES, **about, **said._asdict()}
    for fingerprint, model, prompt, settings, answer in store.all_proposals():
        about = {"fingerprint": fingerprint, "model": model, "prompt": prompt}
        yield {"kind": _PROPOSAL, **about, "settings": settings, "answer": answer}


def _read(path: str | os.PathLike[str]) -> Iterator[_Batch]:
    """What a file holds, checked.

    Raises:
      FileNotFoundError, StoreError: see `import_parquet`.
    """
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise StoreError(f"{path} has other columns than an exported store")
            kept, hashed = (file.metadata.metadata or {}).get(DIGEST.encode()), b""
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                rows = batch.to_pylist()
                hashed = _hash(hashed, rows)
                yield _checked(rows, path)
            if kept is not None and kept != hashed.hex().encode():
                raise StoreError(
                    f"{path} is damaged: its rows do not match the hash kept with them; export "
                    "them again"
                )
    except (FileNotFoundError, StoreError):
        raise
    except (pa.ArrowException, OSError, RecursionError, TypeError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as an exported store: {error}") from error


def _hash(before: bytes, rows: list[dict[str, Any]]) -> bytes:
    """The hash of all rows so far, from that of those before."""
    for row in rows:
        parts: list[bytes | str] = []
        for name in _SCHEMA.names:
            value = row.get(name)
            if value is not None and name in _NUMBERS:
                parts += [name, np.asarray(value, _NUMBERS[name]).tobytes()]
            elif value is not None:
                parts += [name, json.dumps(value)]
        before = digest(before, *parts)
    return before


def _checked(rows: list[dict[str, Any]], path: str | os.PathLike[str]) -> _Batch:
    batch = _Batch(len(rows), {}, {})
    for row in rows:
        if None in (row["kind"], row["fingerprint"], row["model"], row["prompt"]):
            raise StoreError(f"{path}: a row lacks its kind, fingerprint, model or prompt")
        model = row["fingerprint"], row["model"]
        try:
            if row["kind"] == _PROPOSAL:
                answer = parse_json(row["answer"], "its answer")
                settings = parse_json(row["settings"], "its settings", Mapping)
                # A store takes no NaN.
                json.dumps([answer, settings], allow_nan=False)
                asked = batch.proposals.setdefault((model, row["settings"]), {})
                asked[row["prompt"]] = answer
                continue
            said = _scores(row)
            said.check()
        except (RecursionError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: prompt {row['prompt'][:60]!r}: {error}") from error
        batch.scores.setdefault(model, {})[row["prompt"]] = said
    return batch


def _scores(row: dict[str, Any]) -> StoredScores:
    return StoredScores(
        actions=tuple(row["actions"]),
        log_probs=np.array(row["log_probs"], np.float32),
        num_tokens=np.array(row["num_tokens"], np.int32),
        features=np.array(row["features"], np.float32).reshape(max(1, len(row["actions"])), -1),
    )
