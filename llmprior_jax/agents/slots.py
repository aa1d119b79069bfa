"""What is computed of actions, without what states have no actions for.

An environment has as many slots for actions as its largest state has actions, and most states have
far fewer. In ALFWorld it has 83, of which 23 are in use.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from llmprior_jax.types import ActionPrior

# With so few slots all are computed: to part those in use takes its time, too.
_FEW = 16
_AT_ONCE = 256

Function = Callable[[Any, jax.Array], jax.Array]
"""`(params, f32[..., D]) -> f32[...]`, of each row by itself."""


def of_actions(
    function: Function, params: Any, prior: ActionPrior, taken: jax.Array | None = None
) -> jax.Array:
    """A function of the features of all actions of B states, computed for those that exist.

    It can be differentiated in `params`, in reverse; features are constants.

    Args:
      function: what is computed.
      params: its parameters, a pytree of arrays.
      prior: of the states; `log_probs` f32[B, A] are -inf where there is no action.
      taken: i32[B], an action of each state that counts as one, whatever the prior says of it.

    Returns:
      f32[B, A]; 0 in slots without an action, unless there are so few that all are computed.
    """
    *shape, num_features = prior.features.shape
    features = jax.lax.stop_gradient(prior.features)
    if shape[-1] <= _FEW:
        return function(params, features)
    exists = jnp.isfinite(prior.log_probs)
    if prior.others is not None:
        exists |= jnp.any(jnp.isfinite(prior.others), axis=-2)
    if taken is not None:
        exists |= jnp.arange(shape[-1]) == taken[..., None]
    there = exists.reshape(-1)
    # Those that exist come first, then places beyond all, with which the last part is filled up.
    number = jnp.where(there, jnp.cumsum(there) - 1, len(there) + _AT_ONCE)
    order = jnp.full(len(there) + _AT_ONCE, len(there))
    order = order.at[number].set(jnp.arange(len(there)), mode="drop")
    num_parts = -(-jnp.sum(there) // _AT_ONCE)
    values = _in_parts(function, params, features.reshape(-1, num_features), order, num_parts)
    return jnp.where(exists, values.reshape(shape), 0.0)


def _compute(
    function: Function, params: Any, features: jax.Array, order: jax.Array, num_parts: jax.Array
) -> jax.Array:
    """Values f32[N] of the rows of features [N, D] that come first in an order, 0 of the others."""

    def compute(part: jax.Array, values: jax.Array) -> jax.Array:
        place = _places(order, part)
        return values.at[place].set(function(params, features[place]), mode="drop")

    return jax.lax.fori_loop(0, num_parts, compute, jnp.zeros(len(features)))


def _forward(
    function: Function, params: Any, features: jax.Array, order: jax.Array, num_parts: jax.Array
) -> tuple[jax.Array, Any]:
    values = _compute(function, params, features, order, num_parts)
    return values, (params, features, order, num_parts)


def _backward(function: Function, saved: Any, of_values: jax.Array) -> tuple[Any, ...]:
    """The cotangents of parameters; of all else there are none."""
    params, features, order, num_parts = saved

    def add(part: jax.Array, total: Any) -> Any:
        place = _places(order, part)
        pull = jax.vjp(lambda params: function(params, features[place]), params)[1]
        (of_params,) = pull(of_values.at[place].get(mode="fill", fill_value=0.0))
        return jax.tree.map(jnp.add, total, of_params)

    zeros = jax.tree.map(jnp.zeros_like, params)
    return jax.lax.fori_loop(0, num_parts, add, zeros), None, None, None


def _places(order: jax.Array, part: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(order, (part * _AT_ONCE,), (_AT_ONCE,))


# A loop whose length is not known beforehand has no reverse-mode derivative of its own.
_in_parts: Any = jax.custom_vjp(_compute, nondiff_argnums=(0,))
_in_parts.defvjp(_forward, _backward)
