"""Forward passes of a model on a mesh: as many at once as the axis "data" has devices.

Each device computes a pass of its own, from beginning to end, just as one device alone would. So
nothing is exchanged, and results do not depend on how many devices there are.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmprior_jax.models import LanguageModel
from llmprior_jax.models.partition import place

_DATA = "data"

# The arrays of a pass, and where its results belong.
_Pass = TypeVar("_Pass", bound=tuple[Any, Any])


def groups(passes: Iterable[_Pass], mesh: Mesh | None) -> Iterator[list[_Pass]]:
    """Passes to run at once: of the same shapes, and no more than "data" has devices."""
    most = 1 if mesh is None else mesh.shape[_DATA]
    waiting: dict[Any, list[_Pass]] = collections.defaultdict(list)
    for each in passes:
        arrays = each[0]
        shape = jax.tree.structure(arrays), *map(np.shape, jax.tree.leaves(arrays))
        waiting[shape].append(each)
        if len(waiting[shape]) == most:
            yield waiting.pop(shape)
    yield from waiting.values()


def run(
    function: Callable[[Any, Any, Any, Any], Any],
    lm: LanguageModel,
    passes: Sequence[Any],
    shared: Any,
) -> Any:
    """Runs `function(graphdef, params, arrays, shared)` for each pass of a group.

    Args:
      function: pure; the same object for the same computation, which is compiled once.
      lm: the language model.
      passes: the arrays of each pass, on the host.
      shared: a pytree of what all passes need.

    Returns:
      What it gives, with a leading axis: for each pass, and then for what devices without one did
      instead. All processes have all of it.
    """
    if lm.mesh is None:
        (arrays,) = passes
        result = function(lm.graphdef, lm.params, arrays, shared)
        return jax.tree.map(lambda leaf: [leaf], result)
    idle = lm.mesh.shape[_DATA] - len(passes)
    group = jax.tree.map(lambda *leaves: np.stack(leaves), *passes, *passes[-1:] * idle)
    group = place(group, lm.mesh, PartitionSpec(_DATA))
    return _on_all(function, lm.graphdef, lm.mesh)(lm.params, group, shared)


@functools.cache
def _on_all(
    function: Callable[[Any, Any, Any, Any], Any], graphdef: Any, mesh: Mesh
) -> Callable[[Any, Any, Any], Any]:
    def own(params: Any, group: Any, shared: Any) -> Any:
        arrays = jax.tree.map(lambda leaf: leaf[0], group)
        return jax.tree.map(lambda leaf: leaf[None], function(graphdef, params, arrays, shared))

    whole = PartitionSpec()
    mapped = jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(whole, PartitionSpec(_DATA), whole),
        out_specs=PartitionSpec(_DATA),
        axis_names={_DATA},  # What is shared out over the other axis, the compiler finds.
        check_vma=False,
    )
    return jax.jit(mapped, out_shardings=NamedSharding(mesh, whole))
