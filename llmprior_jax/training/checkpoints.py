"""Checkpoints that survive SIGKILL: written asynchronously by orbax, checked when read.

Orbax publishes a checkpoint by renaming a finished directory, so a killed run leaves the previous
one whole. What orbax does not notice is a file damaged later; a digest of every array is kept
beside the arrays, and a checkpoint that does not match it is set aside in favour of the one before.
"""

import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging


class RestoreError(RuntimeError):
    """No checkpoint of a directory can be read."""


class Checkpoints:
    """The last few checkpoints of one training run; use as a context manager.

    Leaving the context waits until the last checkpoint is on disk.

    Example:
      >>> with training.Checkpoints("checkpoints", keep=2) as checkpoints:
      ...     checkpoints.save(1, {"weight": jnp.ones(2)}, {"note": "first"})
      >>> with training.Checkpoints("checkpoints", keep=2) as checkpoints:
      ...     step, state, meta = checkpoints.restore_latest({"weight": jnp.zeros(2)})
      >>> step, meta
      (1, {'note': 'first'})
    """

    def __init__(self, directory: str | pathlib.Path, keep: int):
        """Opens, or creates, the checkpoints in `directory`, of which the newest `keep` stay."""
        self._directory = pathlib.Path(directory).absolute()
        self._manager = self._open(keep)
        self._keep = keep

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Saves a pytree of arrays and a JSON-able dict under the number `step`.

        Returns as soon as the arrays are copied; writing goes on in the background, until the next
        call or `wait`.
        """
        # A host copy of our own: the write may outlive the arrays that it was asked for.
        state = jax.tree.map(_to_host, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                meta=ocp.args.JsonSave({"digest": _digest(state, meta), "meta": meta}),
            ),
        )

    def wait(self) -> None:
        """Waits until what was saved is on disk."""
        self._manager.wait_until_finished()

    def restore_latest(
        self, like: Any, set_aside: bool = True
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Restores the newest checkpoint that is whole.

        Args:
          like: a pytree with the structure, shapes and dtypes of the state.
          set_aside: whether to move newer checkpoints that cannot be read out of the way, which
            training needs to write them again; readers leave everything as it is.

        Returns:
          `(step, state, meta)`, or None where nothing was ever saved.

        Raises:
          RestoreError: there are checkpoints, and none of them can be read.
        """
        damaged = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, meta = self._read(step, like)
            except Exception as error:  # orbax and tensorstore raise many types
                logging.warning(
                    "checkpoint %d in %s cannot be read; falling back to the one before: %s",
                    step,
                    self._directory,
                    str(error).split("\n")[0],
                )
                damaged.append(step)
            else:
                if damaged and set_aside:
                    self._set_aside(damaged)
                return step, state, meta
        if damaged:
            raise RestoreError(
                f"none of the checkpoints {sorted(damaged)} of {self._directory} can be read; "
                "start the run again with --noresume, or with another --workdir"
            )
        return None

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        template = jax.tree.map(_to_host, like)
        restored: Any = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), meta=ocp.args.JsonRestore()
            ),
        )
        if _digest(restored.state, restored.meta["meta"]) != restored.meta["digest"]:
            raise ValueError("the arrays do not match the digest that was saved with them")
        state = jax.tree.map(_from_host, restored.state, like)
        return state, restored.meta["meta"]

    def _set_aside(self, steps: list[int]) -> None:
        self._manager.close()
        for step in steps:
            aside = self._directory.parent / f"{self._directory.name}-broken" / str(step)
            aside.parent.mkdir(exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)
            shutil.move(self._directory / str(step), aside)
            logging.warning("checkpoint %d was moved to %s", step, aside)
        self._manager = self._open(self._keep)

    def _open(self, keep: int) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=True
            ),
        )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    return np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_host(array: np.ndarray, like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    return jnp.asarray(array)


def _digest(state: Any, meta: dict[str, Any]) -> str:
    """SHA-256 over `meta` and the bytes of all arrays, with their places in the tree."""
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
