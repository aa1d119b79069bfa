"""A language model's weights shared out over several devices, when one does not hold them.

Tensor parallelism (Megatron-LM, Shoeybi et al., 2019, arXiv 1909.08053) as rules from a parameter's
path to the axis that is cut: what widens a hidden state is cut by columns, what narrows it again by
rows, so that between the two nothing is exchanged. The compiler inserts the exchanges that follow.
"""

import dataclasses
import re
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from llmprior_jax.distributed.mesh import MODEL, place
from llmprior_jax.models.language_model import LanguageModel

_RULES = (
    (r"(q|k|v|gate|up)_proj.*kernel|lm_head.*kernel", PartitionSpec(None, MODEL)),
    (r"(q|k|v|gate|up)_proj.*bias", PartitionSpec(MODEL)),
    (r"(o|down)_proj.*kernel|embed", PartitionSpec(MODEL, None)),
)


def partition(lm: LanguageModel, mesh: Mesh) -> LanguageModel:
    """The same model on a mesh: its weights are split over the axis "model".

    Examples:
      >>> lm = models.load("tiny")
      >>> devices = np.array(jax.devices()[:1]).reshape(1, 1)
      >>> mesh = jax.sharding.Mesh(devices, ("data", "model"))
      >>> models.partition(lm, mesh).config == lm.config
      True

    Args:
      lm: the language model.
      mesh: devices, with the axes "data" and "model". A weight whose size the axis "model" does not
        divide stays whole on every device, as do the small ones. Over "data" the model is copied,
        and `llmprior_jax.priors.score` shares out its passes.

    Raises:
      ValueError: the axis divides no weight.
    """
    size = mesh.shape[MODEL]
    cut = 0

    def put(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        nonlocal cut
        spec = _spec(jax.tree_util.keystr(path), leaf.shape, size)
        cut += spec != PartitionSpec()
        return place(leaf, mesh, spec)

    params = jax.tree_util.tree_map_with_path(put, lm.params)
    if not cut:
        raise ValueError(
            f"mesh model:{size} divides none of the language model's weights; its hidden size is "
            f"{lm.config.hidden_size}, so use a divisor of that"
        )
    return dataclasses.replace(lm, params=params, mesh=mesh)


def _spec(path: str, shape: tuple[int, ...], size: int) -> PartitionSpec:
    for pattern, spec in _RULES:
        if re.search(pattern, path) and len(spec) == len(shape):
            return spec if shape[spec.index(MODEL)] % size == 0 else PartitionSpec()
    return PartitionSpec()
