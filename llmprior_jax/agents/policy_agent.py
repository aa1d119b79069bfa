"""The interface of agents whose policy is a language model: pure functions over rows of tokens.

Agents that learn Q see a state as an `ActionPrior` (`agent`). An agent whose policy is a language
model is given what that model reads, as arrays, and learns from rollouts of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.agents.agent import AgentState, Metrics
from llmprior_jax.types import ActionPrior


class States(NamedTuple):
    """The R states that are known.

    Examples:
      >>> states = agents.States(rows=jnp.zeros((5, 7)), prior_log_probs=jnp.zeros((5, 3)))
      >>> len(states.prior_log_probs)  # R
      5

    Attributes:
      rows: [R, ...], what the policy reads of them, as `LanguagePolicy.read` gives it.
      prior_log_probs: f32[R, A], log p(a|s), `-inf` where no action is.
      other_log_probs: f32[R, J, A], of J further priors (`ActionPrior.others`); None is none.
    """

    rows: Any
    prior_log_probs: jax.Array
    other_log_probs: jax.Array | None = None


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
    """A learner whose policy is a language model, as pure functions.

    Examples:
      >>> agents.PolicyAgent._fields
      ('init', 'policy', 'update', 'prior')

    Attributes:
      init: `key -> state`.
      policy: `(state, frozen, rows of B states) -> (log_probs f32[B, A], values f32[B])`; `frozen`
        is that of the `LanguagePolicy`.
      update: `(state, frozen, key, States, Rollout) -> (state, metrics)`, all epochs of learning
        from a rollout.
      prior: `(state, ActionPrior of one state) -> f32[A]`, the prior that it is drawn to, as far as
        it trusts those that it is given.
    """

    init: Callable[[jax.Array], AgentState]
    policy: Callable[[AgentState, Any, Any], tuple[jax.Array, jax.Array]]
    update: Callable[[AgentState, Any, jax.Array, States, Rollout], tuple[AgentState, Metrics]]
    prior: Callable[[AgentState, ActionPrior], jax.Array] = lambda state, prior: prior.log_probs


def advantage_estimates(
    rollout: Rollout, alpha: float, discount: float, gae_lambda: float
) -> jax.Array:
    """Generalized advantages f32[T, N] of the rewards `r_t - alpha KL_t`.

    Where an episode was cut off, the value of its last state stands for what would have followed;
    no advantage flows from one episode into another.

    See "High-Dimensional Continuous Control Using Generalized Advantage Estimation" by Schulman et
    al. (https://arxiv.org/abs/1506.02438).
    """
    cut_off = rollout.truncated & ~rollout.terminated
    rewards = rollout.reward - alpha * rollout.kl + discount * cut_off * rollout.reached_value
    discounts = discount * (1.0 - (rollout.terminated | rollout.truncated))
    values = jnp.concatenate([rollout.value, rollout.last_value[None]])
    errors = rewards + discounts * values[1:] - values[:-1]

    def go_back(later: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, decay = step
        return (advantage := error + decay * later), advantage

    nothing = jnp.zeros_like(rollout.last_value)
    return jax.lax.scan(go_back, nothing, (errors, gae_lambda * discounts), reverse=True)[1]
