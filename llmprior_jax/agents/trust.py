"""How far an agent trusts its prior: as far as what the prior leads to bears it out.

The prior that an agent acts by and backs up over is a mixture of the language model's and of the
uniform one, and the weight of the language model's is the agent's trust. What is learned is in
`llmprior_jax.refine`; here it is made a part of agents, as `temperature` is.

Example:
  >>> agent = agents.dqn_prior(trust=agents.trust.by_episodes())
  >>> prior = ActionPrior(jnp.log(jnp.array([0.9, 0.1])), jnp.zeros((2, 3)))
  >>> state = agent.init(jax.random.key(0), prior)
  >>> print(jnp.exp(agent.policy(state, prior).log_probs))  # half of it is the prior's
  [0.7 0.3]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax import refine
from llmprior_jax.agents.agent import Metrics, uniform_log_probs

# The members of the mixture, in this order.
PRIOR, UNIFORM = 0, 1
LEARNED, FIXED = "learned", "fixed"


class Trust(NamedTuple):
    """Trust as pure functions.

    Attributes:
      init: `() -> state`.
      weights: `(state) -> f32[2]`, of the language model's prior and of the uniform one.
      see_states: `(state, responsibilities f32[2]) -> state`, after each update, with the members'
        mean responsibilities for what the policy does in the states of a batch.
      see_episodes: `(state, value f32[N], member i32[N], ended bool[N]) -> state`, the returns of
        the episodes that have ended, each played with one member; None if steps are mixed instead.
    """

    init: Callable[[], Any]
    weights: Callable[[Any], jax.Array]
    see_states: Callable[[Any, jax.Array], Any]
    see_episodes: Callable[[Any, jax.Array, jax.Array, jax.Array], Any] | None


def choose(name: str, online: bool) -> Trust | None:
    """Trust as settings have it.

    Args:
      name: "learned" or "fixed".
      online: whether the agent plays while it learns. What it learns from a dataset shows in single
        states only.

    Raises:
      ValueError: the name is another.
    """
    if name not in (LEARNED, FIXED):
        raise ValueError(f"trust is {name!r}; use {LEARNED!r} or {FIXED!r}")
    if name == FIXED:
        return None
    return by_episodes() if online else by_states()


def by_episodes(initial: float = 0.5, window: int = 128) -> Trust:
    """Whole episodes are played with the prior or without it, as each proves itself.

    See `refine.trust`.

    Args:
      initial: weight of the prior at first. One that is bad costs an agent this share of its
        episodes until that is known.
      window: episodes that are judged by, the latest.

    Raises:
      ValueError: an argument is out of its range.
    """
    begin = _initial(initial)
    refine.no_returns(window)
    return Trust(
        init=lambda: refine.no_returns(window),
        weights=lambda returns: refine.trust(returns, jnp.asarray(begin)),
        see_states=lambda returns, responsibilities: returns,
        see_episodes=refine.add_returns,
    )


def by_states(initial: float = 0.5, rate: float = 0.02) -> Trust:
    """The weights follow the members' responsibilities for the posterior (`refine`).

    Args:
      initial: weight of the prior at first.
      rate: share of the new weights mixed into the old ones per update.

    Raises:
      ValueError: an argument is out of its range.
    """
    begin = _initial(initial)
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; use a number over 0 and up to 1")

    return Trust(
        init=lambda: jnp.asarray(begin, jnp.float32),
        weights=lambda weights: weights,
        see_states=lambda weights, theirs: weights + rate * (theirs - weights),
        see_episodes=None,
    )


def members(log_probs: jax.Array) -> jax.Array:
    """The language model's prior f32[..., A] and the uniform one, f32[..., 2, A]."""
    return jnp.stack([log_probs, uniform_log_probs(log_probs)], axis=-2)


def mean_responsibilities(
    log_probs: jax.Array, policy_log_probs: jax.Array, weights: jax.Array, share: jax.Array
) -> jax.Array:
    """The members' mean responsibilities f32[2] for a policy; without states, their weights.

    Args:
      log_probs: f32[B, A], the language model's prior of B states.
      policy_log_probs: f32[B, A], what is done there.
      weights: f32[2], of the members.
      share: f32[B], of each state in the mean; they sum to 1, or are all 0.
    """
    of_states = jax.vmap(refine.responsibilities, in_axes=(0, 0, None))
    theirs = of_states(policy_log_probs, members(log_probs), weights)
    return weights + jnp.sum(share[:, None] * (theirs - weights), axis=0)


def metrics(weights: jax.Array) -> Metrics:
    """The weight of the language model's prior, for people."""
    return {"trust": weights[PRIOR]}


def _initial(share: float) -> tuple[float, float]:
    if not 0 < share < 1:
        raise ValueError(f"initial is {share}; use a number between 0 and 1")
    return share, 1 - share
