"""Checkpoints that survive SIGKILL: written asynchronously by orbax, checked when read.

Orbax publishes a checkpoint by renaming a finished directory, so a killed run leaves the previous
one whole. What orbax does not notice is a file damaged later; a hash of the arrays is kept beside
them, and a checkpoint that does not match it is set aside in favor of the one before.

Several processes save and restore together, each what its devices hold; on which devices that is,
a checkpoint does not know.
"""

import functools
import hashlib
import json
import math
import pathlib
import shutil
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from llmprior_jax.distributed import processes
from llmprior_jax.errors import RestoreError
from llmprior_jax.files import typed

CHECKPOINTS = "checkpoints"
"""Their directory, of an agent or of a round that refines a prior."""
# What the directory of checkpoints that were set aside has after its name.
BROKEN = "-broken"
# Under this name earlier versions kept a hash that was computed in another way.
_HASH_OF_OTHERS = "digest"
_MODULUS = 1 << 64
_BLOCK = 1 << 15  # Elements that stay in a processor's cache.


class _Meta(TypedDict):
    """What is saved beside the arrays."""

    hash: NotRequired[str]
    meta: dict[str, Any]


class Checkpoints:
    """The last few checkpoints of one training run; use as a context manager.

    Leaving the context waits until the last checkpoint is on disk.

    Examples:
      >>> with training.Checkpoints("checkpoints", keep=2) as checkpoints:
      ...     checkpoints.save(1, {"weight": jnp.ones(2)}, {"note": "first"})
      >>> with training.Checkpoints("checkpoints", keep=2) as checkpoints:
      ...     step, state, meta = checkpoints.restore_latest({"weight": jnp.zeros(2)})
      >>> step, meta
      (1, {'note': 'first'})
    """

    def __init__(self, directory: str | pathlib.Path, keep: int, read_only: bool = False):
        """Opens, or creates, the checkpoints in `directory`, of which the newest `keep` stay.

        Args:
          directory: of the checkpoints.
          keep: how many stay.
          read_only: leave the directory, which is there, as it is.
        """
        self._read_only = read_only
        self._directory = pathlib.Path(directory).absolute()
        self._keep = keep
        self._checkpointer = self._open()
        self._saving: ocp.AsyncResponse[bool] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON-able dict under the number `step`.

        Returns as soon as the arrays are copied; writing goes on in the background, until the next
        call or `wait`. With several processes, all must call it.
        """
        state = jax.tree.map(_without_key, state)
        kept: _Meta = {"hash": _hash(state, meta), "meta": meta}
        self.wait()
        self._saving = self._checkpointer.save_checkpointables_async(
            step, {"state": state, "meta": kept}
        )

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            saving.result()  # Ends its thread, too, and raises what went wrong there.

    def restore_latest(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole.

        Newer ones that cannot be read are moved out of the way, for they are to be written again;
        not so where all is only read.

        Args:
          like: a pytree with the structure, shapes, dtypes and devices that the state is to have.

        Returns:
          `(step, state, meta)`, or None where nothing was ever saved.

        Raises:
          RestoreError: there are checkpoints, and none of them can be read.
        """
        damaged = []
        for step in self._steps():
            read, problem = None, "another process cannot read it"
            try:
                read = self._read(step, like)
            except Exception as error:  # orbax and tensorstore raise many types
                problem = str(error).split("\n")[0]
            # Outside of the `try`, because it takes all processes to compare hashes.
            everywhere = processes.in_all(read is not None)
            restored = self._checked(read, like) if everywhere else None
            if everywhere and restored is None:
                problem = "what is there does not match the hash that was saved with it"
            if restored is None:
                logging.warning(
                    "checkpoint %d in %s cannot be read; falling back to the one before: %s",
                    step,
                    self._directory,
                    problem,
                )
                damaged.append(step)
            else:
                if damaged and not self._read_only:
                    self._set_aside(damaged)
                return step, *restored
        if damaged:
            raise RestoreError(
                f"none of the checkpoints {sorted(damaged)} of {self._directory} can be read; "
                "start the run again with --noresume, or with another --workdir"
            )
        return None

    def _steps(self) -> list[int]:
        """The numbers of what was saved, the newest first."""
        steps = [each.step for each in reversed(self._checkpointer.checkpoints)]
        return json.loads(processes.from_first(lambda: json.dumps(steps).encode()))

    def _read(self, step: int, like: Any) -> Any:
        """The arrays and what was saved beside them, as they are."""
        template = jax.tree.map(_describe, like)
        return self._checkpointer.load_checkpointables(step, {"state": template, "meta": None})

    def _checked(self, read: Any, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """`(state, meta)`, or None where they are not what was saved."""
        try:
            arrays, kept = read["state"], typed(_Meta, read["meta"])
        except ValueError:
            return None
        if "hash" in kept:
            if kept["hash"] != _hash(arrays, kept["meta"]):
                return None
        elif _HASH_OF_OTHERS in kept:
            logging.warning(
                "a checkpoint in %s is of another version, and cannot be checked for damage",
                self._directory,
            )
        else:
            return None
        return jax.tree.map(_with_key, arrays, like), kept["meta"]

    def _set_aside(self, steps: list[int]) -> None:
        self._checkpointer.close()
        processes.in_first(lambda: self._move_aside(steps))
        self._checkpointer = self._open()

    def _move_aside(self, steps: list[int]) -> None:
        for step in steps:
            aside = self._directory.parent / f"{self._directory.name}{BROKEN}" / str(step)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.move(self._directory / str(step), aside)
            logging.warning("checkpoint %d was moved to %s", step, aside)

    def _open(self) -> ocp.training.Checkpointer:
        registry = ocp.handlers.local_registry()
        registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
        context = ocp.Context()
        context.checkpointables.registry = registry
        policies: Any = ocp.training  # whose policies are not of the types that it declares
        return ocp.training.Checkpointer(
            str(self._directory),
            context=context,
            # By default nothing is saved while the checkpoint before is being written.
            save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.preservation_policies.LatestN(self._keep),
        )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _with_key(array: jax.Array, like: jax.Array) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    return array


def _describe(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    leaf = _without_key(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _hash(state: Any, meta: dict[str, Any]) -> str:
    """A hash of `meta` and all arrays, whatever devices and processes they are shared out over.

    It is a sum over all elements of all arrays, each weighed by its place and its array's name. A
    process adds up those that lie on its devices.
    """
    own = sum(
        _sum_of_elements(jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    )
    if processes.is_first():
        own += _weight(json.dumps(meta, sort_keys=True))
    return f"{processes.total(own % _MODULUS) % _MODULUS:016x}"


def _sum_of_elements(name: str, leaf: jax.Array) -> int:
    """The weighed sum of those elements of an array of which this process has the first copy.

    Weights are odd, so that no change of one element goes unnoticed.
    """
    about = f"{name} {leaf.dtype} {leaf.shape}"
    strides = [math.prod(leaf.shape[axis + 1 :]) for axis in range(leaf.ndim)]
    total = 0
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0 and shard.data.size:
            data = np.asarray(shard.data)
            first = sum((i.start or 0) * n for i, n in zip(shard.index, strides, strict=True))
            # From the last axis that is shared out on, what is here lies together in the whole.
            cut = [axis for axis, size in enumerate(data.shape) if size < leaf.shape[axis]]
            outer = data.shape[: cut[-1]] if cut else ()
            runs = data.reshape(math.prod(outer), -1).view(f"u{data.itemsize}")
            for run, at in zip(runs, np.ndindex(outer), strict=True):
                place = first + sum(i * n for i, n in zip(at, strides, strict=False))
                total += _sum_of_run(about, place, run)
    return total


def _sum_of_run(about: str, place: int, bits: np.ndarray) -> int:
    """The weighed sum of the bits of elements that follow one another, from a place of an array."""
    total = done = 0
    weights = _weights()
    while done < len(bits):
        block, start = divmod(place + done, len(weights))
        some = bits[done : done + len(weights) - start].astype(np.uint64)
        total += _weight(f"{about} {block}") * int(some @ weights[start : start + len(some)])
        done += len(some)
    return total


def _weight(about: str) -> int:
    return int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "little") | 1


@functools.cache
def _weights() -> np.ndarray:
    """Weights u64[elements of a block], any numbers that are always the same ones."""
    return np.frombuffer(hashlib.shake_256(b"weights").digest(8 * _BLOCK), "<u8") | np.uint64(1)
