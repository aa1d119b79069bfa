"""The Q head: a small MLP over frozen features of (state, action).

The features come from the language model that also gives the prior, and the same head serves every
action, so the action set may differ from state to state.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from llmprior_jax.ranges import WIDTH


class QNetwork(nnx.Module):
    """Maps features f32[..., D] to values f32[...].

    The last layer starts at zero: an untrained Q is 0 everywhere, so an untrained posterior is the
    prior itself.
    """

    def __init__(self, num_features: int, hidden_sizes: Sequence[int], *, rngs: nnx.Rngs):
        sizes = (num_features, *hidden_sizes)
        self.hidden = nnx.data(
            [
                nnx.Linear(size_in, size_out, rngs=rngs)
                for size_in, size_out in itertools.pairwise(sizes)
            ]
        )
        self.value = nnx.Linear(sizes[-1], 1, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def __call__(self, features: jax.Array) -> jax.Array:
        x = features
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return jnp.squeeze(self.value(x), axis=-1)


class QFunction(NamedTuple):
    """A Q head as two pure functions.

    Attributes:
      init: `(key, num_features) -> params`.
      apply: `(params, features f32[..., D]) -> f32[...]`.
    """

    init: Callable[[jax.Array, int], optax.Params]
    apply: Callable[[optax.Params, jax.Array], jax.Array]


def q_function(hidden_sizes: Sequence[int]) -> QFunction:
    """A `QNetwork` with its parameters outside, so that they can be vmapped and checkpointed.

    Raises:
      ValueError: a size is out of its range (`ranges.WIDTH`).
    """
    for size in hidden_sizes:
        WIDTH.check("an entry of hidden_sizes", size)

    def split(key: jax.Array, num_features: int) -> tuple[Any, Any]:
        return nnx.split(QNetwork(num_features, hidden_sizes, rngs=nnx.Rngs(key)))

    def apply(params: optax.Params, features: jax.Array) -> jax.Array:
        # The structure depends on shapes alone; tracing it abstractly costs nothing at run time.
        graphdef, _ = nnx.eval_shape(lambda: split(jax.random.key(0), features.shape[-1]))
        return nnx.merge(graphdef, params)(features)

    return QFunction(lambda key, num_features: split(key, num_features)[1], apply)
