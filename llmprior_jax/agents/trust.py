"""How far an agent trusts its prior, learned from the results of acting by it.

The prior that an agent acts by and backs up over is a mixture of the priors of one or more language
models, and the uniform prior. The weight of a language model's prior is the agent's trust in it.
The equations are in `llmprior_jax.refine`; this module makes them a part of agents, as
`temperature` does for alpha.

Example:
  >>> agent = agents.dqn_prior(trust=agents.trust.by_episodes())
  >>> prior = ActionPrior(jnp.log(jnp.array([0.9, 0.1])), jnp.zeros((2, 3)))
  >>> state = agent.init(jax.random.key(0), prior)
  >>> print(jnp.exp(agent.policy(state, prior).log_probs).round(2))  # a third of it is the prior's
  [0.63 0.37]
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax import ranges, refine
from llmprior_jax.agents.agent import Metrics, uniform_log_probs
from llmprior_jax.types import ActionPrior

LEARNED, FIXED = "learned", "fixed"


class Trust(NamedTuple):
    """Trust as pure functions.

    Attributes:
      init: `() -> state`.
      weights: `(state) -> f32[M]`, of the members (`members`).
      see_states: `(state, responsibilities f32[M]) -> state`, after each update, with the members'
        mean responsibilities for what the policy does in the states of a batch.
      see_episodes: `(state, value f32[N], member i32[N], ended bool[N]) -> state`, the returns of
        the episodes that have ended, each played with one member; None if steps are mixed instead.
    """

    init: Callable[[], Any]
    weights: Callable[[Any], jax.Array]
    see_states: Callable[[Any, jax.Array], Any]
    see_episodes: Callable[[Any, jax.Array, jax.Array, jax.Array], Any] | None


def choose(name: str, online: bool, num_priors: int = 1) -> Trust | None:
    """Trust as settings have it.

    Args:
      name: "learned" or "fixed".
      online: whether the agent plays while it learns. What it learns from a dataset shows in single
        states only.
      num_priors: how many are weighed.

    Raises:
      ValueError: the name is another, or there are several priors and nothing to weigh them.
    """
    if name not in (LEARNED, FIXED):
        raise ValueError(f"trust is {name!r}; use {LEARNED!r} or {FIXED!r}")
    if name == LEARNED:
        return by_episodes(num_priors=num_priors) if online else by_states(num_priors=num_priors)
    if num_priors > 1:
        raise ValueError(
            f"trust is {FIXED!r}, and there are {num_priors} priors, which are weighed by what "
            f"they lead to; use {LEARNED!r}, or a single prior"
        )
    return None


def by_episodes(odds: float = 0.5, window: int = 128, num_priors: int = 1) -> Trust:
    """Whole episodes are played with the prior or without it, as each proves itself.

    See `refine.trust`.

    Args:
      odds: of each prior at first, where the uniform one has 1. A bad one costs an agent its
        share of the episodes until that is known.
      window: episodes that are judged by, the latest.
      num_priors: how many language models' priors are weighed beside the uniform one: the first
        of an `ActionPrior`, and its `others`.

    Raises:
      ValueError: an argument is out of its range.
    """
    begin = _begin(odds, num_priors)
    refine.no_returns(window)
    return Trust(
        init=lambda: refine.no_returns(window),
        weights=lambda returns: refine.trust(returns, jnp.asarray(begin)),
        see_states=lambda returns, responsibilities: returns,
        see_episodes=refine.add_returns,
    )


def by_states(odds: float = 1.0, rate: float = 0.02, num_priors: int = 1) -> Trust:
    """The weights follow the members' responsibilities for the posterior (`refine`).

    Args:
      odds: of each prior at first, where the uniform one has 1.
      rate: share of the new weights mixed into the old ones per update.
      num_priors: see `by_episodes`.

    Raises:
      ValueError: an argument is out of its range.
    """
    begin = _begin(odds, num_priors)
    ranges.SHARE_NOT_ZERO.check("rate", rate)

    return Trust(
        init=lambda: jnp.asarray(begin, jnp.float32),
        weights=lambda weights: weights,
        see_states=lambda weights, theirs: weights + rate * (theirs - weights),
        see_episodes=None,
    )


def members(prior: ActionPrior) -> jax.Array:
    """The priors that are weighed, f32[..., M, A]: the first, the others, and the uniform one."""
    own = prior.log_probs[..., None, :]
    others = () if prior.others is None else (prior.others,)
    return jnp.concatenate([own, *others, uniform_log_probs(own)], axis=-2)


def mean_responsibilities(
    prior: ActionPrior, policy_log_probs: jax.Array, weights: jax.Array, share: jax.Array
) -> jax.Array:
    """The members' mean responsibilities f32[M] for a policy; without states, their weights.

    Args:
      prior: of B states.
      policy_log_probs: f32[B, A], what is done there.
      weights: f32[M], of the members.
      share: f32[B], of each state in the mean; they sum to 1, or are all 0.
    """
    of_states = jax.vmap(refine.responsibilities, in_axes=(0, 0, None))
    theirs = of_states(policy_log_probs, members(prior), weights)
    return weights + jnp.sum(share[:, None] * (theirs - weights), axis=0)


def in_priors(weights: jax.Array) -> jax.Array:
    """What is not the uniform prior's of the members' weights f32[M]: f32[]."""
    return 1 - weights[-1]


def metrics(weights: jax.Array) -> Metrics:
    """`trust`, the weight of the priors; of several, the weight of each, from `trust_1` on."""
    of_priors = weights[:-1]
    each = {f"trust_{number}": weight for number, weight in enumerate(of_priors, 1)}
    return {"trust": in_priors(weights), **(each if len(of_priors) > 1 else {})}


def _begin(odds: float, num_priors: int) -> tuple[float, ...]:
    """The members' weights to begin with."""
    ranges.POSITIVE.check("odds", odds)
    ranges.WIDTH.check("num_priors", num_priors)
    total = num_priors * odds + 1
    return (*[odds / total] * num_priors, 1 / total)
