"""Forward passes of a model on a mesh: as many at once as the axis "data" has devices.

Each device computes a pass of its own, from beginning to end, just as one device alone would. So
nothing is exchanged, and results do not depend on how many devices there are.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmprior_jax.models import KVCache, LanguageModel
from llmprior_jax.models.partition import place
from llmprior_jax.priors.packing import Packed, Pass

_DATA = "data"


def groups(passes: Iterable[Pass], mesh: Mesh | None) -> Iterator[list[Pass]]:
    """Passes to run at once: of the same shapes, and no more than "data" has devices."""
    most = 1 if mesh is None else mesh.shape[_DATA]
    waiting: dict[Any, list[Pass]] = collections.defaultdict(list)
    for texts in passes:
        shape = jax.tree.structure(texts.packed), *map(np.shape, jax.tree.leaves(texts.packed))
        waiting[shape].append(texts)
        if len(waiting[shape]) == most:
            yield waiting.pop(shape)
    yield from waiting.values()


def run(
    function: Callable[..., tuple[jax.Array, jax.Array]],
    lm: LanguageModel,
    passes: Sequence[Packed],
    head: KVCache | None,
) -> tuple[Sequence[jax.Array] | jax.Array, Sequence[jax.Array] | jax.Array]:
    """Runs `function(graphdef, params, packed, head)` for each pass of a group.

    Returns:
      What it gives for each pass, and then for what devices without one did instead. All processes
      have all of it.
    """
    if lm.mesh is None:
        (packed,) = passes
        log_probs, features = function(lm.graphdef, lm.params, packed, head)
        return [log_probs], [features]
    idle = lm.mesh.shape[_DATA] - len(passes)
    group = jax.tree.map(lambda *leaves: np.stack(leaves), *passes, *passes[-1:] * idle)
    group = place(group, lm.mesh, PartitionSpec(_DATA))
    return _run_all(function, lm.graphdef, lm.mesh, lm.params, group, head)


@functools.partial(jax.jit, static_argnames=("function", "graphdef", "mesh"))
def _run_all(
    function: Callable[..., tuple[jax.Array, jax.Array]],
    graphdef: Any,
    mesh: Mesh,
    params: Any,
    group: Packed,
    head: Any,
):
    def own(params: Any, group: Packed, head: Any):
        packed = jax.tree.map(lambda leaf: leaf[0], group)
        return jax.tree.map(lambda leaf: leaf[None], function(graphdef, params, packed, head))

    whole = PartitionSpec()
    results = jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(whole, PartitionSpec(_DATA), whole),
        out_specs=PartitionSpec(_DATA),
        axis_names={_DATA},  # What is shared out over the other axis, the compiler finds.
        check_vma=False,
    )(params, group, head)
    return jax.lax.with_sharding_constraint(results, NamedSharding(mesh, whole))
