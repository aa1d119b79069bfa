"""Value learning with a prior over actions: Bellman targets and losses of DQN-Prior and CQL-Prior.

Q-learning backs up the best next action. With a prior p(a|s) and a temperature alpha, the backup is
taken over the posterior instead (see `llmprior_jax.posterior`), so that actions the prior rules out
are never bootstrapped from, and unlikely ones only as far as their value makes up for it. A uniform
prior over the admissible actions with `backup="max"` gives back Q-learning and CQL.

From "Efficient Reinforcement Learning with Large Language Model Priors" (Yan et al., ICLR 2025,
https://arxiv.org/abs/2410.07927). What is said in `llmprior_jax.posterior` about `-inf` entries,
padding, dtypes and `alpha` holds here too.
"""

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp

from llmprior_jax.posterior import normalize, posterior_log_probs, soft_value

Backup = Literal["posterior", "soft", "max"]


def posterior_bellman_target(
    reward: jax.Array | float,
    discount: jax.Array | float,
    next_q_values: jax.Array,
    next_prior_log_probs: jax.Array,
    alpha: jax.Array | float,
    backup: Backup = "posterior",
    selector_q_values: jax.Array | None = None,
) -> jax.Array:
    """The Bellman target `y = r + discount * backup(next_q, next_prior)` of DQN-Prior.

    With pi the posterior of the selector (`selector_q_values`, or `next_q_values` if there is
    none) under the prior p of the next state, the backup is one of

    - "posterior": `E_pi[Q]`, the expected value of acting by the posterior;
    - "soft": `E_pi[Q] - alpha KL(pi || p)`, which without a separate selector is the soft value
      `alpha log sum_b p(b) exp(Q(b)/alpha)`; its fixed point maximizes return minus alpha KL;
    - "max": Q at the selector's best action within the prior's support; alpha plays no role.

    A separate selector makes it double Q-learning ("Deep Reinforcement Learning with Double
    Q-learning", van Hasselt et al., https://arxiv.org/abs/1509.06461): the online network selects,
    the target network (`next_q_values`) evaluates. With the candidates' `empirical_log_probs` as
    the prior, the backups are over the candidates of the next state.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927). The target is differentiable; the losses stop its gradient.

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5, 0.0]))
      >>> q = jnp.log(jnp.array([2.0, 4.0, 100.0]))
      >>> value = posterior_bellman_target(1.0, 0.5, q, prior, 1.0, backup="max")
      >>> print(f"{value:.3f}")
      1.693
      >>> value = posterior_bellman_target(1.0, 0.5, q, prior, 1.0, backup="soft")
      >>> print(f"{value:.3f}")
      1.549

    Args:
      reward: float[], r.
      discount: float[], `g * (1 - terminated)`; a time limit alone is no termination.
      next_q_values: float[A], Q of the next state.
      next_prior_log_probs: float[A], log p of the next state, `-inf` where no action is.
      alpha: float[], temperature > 0, in units of the Q-values.
      backup: "posterior", "soft" or "max".
      selector_q_values: optional float[A], Q-values that pi (or the maximum) is taken from.

    Returns:
      f32[], the target; the reward alone if the next state has no actions.

    Raises:
      ValueError: if `backup` is unknown, or `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([reward, discount, next_q_values, next_prior_log_probs], [0, 0, 1, 1])
    chex.assert_type([reward, discount, next_q_values, next_prior_log_probs], float)
    chex.assert_equal_shape([next_q_values, next_prior_log_probs])
    if selector_q_values is not None:
        chex.assert_type(selector_q_values, float)
        chex.assert_equal_shape([next_q_values, selector_q_values])
    if backup not in get_args(Backup):
        valid = ", ".join(get_args(Backup))
        raise ValueError(f"backup is {backup!r}; use one of {valid}")

    selector = next_q_values if selector_q_values is None else selector_q_values
    log_p = normalize(next_prior_log_probs)
    exists = log_p != -jnp.inf
    values = jnp.where(exists, next_q_values, 0.0)
    values = values.astype(jnp.promote_types(values.dtype, log_p.dtype))
    # Computed for every backup: it is what checks alpha, and unused results cost nothing under jit.
    policy = jnp.exp(posterior_log_probs(log_p, selector, alpha))

    if backup == "posterior":
        next_value = jnp.sum(policy * values)
    elif backup == "soft":
        # E_pi[Q] - alpha KL(pi || p) without the KL, since the selector's own soft value is
        # E_pi[selector] - alpha KL(pi || p).
        correction = jnp.sum(policy * (values - jnp.where(exists, selector, 0.0)))
        next_value = soft_value(log_p, selector, alpha) + correction
    else:
        next_value = values[jnp.argmax(jnp.where(exists, selector, -jnp.inf))]
    return reward + discount * next_value


def dqn_prior_loss(
    q_values: jax.Array,
    action: jax.Array | int,
    reward: jax.Array | float,
    discount: jax.Array | float,
    next_q_values: jax.Array,
    next_prior_log_probs: jax.Array,
    alpha: jax.Array | float,
    backup: Backup = "posterior",
    selector_q_values: jax.Array | None = None,
) -> jax.Array:
    """The loss of DQN-Prior for one transition: Huber loss of the temporal-difference error.

    The error is `td = y - Q(s,a)` with `y` from `posterior_bellman_target`, through which no
    gradient flows. As in DQN, the loss is linear for errors beyond 1: it is `td^2 / 2` if
    `|td| <= 1` and `|td| - 1/2` otherwise. For the error itself (priorities, or another loss) use
    `posterior_bellman_target(...) - q_values[action]`.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927) and "Human-level control through deep reinforcement
    learning" by Mnih et al. (https://www.nature.com/articles/nature14236).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5, 0.0]))
      >>> q, next_q = jnp.array([0.5, 0.0, 0.0]), jnp.array([0.0, 1.0, 9.0])
      >>> value = dqn_prior_loss(q, 0, 0.0, 0.9, next_q, prior, 1.0, backup="max")
      >>> print(f"{value:.4f}")
      0.0800

    Args:
      q_values: float[A], Q of the state.
      action: int[], the action a that was taken.
      reward: float[], r.
      discount: float[], `g * (1 - terminated)`.
      next_q_values: float[A], Q of the next state, usually of a target network.
      next_prior_log_probs: float[A], log p of the next state, `-inf` where no action is.
      alpha: float[], temperature > 0, in units of the Q-values.
      backup: "posterior", "soft" or "max".
      selector_q_values: optional float[A], see `posterior_bellman_target`.

    Returns:
      f32[], the loss.

    Raises:
      ValueError: if `backup` is unknown, or `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([q_values, action], [1, 0])
    chex.assert_type([q_values, action], [float, int])

    target = posterior_bellman_target(
        reward, discount, next_q_values, next_prior_log_probs, alpha, backup, selector_q_values
    )
    td_error = jax.lax.stop_gradient(target) - q_values[action]
    size = jnp.abs(td_error)
    quadratic = jnp.minimum(size, 1.0)
    return 0.5 * quadratic**2 + (size - quadratic)


def cql_prior_penalty(
    prior_log_probs: jax.Array,
    q_values: jax.Array,
    action: jax.Array | int,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """The conservative penalty of CQL-Prior, `log sum_a p(a|s) exp Q(s,a) - Q(s,a_data)`.

    It lowers Q of actions that the prior prefers, and raises Q of the data's action. With a uniform
    prior it is the penalty of CQL(H), minus the constant log A. An action of the data outside the
    prior's support (say, the support is a set of candidates) is only raised.

    With a temperature t it is `t log sum_a p(a|s) exp(Q(s,a)/t) - Q(s,a_data)`. Its gradient is the
    posterior at t minus the data's action: it lowers what an agent that acts at t would do.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927) and "Conservative Q-Learning for Offline Reinforcement
    Learning" by Kumar et al. (https://arxiv.org/abs/2006.04779).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5]))
      >>> q = jnp.log(jnp.array([2.0, 4.0]))
      >>> value = cql_prior_penalty(prior, q, 0)
      >>> print(f"{value:.4f}")  # log 3 - log 2
      0.4055

    Args:
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      q_values: float[A], Q of the state, finite where an action is and at `action`.
      action: int[], the action of the data.
      temperature: float[], t > 0, in units of the Q-values; 1 is the paper's.

    Returns:
      f32[], the penalty; 0 for a state without actions.

    Raises:
      ValueError: if `temperature` is a Python number that is not positive.
    """
    chex.assert_rank([prior_log_probs, q_values, action], [1, 1, 0])
    chex.assert_type([prior_log_probs, q_values, action], [float, float, int])
    chex.assert_equal_shape([prior_log_probs, q_values])

    penalty = soft_value(prior_log_probs, q_values, temperature) - q_values[action]
    return jnp.where(jnp.any(prior_log_probs != -jnp.inf), penalty, 0.0)


def cql_prior_loss(
    prior_log_probs: jax.Array,
    q_values: jax.Array,
    action: jax.Array | int,
    reward: jax.Array | float,
    discount: jax.Array | float,
    next_q_values: jax.Array,
    next_prior_log_probs: jax.Array,
    alpha: jax.Array | float,
    beta: jax.Array | float,
    backup: Backup = "posterior",
    selector_q_values: jax.Array | None = None,
    penalty_temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """The loss of CQL-Prior for one transition: `dqn_prior_loss + beta * cql_prior_penalty`.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5]))
      >>> q = jnp.log(jnp.array([2.0, 4.0]))
      >>> value = cql_prior_loss(prior, q, 0, 0.0, 0.0, q, prior, 1.0, beta=10.0)
      >>> print(f"{value:.4f}")
      4.2949

    Args:
      prior_log_probs: float[A], log p of the state, `-inf` where no action is.
      q_values: float[A], Q of the state.
      action: int[], the action of the data.
      reward: float[], r.
      discount: float[], `g * (1 - terminated)`.
      next_q_values: float[A], Q of the next state, usually of a target network.
      next_prior_log_probs: float[A], log p of the next state, `-inf` where no action is.
      alpha: float[], temperature > 0 of the backup, in units of the Q-values.
      beta: float[], weight of the penalty, >= 0.
      backup: "posterior", "soft" or "max".
      selector_q_values: optional float[A], see `posterior_bellman_target`.
      penalty_temperature: float[], see `cql_prior_penalty`.

    Returns:
      f32[], the loss.

    Raises:
      ValueError: if `backup` is unknown, or a temperature is a Python number that is not
        positive.
    """
    td_loss = dqn_prior_loss(
        q_values,
        action,
        reward,
        discount,
        next_q_values,
        next_prior_log_probs,
        alpha,
        backup,
        selector_q_values,
    )
    penalty = cql_prior_penalty(prior_log_probs, q_values, action, penalty_temperature)
    return td_loss + beta * penalty
