"""Low-rank adaptation: fine-tuning a model through a few parameters beside its frozen ones.

Each chosen matrix W [I, O] becomes `W + scale * A B` with A [I, R] and B [R, O], of which only A
and B are learned (Hu et al., ICLR 2022, arXiv 2106.09685). B starts at zero, so that an adapted
model starts as the model itself.

These are functions on pytrees of parameters: a model does not know that it is adapted, and any
model with matrices in its parameters can be.

Example:
  >>> lm = models.load("tiny")
  >>> factors = models.lora.init(jax.random.key(0), lm.params, 2)
  >>> adapted = models.lora.merge(lm.params, factors)  # the same model until it learns
  >>> jax.tree.structure(adapted) == jax.tree.structure(lm.params)
  True
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.ranges import WIDTH


class Factors(NamedTuple):
    """The two factors of one matrix's change: `a` [I, R] and `b` [R, O]."""

    a: jax.Array
    b: jax.Array


def init(key: jax.Array, params: Any, rank: int, pattern: str = "kernel") -> dict[str, Factors]:
    """Makes the factors of the chosen matrices of a model.

    Args:
      key: randomness of the first factors.
      params: the model's parameters, a pytree of arrays.
      rank: R, at least 1.
      pattern: regular expression; a matrix is chosen if it occurs in its path, which is written
        like "blocks/0/attention/q_proj/kernel". By default the matrices of all linear layers.

    Returns:
      The factors by the path of the matrix. They have the dtype of the matrix.

    Raises:
      ValueError: the rank is out of its range (`ranges.WIDTH`), or no matrix is chosen.
    """
    WIDTH.check("rank", rank)
    chosen = {
        path: leaf
        for path, leaf in _leaves(params)
        if re.search(pattern, path) and jnp.ndim(leaf) == 2
    }
    if not chosen:
        some = ", ".join(path for path, leaf in _leaves(params) if jnp.ndim(leaf) == 2)
        raise ValueError(f"no matrix has {pattern!r} in its path; the matrices are {some}")
    keys = jax.random.split(key, len(chosen))
    return {
        path: Factors(
            a=jax.random.normal(key, (matrix.shape[0], rank), matrix.dtype)
            / jnp.sqrt(matrix.shape[0]).astype(matrix.dtype),
            b=jnp.zeros((rank, matrix.shape[1]), matrix.dtype),
        )
        for key, (path, matrix) in zip(keys, chosen.items(), strict=True)
    }


def merge(params: Any, factors: dict[str, Factors], scale: float = 1.0) -> Any:
    """The parameters of the adapted model. Pure, and differentiable in `factors`.

    Args:
      params: the model's own parameters.
      factors: of some of its matrices, from `init`.
      scale: of the change; alpha / R in the paper's terms.

    Returns:
      `params` with `W + scale * A B` for each matrix W that has factors.
    """

    def adapt(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        change = factors.get(_name(path))
        if change is None:
            return leaf
        # As exact as the products with the matrix itself; see `layers.Maker`.
        precision = jax.lax.Precision.HIGHEST if change.a.dtype == jnp.float32 else None
        product = jnp.matmul(change.a, change.b, precision=precision)
        return (leaf + scale * product).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(adapt, params)


def _leaves(params: Any) -> list[tuple[str, jax.Array]]:
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


def _name(path: tuple[Any, ...]) -> str:
    # Flax wraps each array in a variable, whose value is one step further.
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
