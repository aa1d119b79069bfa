"""Forward passes of a model on a mesh: as many at once as the axis "data" has devices.

Each device computes a pass of its own, from beginning to end, just as one device alone would. So
nothing is exchanged, and results do not depend on how many devices there are.
"""

import collections
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmprior_jax.distributed.mesh import DATA, place

# The arrays of a pass, and where its results belong.
_Pass = TypeVar("_Pass", bound=tuple[Any, Any])


class Placed(Protocol):
    """A model as a structure and parameters, and the mesh that those lie on (None: one device)."""

    @property
    def graphdef(self) -> Any:
        """The structure."""
        ...

    @property
    def params(self) -> Any:
        """The parameters."""
        ...

    @property
    def mesh(self) -> Mesh | None:
        """The devices."""
        ...


def groups(passes: Iterable[_Pass], mesh: Mesh | None) -> Iterator[list[_Pass]]:
    """Passes to run at once: of the same shapes, and no more than "data" has devices."""
    most = 1 if mesh is None else mesh.shape[DATA]
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
    model: Placed,
    passes: Sequence[Any],
    shared: Any,
) -> Any:
    """Runs `function(graphdef, params, arrays, shared)` for each pass of a group.

    Args:
      function: pure; the same object for the same computation, which is compiled once.
      model: such as a `models.LanguageModel`.
      passes: the arrays of each pass, on the host.
      shared: a pytree of what all passes need.

    Returns:
      What it gives, with a leading axis: for each pass, and then for what devices without one did
      instead. All processes have all of it.
    """
    if model.mesh is None:
        (arrays,) = passes
        result = function(model.graphdef, model.params, arrays, shared)
        return jax.tree.map(lambda leaf: [leaf], result)
    idle = model.mesh.shape[DATA] - len(passes)
    group = jax.tree.map(lambda *leaves: np.stack(leaves), *passes, *passes[-1:] * idle)
    group = place(group, model.mesh, PartitionSpec(DATA))
    return _on_all(function, model.graphdef, model.mesh)(model.params, group, shared)


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
        in_specs=(whole, PartitionSpec(DATA), whole),
        out_specs=PartitionSpec(DATA),
        axis_names={DATA},  # What is shared out over the other axis, the compiler finds.
        check_vma=False,
    )
    return jax.jit(mapped, out_shardings=NamedSharding(mesh, whole))
