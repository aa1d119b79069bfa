"""Metrics of a run: one JSON object per line for programs, TensorBoard events for people."""

import json
import pathlib
from typing import Any

import numpy as np
import tensorboardX

from llmprior_jax.training.files import write_atomically

_FILE = "metrics.jsonl"


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to TensorBoard; use as a context manager."""

    def __init__(self, directory: str | pathlib.Path, resume_segment: int, resume_step: int):
        """Opens the metrics of `directory`, dropping what lies beyond `resume_segment`.

        A run that was killed may have written records after its last checkpoint. They will be
        computed again, so each segment stands in the file once. -1 drops everything.
        """
        self._directory = pathlib.Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_metrics(directory) if record["segment"] <= resume_segment]
        write_atomically(
            self._directory / _FILE, "".join(json.dumps(record) + "\n" for record in kept)
        )
        self._file = (self._directory / _FILE).open("a")
        self._tensorboard = tensorboardX.SummaryWriter(
            str(self._directory / "tensorboard"), purge_step=resume_step + 1
        )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()
        self._tensorboard.close()

    def write(self, segment: int, step: int, **values: Any) -> None:
        """Writes one record.

        Args:
          segment: number of the record.
          step: steps per seed so far.
          **values: numbers, or arrays with one number per seed; TensorBoard gets their mean over
            seeds. A number that does not exist (yet) is NaN, and null in the file.
        """
        arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
        record = {"segment": segment, "step": step} | {
            name: _jsonable(array) for name, array in arrays.items()
        }
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, array in arrays.items():
            if np.isfinite(array).any():
                self._tensorboard.add_scalar(name, np.nanmean(array), step)


def read_metrics(directory: str | pathlib.Path) -> list[dict[str, Any]]:
    """The records of `directory`, without a last line that was cut off."""
    path = pathlib.Path(directory) / _FILE
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _jsonable(array: np.ndarray) -> Any:
    """Numbers as nested lists, NaN and infinity as None (JSON has neither)."""
    if array.ndim:
        return [_jsonable(entry) for entry in array]
    return array.item() if np.isfinite(array) else None
