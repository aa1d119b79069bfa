"""Several processes, on one host or on many, that train one run together.

All of them run the same program on one mesh of all their devices, as JAX wants it, and hold the
same table of priors. Only the first one writes to the work directory and asks the store; and
whatever depends on files, it reads and tells the others. Looking for themselves, they could see
another state of a shared file system, decide otherwise, and wait for one another for ever.

With one process, nothing here does anything.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils

from llmprior_jax.priors.store import PriorStore, StoredScores
from llmprior_jax.training.errors import FirstProcessError


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], bytes]) -> bytes:
    """What `make` gives in the first process; the others do not call it, and are told.

    Raises:
      FirstProcessError: `make` failed, where it was not called; the first raises its own error.
    """
    if jax.process_count() == 1:
        return make()
    content, failure = b"", None
    if is_first():
        try:
            content = make()
        except Exception as error:  # The others wait for an answer, whatever happened.
            failure = error
    length = int(_from_first(np.asarray(-1 if failure else len(content), np.int32)))
    if failure is not None:
        raise failure
    if length < 0:
        raise FirstProcessError("the first process failed; its output says why")
    padded = np.zeros(1 << max(length - 1, 255).bit_length(), np.uint8)  # Few different shapes.
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return _from_first(padded)[:length].tobytes()


def in_first(do: Callable[[], object]) -> None:
    """Does something in the first process alone; the others wait until it is done."""

    def make() -> bytes:
        do()
        return b""

    from_first(make)


def in_all(value: bool) -> bool:
    """Whether a value is true in every process."""
    return bool(np.all(_from_each(np.asarray(value))))


def in_any(value: bool) -> bool:
    """Whether a value is true in some process."""
    return bool(np.any(_from_each(np.asarray(value))))


def total(number: int) -> int:
    """The sum over processes of numbers below 2^256, modulo 2^256."""
    each = _from_each(np.frombuffer(number.to_bytes(32, "little"), np.uint8))
    return sum(int.from_bytes(one.tobytes(), "little") for one in each) % (1 << 256)


def fetch(tree: Any) -> Any:
    """A pytree of arrays on every host, whichever devices hold them; no PRNG keys."""

    def one(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(one, jax.device_get(tree) if jax.process_count() == 1 else tree)


class SharedStore(PriorStore):
    """A store that the first process alone opens; what is found in it, all are told."""

    def __init__(self, path: str | os.PathLike[str]):
        """See `PriorStore`."""

        def open_it() -> bytes:
            super(SharedStore, self).__init__(path)
            return b"read only" if self.read_only else b""

        self.read_only = bool(from_first(open_it))

    def close(self) -> None:
        """Closes the file."""
        if is_first():
            super().close()

    def get_scores(self, fingerprint: str, prompts: Sequence[str]) -> list[StoredScores | None]:
        """See `PriorStore.get_scores`."""
        get = super().get_scores

        def found() -> bytes:
            scores = dict(enumerate(get(fingerprint, prompts)))
            known = {b: score for b, score in scores.items() if score is not None}
            actions = json.dumps({b: score.actions for b, score in known.items()}).encode()
            arrays: dict[str, Any] = {
                f"{name} {b}": known[b][i] for b in known for i, name in _ARRAYS
            }
            return safetensors.numpy.save(arrays | {"actions": np.frombuffer(actions, np.uint8)})

        told = safetensors.numpy.load(from_first(found))
        answers: list[StoredScores | None] = [None] * len(prompts)
        for b, actions in json.loads(told["actions"].tobytes()).items():
            answers[int(b)] = StoredScores(
                tuple(actions), *(told[f"{name} {b}"] for _, name in _ARRAYS)
            )
        return answers

    def put_scores(self, fingerprint: str, name: str, scores: Mapping[str, StoredScores]) -> None:
        """See `PriorStore.put_scores`."""
        if is_first():
            super().put_scores(fingerprint, name, scores)

    def get_proposals(
        self, fingerprint: str, prompts: Sequence[str], settings: Mapping[str, Any]
    ) -> list[Any]:
        """See `PriorStore.get_proposals`."""
        get = super().get_proposals
        return json.loads(
            from_first(lambda: json.dumps(get(fingerprint, prompts, settings)).encode())
        )

    def put_proposals(
        self,
        fingerprint: str,
        name: str,
        settings: Mapping[str, Any],
        answers: Mapping[str, Any],
    ) -> None:
        """See `PriorStore.put_proposals`."""
        if is_first():
            super().put_proposals(fingerprint, name, settings, answers)

    def count(self, fingerprint: str, name: str, found: int, not_found: int) -> None:
        """See `PriorStore.count`."""
        if is_first():
            super().count(fingerprint, name, found, not_found)


# The arrays of stored scores, by their place.
_ARRAYS = tuple(enumerate(StoredScores._fields))[1:]


def _from_first(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _from_each(array: np.ndarray) -> np.ndarray:
    """Stacked, in the order of the processes."""
    return np.asarray(multihost_utils.process_allgather(array)).reshape(-1, *array.shape)
