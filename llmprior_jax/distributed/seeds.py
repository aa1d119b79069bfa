"""Seeds as an axis: their random keys, and functions of one seed mapped over all of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llmprior_jax.distributed.mesh import DATA, make_mesh, place, shares_seeds
from llmprior_jax.ranges import SEED

SEEDS = "seeds"
"""Name of the axis of seeds within `over_seeds`, where they go through it side by side."""


def seed_keys(seed: int, num_seeds: int) -> jax.Array:
    """One key per seed, key[S]; seed i has the same one however many there are.

    Examples:
      >>> distributed.seed_keys(0, num_seeds=3).shape
      (3,)

    Raises:
      ValueError: the seed is out of its range (`ranges.SEED`).
    """
    SEED.check("seed", seed)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(seed), jnp.arange(num_seeds)
    )


def fold_in(keys: jax.Array, number: int) -> jax.Array:
    """Keys [S] that follow from other keys [S] and a number."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)


def over_seeds(
    function: Callable[..., Any],
    in_axes: tuple[int | None, ...],
    num_seeds: int,
    one_by_one: bool = False,
    mesh: str | None = None,
    num_envs: int = 1,
) -> Callable[..., Any]:
    """Maps a function of one seed over all seeds, and jits it.

    The seeds are shared out evenly among the devices, which need nothing of one another: each runs
    its part of the batch on its own. Where there are too few seeds, all devices run all of them,
    and share out what the function itself says (`mesh.share_environments`).

    With several processes, each must hold all values that are not yet on the mesh, the same ones.

    Examples:
      >>> double = distributed.over_seeds(lambda x, scale: scale * x, (0, None), num_seeds=2)
      >>> print(double(jnp.arange(2.0), jnp.float32(2.0)))
      [0. 2.]

    Args:
      function: takes and returns pytrees of arrays.
      in_axes: for each argument, 0 if it has a leading axis of seeds, None if all seeds share it.
      num_seeds: S.
      one_by_one: a device takes its seeds one after the other, where a batch of them would need too
        much memory, or would compute both branches of every condition.
      mesh: the devices, see `mesh.make_mesh`; as many as divide the seeds by default.
      num_envs: see `mesh.make_mesh`.
    """
    mapped = (
        _one_by_one(function, in_axes)
        if one_by_one
        else jax.vmap(function, in_axes=in_axes, axis_name=SEEDS)
    )
    devices = make_mesh(mesh, num_seeds, num_envs)
    by_seed = shared = jax.sharding.PartitionSpec()
    if shares_seeds(devices, num_seeds):
        by_seed = jax.sharding.PartitionSpec(DATA)
        mapped = jax.shard_map(
            mapped,
            mesh=devices,
            in_specs=tuple(shared if axis is None else by_seed for axis in in_axes),
            out_specs=by_seed,
            check_vma=False,
        )
    jitted = jax.jit(mapped)
    if jax.process_count() == 1:
        return jitted

    def on_all(*arguments: Any) -> Any:
        return jitted(
            *(
                place(argument, devices, shared if axis is None else by_seed)
                for argument, axis in zip(arguments, in_axes, strict=True)
            )
        )

    return on_all


def _one_by_one(
    function: Callable[..., Any], in_axes: tuple[int | None, ...]
) -> Callable[..., Any]:
    """As `vmap`, in a loop."""

    def mapped(*arguments: Any) -> Any:
        batched = [x for x, axis in zip(arguments, in_axes, strict=True) if axis is not None]

        def of_one(own: list[Any]) -> Any:
            rest = iter(own)
            return function(
                *(
                    x if axis is None else next(rest)
                    for x, axis in zip(arguments, in_axes, strict=True)
                )
            )

        return jax.lax.map(of_one, batched)

    return mapped
