"""Several processes, on one host or on many, that train one run together.

All of them run the same program on one mesh of all their devices, as JAX wants it, and hold the
same table of priors. Only the first one writes to the work directory and asks the store; and
whatever depends on files, it reads and tells the others. Looking for themselves, they could see
another state of a shared file system, decide otherwise, and wait for one another for ever.

With one process, nothing here does anything.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from llmprior_jax.errors import FirstProcessError


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def from_first(make: Callable[[], bytes]) -> bytes:
    """What `make` gives in the first process; the others do not call it, and get the same.

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


def _from_first(array: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(array))


def _from_each(array: np.ndarray) -> np.ndarray:
    """Stacked, in the order of the processes."""
    return np.asarray(multihost_utils.process_allgather(array)).reshape(-1, *array.shape)
