"""What an agent is whose policy reads the states itself: pure functions over rows of tokens.

Agents that learn a value see a state as an `ActionPrior` (`agent`). An agent whose policy is a
language model is handed what that model reads, as arrays, and learns from rollouts of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rlax

from llmprior_jax.agents.agent import AgentState, Metrics


class States(NamedTuple):
    """The R states that are known: `rows` [R, ...], what the policy reads of them, and
    `prior_log_probs` f32[R, A].

    Examples:
      >>> states = agents.States(rows=jnp.zeros((5, 7)), prior_log_probs=jnp.zeros((5, 3)))
      >>> len(states.prior_log_probs)  # R
      5
    """

    rows: Any
    prior_log_probs: jax.Array


class Rollout(NamedTuple):
    """T steps in N environments by one policy. All are [T, N] but `last_value`.

    Examples:
      >>> names = agents.Rollout._fields
      >>> rollout = agents.Rollout(*(jnp.zeros((4, 2)) for _ in names[:-1]), jnp.zeros(2))
      >>> rollout.reward.shape, rollout.last_value.shape  # [T, N], [N]
      ((4, 2), (2,))

    Attributes:
      row: i32, index of the state in `States`.
      action: i32, what was done.
      log_prob: f32, its log-probability then.
      kl: f32, divergence of the policy from the prior then, in nats.
      value: f32, the estimated value of the state then.
      reward: f32.
      terminated: bool, the episode ended for good.
      truncated: bool, it was cut off by the time limit.
      reached_value: f32, value of the state in which it was cut off (0 elsewhere).
      last_value: f32[N], value of the states after the last step.
    """

    row: jax.Array
    action: jax.Array
    log_prob: jax.Array
    kl: jax.Array
    value: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    reached_value: jax.Array
    last_value: jax.Array


class PolicyAgent(NamedTuple):
    """A learner whose policy reads the states itself, as pure functions.

    Examples:
      >>> agents.PolicyAgent._fields
      ('init', 'policy', 'update')

    Attributes:
      init: `key -> state`.
      policy: `(state, frozen, rows of B states) -> (log_probs f32[B, A], values f32[B])`; `frozen`
        is that of the `LanguagePolicy`.
      update: `(state, frozen, key, States, Rollout) -> (state, metrics)`, all epochs.
    """

    init: Callable[[jax.Array], AgentState]
    policy: Callable[[AgentState, Any, Any], tuple[jax.Array, jax.Array]]
    update: Callable[[AgentState, Any, jax.Array, States, Rollout], tuple[AgentState, Metrics]]


def advantage_estimates(
    rollout: Rollout, alpha: float, discount: float, gae_lambda: float
) -> jax.Array:
    """Generalized advantages f32[T, N] of the rewards `r_t - alpha KL_t`.

    An episode that was cut off is worth what its last state is worth; nothing flows over its end.
    """
    cut_off = rollout.truncated & ~rollout.terminated
    rewards = rollout.reward - alpha * rollout.kl + discount * cut_off * rollout.reached_value
    discounts = discount * (1.0 - (rollout.terminated | rollout.truncated))
    values = jnp.concatenate([rollout.value, rollout.last_value[None]])
    estimate = jax.vmap(rlax.truncated_generalized_advantage_estimation, (1, 1, None, 1), 1)
    return jnp.asarray(estimate(rewards, discounts, gae_lambda, values))
