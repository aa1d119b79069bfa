"""What is computed of actions, without what states have no actions for.

An environment has as many slots for actions as its largest state has actions, and most states have
far fewer. In ALFWorld it has 83, of which 23 are in use.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llmprior_jax.types import ActionPrior

# With so few slots all are computed: to part those in use takes its time, too.
_FEW = 16
_AT_ONCE = 256


def of_actions(function: Callable[[jax.Array], jax.Array], prior: ActionPrior) -> jax.Array:
    """A function of the features of all actions of B states, computed for those that exist.

    It cannot be differentiated in reverse.

    Args:
      function: `f32[..., D] -> f32[...]`, of each row by itself.
      prior: of the states; `log_probs` f32[B, A] are -inf where there is no action.

    Returns:
      f32[B, A]; 0 in slots without an action, unless there are so few that all are computed.
    """
    *shape, num_features = prior.features.shape
    if shape[-1] <= _FEW:
        return function(prior.features)
    exists = jnp.isfinite(prior.log_probs)
    if prior.others is not None:
        exists |= jnp.any(jnp.isfinite(prior.others), axis=-2)
    features = prior.features.reshape(-1, num_features)
    there = exists.reshape(-1)
    # Those that exist come first; the last part is filled up with places beyond all.
    order = jnp.argsort(~there, stable=True)
    order = jnp.pad(order, (0, _AT_ONCE), constant_values=len(features))

    def compute(part: jax.Array, values: jax.Array) -> jax.Array:
        place = jax.lax.dynamic_slice(order, (part * _AT_ONCE,), (_AT_ONCE,))
        return values.at[place].set(function(features[place]), mode="drop")

    num_parts = -(-jnp.sum(there) // _AT_ONCE)
    values = jax.lax.fori_loop(0, num_parts, compute, jnp.zeros(len(features)))
    return jnp.where(exists, values.reshape(shape), 0.0)
