"""Prior transforms: uniform mixing, rank reversal.

An action that the prior rules out is neither tried nor bootstrapped from, so a confident wrong
prior can hardly be corrected. Mixed with the uniform distribution it can; a uniform prior stays
uniform, so DQN stays DQN. Reversing a good prior makes the worst possible one, to test an agent
with. `agents.with_prior` gives an agent the transformed prior. (To flatten a prior, use the
temperature of `priors.score`.)

Example:
  >>> prior = ActionPrior(jnp.log(jnp.array([1.0, 0.0001])), jnp.zeros((2, 1)))
  >>> mixed = agents.prior_transforms.mixed_with_uniform(prior, share=0.5)
  >>> print(jnp.exp(mixed.log_probs).round(2))
  [0.75 0.25]
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from llmprior_jax.ranges import SHARE
from llmprior_jax.types import ActionPrior


def mixed_with_uniform(prior: ActionPrior, share: float) -> ActionPrior:
    """`(1 - share) p(a|s) + share / n`, n the number of admissible actions.

    No action is less likely than `share / n`, so Q outweighs the prior as soon as it differs by
    `alpha log(n / share)`.

    Args:
      prior: `log_probs` f32[..., A].
      share: of the uniform distribution, 0 to 1.

    Raises:
      ValueError: the share is not from 0 to 1.
    """
    return prior._replace(log_probs=_mixed(prior.log_probs, share))


def others_mixed_with_uniform(prior: ActionPrior, shares: Sequence[float]) -> ActionPrior:
    """`mixed_with_uniform` for a state's other priors, each with a share of its own.

    Args:
      prior: `others` f32[..., J, A], or None, which stays so: a uniform prior has none.
      shares: J, of the uniform distribution, 0 to 1.

    Raises:
      ValueError: a share is not from 0 to 1.
    """
    if prior.others is None:
        return prior
    mixed = [_mixed(prior.others[..., j, :], share) for j, share in enumerate(shares)]
    return prior._replace(others=jnp.stack(mixed, axis=-2))


def reversed_order(prior: ActionPrior) -> ActionPrior:
    """The same probabilities in reverse: the likeliest action gets the smallest, and so on.

    Args:
      prior: `log_probs` f32[..., A].
    """
    admissible, count = _admissible(prior.log_probs)
    # Actions that do not exist sort first, so the k-th of n admissible ones is at A - n + k.
    order = jnp.argsort(prior.log_probs, axis=-1)
    rank = jnp.argsort(order, axis=-1)
    size = prior.log_probs.shape[-1]
    mirrored = jnp.clip(2 * size - count - 1 - rank, 0, size - 1)
    ascending = jnp.take_along_axis(prior.log_probs, order, axis=-1)
    swapped = jnp.take_along_axis(ascending, mirrored, axis=-1)
    return prior._replace(log_probs=jnp.where(admissible, swapped, -jnp.inf))


def _mixed(log_probs: jax.Array, share: float) -> jax.Array:
    """One prior f32[..., A] with a share of the uniform distribution."""
    SHARE.check("the share of the uniform distribution", share)
    admissible, count = _admissible(log_probs)
    mixed = (1 - share) * jnp.exp(log_probs) + share * admissible / count
    return jnp.where(admissible, jnp.log(mixed), -jnp.inf)


def _admissible(log_probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which actions there are, bool[..., A], and how many (at least 1), i32[..., 1]."""
    admissible = jnp.isfinite(log_probs)
    return admissible, jnp.maximum(jnp.sum(admissible, axis=-1, keepdims=True), 1)
