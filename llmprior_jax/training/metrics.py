"""Metrics of a run: one JSON object per line for programs, TensorBoard events for people.

Weights & Biases (https://wandb.ai) gets what TensorBoard gets, where a project is named.
"""

import importlib
import json
import pathlib
import uuid
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np
from absl import logging

from llmprior_jax.files import naming, numbered_lines, parse_json, sealed, write_atomically
from llmprior_jax.settings import Settings
from llmprior_jax.training.config import flat

_FILE = "metrics.jsonl"
_WANDB_ID = "wandb_id"
_TENSORBOARD = "tensorboard"
# Modes of Weights & Biases in which nothing is sent.
_WITHOUT_LOGIN = ("offline", "dryrun", "disabled")
# What is made in an agent's directory; "wandb" is where that library keeps its own.
METRICS_FILES = (
    _FILE,
    f".{_FILE}.partial",
    _WANDB_ID,
    f".{_WANDB_ID}.partial",
    _TENSORBOARD,
    "wandb",
)


_PerSeed: TypeAlias = list[float | None]
_Record = TypedDict(
    "_Record",
    {
        "segment": int,
        "step": int,
        "success_rate": NotRequired[_PerSeed],
        "return": NotRequired[_PerSeed],
        "unseen_success_rate": NotRequired[_PerSeed],
    },
)
"""A record, as far as its fields are known here."""


class MetricsWriter:
    """Appends records to `metrics.jsonl` and to TensorBoard; use as a context manager."""

    def __init__(
        self,
        directory: str | pathlib.Path,
        resume_segment: int,
        resume_step: int,
        settings: Settings | None = None,
    ):
        """Opens the metrics of `directory`, dropping what lies beyond `resume_segment`.

        A run that was killed may have written records after its last checkpoint. They will be
        computed again, so each segment stands in the file once. -1 drops everything.

        Args:
          directory: of an agent in a work directory.
          resume_segment: the last record to keep.
          resume_step: its environment step.
          settings: of the run; where they name a project of Weights & Biases, that gets the
            metrics, too. A run that goes on does so under the same id there.

        Raises:
          ImportError: a project is named, and Weights & Biases is not installed.
        """
        self._directory = pathlib.Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        kept = [record for record in read_metrics(directory) if record["segment"] <= resume_segment]
        write_atomically(
            self._directory / _FILE, "".join(json.dumps(sealed(record)) + "\n" for record in kept)
        )
        self._file = (self._directory / _FILE).open("a")
        # It imports torch where that is installed, which takes seconds.
        tensorboard: Any = importlib.import_module("tensorboardX")
        self._tensorboard = tensorboard.SummaryWriter(
            str(self._directory / _TENSORBOARD), purge_step=resume_step + 1
        )
        self._wandb: Any = None
        if settings is not None and settings.wandb_project is not None:
            workdir = self._directory.resolve().parent
            self._wandb = import_wandb().init(
                project=settings.wandb_project,
                group=workdir.name,
                name=f"{workdir.name} {self._directory.name}",
                id=self._wandb_id(),
                resume="allow",
                dir=str(self._directory),
                config=flat(settings),
            )

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    def write(self, segment: int, step: int, **values: Any) -> None:
        """Writes one record.

        Args:
          segment: number of the record.
          step: steps per seed so far.
          **values: numbers, or arrays with one number per seed; TensorBoard and Weights & Biases
            get their mean over seeds. A number that does not exist (yet) is NaN, and null in the
            file.
        """
        arrays = {name: np.asarray(value, np.float64) for name, value in values.items()}
        record = {"segment": segment, "step": step} | {
            name: _jsonable(array) for name, array in arrays.items()
        }
        with naming(self._file.name):
            self._file.write(json.dumps(sealed(record)) + "\n")
            self._file.flush()
        means = {
            name: float(np.nanmean(array))
            for name, array in arrays.items()
            if np.isfinite(array).any()
        }
        for name, mean in means.items():
            self._tensorboard.add_scalar(name, mean, step)
        if self._wandb is not None:
            self._wandb.log(means, step=step)

    def _wandb_id(self) -> str:
        path = self._directory / _WANDB_ID
        if not path.exists():
            write_atomically(path, uuid.uuid4().hex[:8] + "\n")
        return path.read_text().strip()


def import_wandb() -> Any:
    """The library of Weights & Biases, which is an extra.

    Raises:
      ImportError: it is not installed.
    """
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        wandb = None
    # A directory `wandb`, of its runs, passes for a module without anything in it.
    if not hasattr(wandb, "init"):
        raise ImportError(
            "config.wandb_project names a project of Weights & Biases, which is not installed: "
            "pip install 'llmprior-jax[wandb]'"
        )
    return wandb


def check_login() -> None:
    """Raises an error unless metrics can be sent to Weights & Biases, or need not be.

    Raises:
      ImportError: it is not installed.
      ValueError: there is no API key, or the server does not take it or cannot be reached.
    """
    wandb = import_wandb()
    if wandb.setup().settings.mode in _WITHOUT_LOGIN:
        return
    try:
        if wandb.login(prompt=False, verify=True):
            return
        why = "no API key is known"
    except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
        why = str(error)
    raise ValueError(
        "config.wandb_project names a project of Weights & Biases, and nobody is logged in: "
        f"{why}. Give the command `wandb login`, or set WANDB_MODE=offline"
    )


def read_metrics(directory: str | pathlib.Path) -> list[dict[str, Any]]:
    """The records of `directory`, in the order of the file; none if there is no file.

    A last line that a kill has cut off is left out. Any other line that is no record is left out,
    too, and a warning names the file, the line and what is wrong with it.

    Returns:
      For each record its fields: `segment` and `step`, which are integers, and what was measured, a
      number, or a list with one number per seed.
    """
    path = pathlib.Path(directory) / _FILE
    if not path.exists():
        return []
    content = path.read_bytes()
    cut_off = 0 if content.endswith(b"\n") else content.count(b"\n") + 1
    records: list[dict[str, Any]] = []
    for number, line in numbered_lines(content):
        try:
            records.append(parse_json(line, f"{path}, line {number}", _Record))
        except ValueError as error:
            # What a kill has left of a line may still be all of it, but for its end.
            if number != cut_off:
                logging.warning("%s; this line is left out", error)
    return records


def _jsonable(array: np.ndarray) -> Any:
    """Numbers as nested lists, NaN and infinity as None (JSON has neither)."""
    if array.ndim:
        return [_jsonable(entry) for entry in array]
    return array.item() if np.isfinite(array) else None
