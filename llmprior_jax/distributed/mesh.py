"""Where a run computes: a mesh of devices with the axes `data` and `model`.

Seeds, with all their environments, are shared out over `data`, and so are the prompts that are
scored; where there are too few seeds, the environments of each are. The language model's weights
are shared out over `model`, where one device does not hold them. Checkpoints know nothing of a
mesh: what was written on one is read on another.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA, MODEL = "data", "model"


def make_mesh(spec: str | None, num_seeds: int, num_envs: int = 1) -> Mesh:
    """The mesh that a run is spread over, as many devices of every process.

    Examples:
      >>> dict(distributed.make_mesh("data:1", num_seeds=8).shape)["data"]
      1

    Args:
      spec: sizes of the axes, such as "data:4,model:2", or "data:4" or "model:2" alone. None for
        as many devices as divide the seeds, all on `data`.
      num_seeds: seeds to share out.
      num_envs: environments of a seed that can be shared out where the seeds cannot be; 1 for none.

    Raises:
      ValueError: the sizes cannot be read, ask for more devices than there are or for a part of the
        processes, or `data` divides neither the seeds nor the environments; the message says what
        would do.
    """
    processes, most = jax.process_count(), jax.device_count()
    sizes = {DATA: 1, MODEL: 1} | _parse(spec)
    # Every process takes part: one without a device of the mesh could not run its programs.
    fit = [
        n
        for n in range(1, most // sizes[MODEL] + 1)
        if n * sizes[MODEL] % processes == 0 and (num_seeds % n == 0 or num_envs % n == 0)
    ]
    if spec is None:
        by_seed = [n for n in fit if num_seeds % n == 0]
        if not fit:
            raise ValueError(
                f"{num_seeds} seeds cannot be shared out evenly over "
                f"{processes} processes; use a multiple of {processes}"
            )
        sizes[DATA] = max(by_seed or fit)
    needed = math.prod(sizes.values())
    if needed > most:
        raise ValueError(
            f"mesh {spec!r} needs {needed} devices, and there are {most}; the product of "
            "the axes must not be larger"
        )
    if needed % processes:
        raise ValueError(
            f"mesh {spec!r} needs {needed} devices, which are not the same number of each of "
            f"{processes} processes; the product of the axes must be a multiple of {processes}"
        )
    if sizes[DATA] not in fit:
        whose = f"{num_seeds} seeds"
        if num_envs > 1:
            whose += f", nor the {num_envs} environments of each,"
        or_else = f"data:{' or data:'.join(map(str, fit))}, or " if fit else ""
        raise ValueError(
            f"mesh {spec!r} cannot share {whose} out evenly over data:{sizes[DATA]}; use "
            f"{or_else}a multiple of {sizes[DATA]} seeds"
        )
    devices = [
        device
        for process in range(processes)
        for device in [d for d in jax.devices() if d.process_index == process][
            : needed // processes
        ]
    ]
    return Mesh(np.array(devices).reshape(sizes[DATA], sizes[MODEL]), (DATA, MODEL))


def shares_seeds(mesh: Mesh, num_seeds: int) -> bool:
    """Whether seeds are shared out over `data`, and not the environments of each."""
    return num_seeds % mesh.shape[DATA] == 0


def share_environments(mesh: Mesh, num_seeds: int) -> Callable[[Any], Any]:
    """The sharding constraint, inside jit, for arrays [N, ...] of one seed's environments.

    They are shared out over `data`, as far as that divides N, where the seeds are not.
    """
    if shares_seeds(mesh, num_seeds):
        return lambda envs: envs

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.shape[0] % mesh.shape[DATA]:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec(DATA)))

    return lambda envs: jax.tree.map(one, envs)


def place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Shares out over a mesh, of whatever processes, what each of them holds whole.

    What lies on the mesh already stays as it is.
    """
    sharding = NamedSharding(mesh, spec)

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array):
            if isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == mesh:
                return leaf
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = one(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        array = np.asarray(leaf)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree)


def _parse(spec: str | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in spec.split(",") if spec is not None else ():
        match = re.fullmatch(rf"\s*({DATA}|{MODEL})\s*:\s*([1-9][0-9]*)\s*", part)
        if match is None or match[1] in sizes:
            raise ValueError(f"mesh is {spec!r}; write it like data:4,model:2")
        sizes[match[1]] = int(match[2])
    return sizes
