"""Where a run computes: a mesh of devices with the axes `data` and `model`.

Seeds, with all their environments, are shared out over `data`; the language model's weights over
`model`, where one device does not hold them. Checkpoints know nothing of a mesh: what was written
on one is read on another.
"""

import contextlib
import math
import re
from collections.abc import Generator

import jax
import numpy as np
from jax.sharding import Mesh

from llmprior_jax.training.config import Config

DATA, MODEL = "data", "model"


class OutOfMemoryError(RuntimeError):
    """A device had too little memory; the message says what to lower."""


def make_mesh(spec: str, num_seeds: int) -> Mesh:
    """The mesh that a run is spread over.

    Example:
      >>> dict(training.make_mesh("data:1", num_seeds=8).shape)["data"]
      1

    Args:
      spec: sizes of the axes, such as "data:4,model:2", or "data:4" or "model:2" alone. Empty for
        as many devices as divide the seeds, all on `data`.
      num_seeds: seeds to share out.

    Raises:
      ValueError: the sizes cannot be read, ask for more devices than there are, or `data` does not
        divide the seeds; the message says what would do.
    """
    devices = jax.devices()
    if not spec:
        sizes = {DATA: max(n for n in range(1, len(devices) + 1) if num_seeds % n == 0), MODEL: 1}
    else:
        sizes = {DATA: 1, MODEL: 1} | _parse(spec)
    needed = math.prod(sizes.values())
    if needed > len(devices):
        raise ValueError(
            f"mesh {spec!r} needs {needed} devices, and there are {len(devices)}; the product of "
            "the axes must not be larger"
        )
    if num_seeds % sizes[DATA]:
        fit = [n for n in range(1, len(devices) // sizes[MODEL] + 1) if num_seeds % n == 0]
        raise ValueError(
            f"mesh {spec!r} cannot share {num_seeds} seeds out evenly over data:{sizes[DATA]}; use "
            f"data:{' or data:'.join(map(str, fit))}, or a multiple of {sizes[DATA]} seeds "
            "(config.num_seeds)"
        )
    array = np.array(devices[:needed]).reshape(sizes[DATA], sizes[MODEL])
    return Mesh(array, (DATA, MODEL))


@contextlib.contextmanager
def explain_out_of_memory(config: Config, workdir: object) -> Generator[None]:
    """Turns the runtime's report of a full device into advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).split("\n")[0]
        raise OutOfMemoryError(
            f"a device ran out of memory ({reason}) with {config.num_seeds} seeds "
            f"(config.num_seeds) of {config.loop.num_envs} environments (config.loop.num_envs), "
            f"batches of {config.loop.batch_size} (config.loop.batch_size) and evaluations of "
            f"{config.eval_episodes} episodes (config.eval_episodes). Lower one of them in another "
            "--workdir, or spread the run over more devices (--mesh=data:4,model:2); the same "
            f"command goes on from the last checkpoint in {workdir}"
        ) from error


def _parse(spec: str) -> dict[str, int]:
    sizes = {}
    for part in spec.split(","):
        match = re.fullmatch(rf"\s*({DATA}|{MODEL})\s*:\s*([1-9][0-9]*)\s*", part)
        if match is None or match[1] in sizes:
            raise ValueError(f"mesh is {spec!r}; write it like data:4,model:2")
        sizes[match[1]] = int(match[2])
    return sizes
