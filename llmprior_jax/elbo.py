"""Policy learning with a prior over actions: the evidence lower bound, and a PPO loss for it.

Variational inference makes the policy itself the posterior: it maximizes the evidence lower bound

    ELBO = E_pi[ sum_t g^t (r_t - alpha KL(pi(.|s_t) || p(.|s_t))) ],

return minus the price of departing from the prior. In GFlan-Prior the policy is a language model
itself, trained by PPO with that divergence in its objective; with a uniform prior it is PPO with an
entropy bonus.

From "Efficient Reinforcement Learning with Large Language Model Priors" (Yan et al., ICLR 2025,
https://arxiv.org/abs/2410.07927). What is said in `llmprior_jax.posterior` about `-inf` entries,
padding, dtypes and `alpha` holds here too.
"""

import chex
import jax
import jax.numpy as jnp

from llmprior_jax.posterior import as_alpha, kl_to_prior, normalize


def evidence_lower_bound(
    rewards: jax.Array,
    discounts: jax.Array | float,
    kls: jax.Array,
    alpha: jax.Array | float,
) -> jax.Array:
    """The evidence lower bound of one trajectory, `sum_t g^t (r_t - alpha KL_t)`.

    The factor g^t is the product of the discounts before step t. So a discount of 0 (termination)
    ends the sum: rewards and divergences after it have no influence, even if infinite or NaN.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> rewards = jnp.array([0.0, 1.0, 7.0])
      >>> discounts = jnp.array([0.9, 0.0, 0.9])  # the episode ends after the second step
      >>> value = evidence_lower_bound(rewards, discounts, jnp.array([0.5, 0.0, 3.0]), 0.1)
      >>> print(f"{value:.4f}")
      0.8500

    Args:
      rewards: float[T], r_t.
      discounts: float[T], `g * (1 - terminated)` after step t, or float[] for all steps.
      kls: float[T], `KL(pi(.|s_t) || p(.|s_t))` in nats, from `kl_to_prior`.
      alpha: float[], temperature > 0, reward per nat.

    Returns:
      f32[], the bound, in units of the reward.

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([rewards, discounts, kls, alpha], [1, {0, 1}, 1, 0])
    chex.assert_type([rewards, discounts, kls], float)
    chex.assert_equal_shape([rewards, kls])

    dtype = jnp.promote_types(jnp.result_type(rewards, kls), jnp.float32)
    discounts = jnp.broadcast_to(jnp.asarray(discounts).astype(dtype), rewards.shape)
    weights = jnp.cumprod(jnp.concatenate([jnp.ones(1, dtype), discounts]))[:-1]
    counts = weights != 0
    kls = jnp.where(counts, kls, 0.0)
    return jnp.sum(weights * (jnp.where(counts, rewards, 0.0) - as_alpha(alpha, dtype) * kls))


def clipped_surrogate_loss(
    policy_log_probs: jax.Array,
    behavior_log_prob: jax.Array | float,
    action: jax.Array | int,
    advantage: jax.Array | float,
    clip_epsilon: float = 0.2,
) -> jax.Array:
    """PPO's policy loss of one time step, without a KL penalty.

        loss = -min(rho A, clip(rho, 1 - eps, 1 + eps) A),  rho = pi(a|s) / behavior(a|s)

    No gradient flows into `advantage` and `behavior_log_prob`.

    See "Proximal Policy Optimization Algorithms" by Schulman et al.
    (https://arxiv.org/abs/1707.06347).

    Examples:
      >>> policy = jnp.log(jnp.array([0.75, 0.25]))
      >>> print(f"{clipped_surrogate_loss(policy, jnp.log(0.5), 0, 1.0):.4f}")
      -1.2000

    Args:
      policy_log_probs: float[A], log pi(a|s), `-inf` where no action is.
      behavior_log_prob: float[], log-probability that `action` had when it was taken.
      action: int[], the action a that was taken.
      advantage: float[], A, the advantage of that action.
      clip_epsilon: eps, how far rho may move from 1 before the incentive ends.

    Returns:
      f32[], the loss; 0 for a state without actions.
    """
    chex.assert_rank([policy_log_probs, behavior_log_prob, action, advantage], [1, 0, 0, 0])
    chex.assert_type(
        [policy_log_probs, behavior_log_prob, action, advantage], [float, float, int, float]
    )

    log_prob = normalize(policy_log_probs)[action]
    # In padding no action was taken: neither ratio nor advantage mean anything.
    taken = (log_prob != -jnp.inf) & (behavior_log_prob != -jnp.inf)
    behavior_log_prob, advantage = jax.lax.stop_gradient((behavior_log_prob, advantage))
    ratio = jnp.exp(jnp.where(taken, log_prob - behavior_log_prob, 0.0))
    advantage = jnp.where(taken, advantage, 0.0)
    # Equal to the minimum of the two products, without its tie at a ratio of 1.
    clipped_ratio = jnp.where(
        advantage >= 0,
        jnp.minimum(ratio, 1.0 + clip_epsilon),
        jnp.maximum(ratio, 1.0 - clip_epsilon),
    )
    return -clipped_ratio * advantage


def elbo_policy_loss(
    policy_log_probs: jax.Array,
    behavior_log_prob: jax.Array | float,
    action: jax.Array | int,
    advantage: jax.Array | float,
    prior_log_probs: jax.Array,
    alpha: jax.Array | float,
    clip_epsilon: float = 0.2,
) -> jax.Array:
    """The policy loss of GFlan-Prior for one time step: PPO's clipped surrogate plus alpha KL.

        loss = -min(rho A, clip(rho, 1 - eps, 1 + eps) A) + alpha KL(pi(.|s) || p(.|s)),
        rho = pi(a|s) / behavior(a|s)

    The gradient of the ELBO contains the KL penalty twice. That of this step is the exact
    divergence above. That of later steps belongs in the advantage: estimate the advantage (say, by
    GAE) from the rewards `r_t - alpha KL_t`. With such advantages, on-policy and weighted by g^t,
    the gradient of this loss is that of the negative ELBO.

    No gradient flows into `advantage` and `behavior_log_prob`.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927) and "Proximal Policy Optimization Algorithms" by Schulman et
    al. (https://arxiv.org/abs/1707.06347).

    Examples:
      >>> policy = jnp.log(jnp.array([0.75, 0.25]))
      >>> prior = jnp.log(jnp.array([0.5, 0.5]))
      >>> value = elbo_policy_loss(policy, jnp.log(0.5), 0, 1.0, prior, 0.1)
      >>> print(f"{value:.4f}")
      -1.1869

    Args:
      policy_log_probs: float[A], log pi(a|s), `-inf` where no action is.
      behavior_log_prob: float[], log-probability that `action` had when it was taken.
      action: int[], the action a that was taken.
      advantage: float[], A, the advantage of that action.
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      alpha: float[], temperature > 0, reward per nat.
      clip_epsilon: eps, how far rho may move from 1 before the incentive ends.

    Returns:
      f32[], the loss; 0 for a state without actions. `+inf` if the policy has mass outside the
      prior's support (see `kl_to_prior`).

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([prior_log_probs, alpha], [1, 0])
    chex.assert_type(prior_log_probs, float)

    surrogate = clipped_surrogate_loss(
        policy_log_probs, behavior_log_prob, action, advantage, clip_epsilon
    )
    divergence = kl_to_prior(policy_log_probs, prior_log_probs)
    return surrogate + as_alpha(alpha, divergence.dtype) * divergence
