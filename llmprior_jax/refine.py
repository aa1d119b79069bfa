"""Priors that learn: how far each is to be trusted, and what a language model is to say next.

A language model's prior may help or harm, and nobody knows beforehand. Here several priors
of one state, the *members*, are weighed against one another; the uniform prior is usually one of
them. Their mixture `p_w(a|s) = sum_m w_m p_m(a|s)` is a prior like any other, so everything in
`posterior`, `bellman` and `elbo` holds for it. Two ways to learn the weights are here.

- *By states* (`responsibilities`). The evidence lower bound `E_pi[log p_w(a|s)] + ...` is maximized
  over w by expectation-maximization: a member's new weight is its mean responsibility for what the
  policy does. This is the M-step of variational EM (Neal & Hinton, 1998), for the weights alone.
- *By episodes* (`Returns`, `trust`). An agent plays each episode with one member as its prior, all
  learn from all episodes, and a member is drawn as often as it is likely to be the best: Thompson
  sampling (Thompson, 1933; Russo et al., 2018, arXiv 1707.02038). A member that rules out what is
  good cannot hide behind what the others found, as it could in a mixture of single steps, and a
  good one plays whole episodes its own way.

Which is best is judged by the probability of reaching the best return seen lately, the *probability
of improvement* of Bayesian optimization (Kushner, 1964), with normal returns. Their mean would
favor a prior that does nothing over one that makes mistakes but sometimes succeeds, and only from
successes is something learned.

The prior of a language model is itself refined by `distillation_loss`: the same M-step for its own
parameters, as in variational EM for policies (MPO, Abdolmaleki et al., 2018, arXiv 1806.06920) and
for agents that are language models (Yan et al., 2025, arXiv 2509.26340).

As in `posterior`, functions are pure and unbatched, and `-inf` means "no such action".
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from llmprior_jax.posterior import normalize

__all__ = [
    "Returns",
    "add_returns",
    "distillation_loss",
    "mixed_log_probs",
    "no_returns",
    "responsibilities",
    "trust",
]

# What a member is thought to do before it has played: so many episodes as all members play them.
_PRIOR_EPISODES = 1.0
# The share of its initial weight that a member never loses: what is best may change with learning.
_DOUBT = 0.03
# Points at which the integral over a member's score is taken.
_QUANTILES = 64
# Returns that differ by less than this are the same.
_SMALLEST_DEVIATION = 1e-4


class Returns(NamedTuple):
    """The returns of the latest W episodes, and who played them.

    Examples:
      >>> refine.no_returns(window=4).member
      Array([-1, -1, -1, -1], dtype=int32)

    Attributes:
      value: f32[W].
      member: i32[W], -1 where there is no episode yet.
      number: i32[], episodes so far.
    """

    value: jax.Array
    member: jax.Array
    number: jax.Array


def no_returns(window: int) -> Returns:
    """Room for the returns of `window` episodes.

    Examples:
      >>> int(refine.no_returns(window=4).number)
      0

    Raises:
      ValueError: the window is not >= 1.
    """
    if window < 1:
        raise ValueError(f"window is {window}; remember the returns of at least 1 episode")
    return Returns(jnp.zeros(window), jnp.full(window, -1, jnp.int32), jnp.int32(0))


def add_returns(returns: Returns, value: jax.Array, member: jax.Array, ended: jax.Array) -> Returns:
    """Remembers the episodes that have ended, the last W of them, in the place of the oldest.

    Examples:
      >>> value, member = jnp.array([0.5, 9.0, 1.0]), jnp.array([0, 0, 1])
      >>> ended = jnp.array([True, False, True])
      >>> refine.add_returns(refine.no_returns(window=3), value, member, ended).value
      Array([0.5, 1. , 0. ], dtype=float32)

    Args:
      returns: those so far, of W episodes.
      value: float[N], the returns of N episodes.
      member: int[N], who played them.
      ended: bool[N], which of them count.
    """
    chex.assert_rank([value, member, ended], 1)
    chex.assert_equal_shape([value, member, ended])
    window = returns.value.shape[0]

    rank = jnp.cumsum(ended)
    kept = ended & (rank[-1] - rank < window)
    slot = jnp.where(kept, (returns.number + rank - 1) % window, window)
    return Returns(
        returns.value.at[slot].set(value.astype(jnp.float32), mode="drop"),
        returns.member.at[slot].set(member.astype(jnp.int32), mode="drop"),
        returns.number + jnp.sum(ended, dtype=jnp.int32),
    )


def trust(returns: Returns, initial: jax.Array) -> jax.Array:
    """The weight of each member: how likely it is to be the best one, times its initial weight.

    A little of its initial weight always stays, since learning changes what a member can do.

    A member whose returns have the mean m and the deviation d reaches the best return b seen lately
    with a probability that falls with `(b - m) / d`, whose standard error after n episodes is
    `sqrt((1 + z^2 / 2) / n)`. One episode that all members play alike is counted for each, so that
    one that has not played yet is an open question.

    Examples:
      >>> initial = jnp.array([0.5, 0.5])
      >>> print(refine.trust(refine.no_returns(4), initial))
      [0.5 0.5]
      >>> value, member = jnp.array([1.0, 0.9, 0.1, 0.0]), jnp.array([1, 1, 0, 0])
      >>> returns = refine.add_returns(refine.no_returns(4), value, member, jnp.ones(4, bool))
      >>> bool(refine.trust(returns, initial)[1] > 0.8)
      True

    Args:
      returns: of the latest episodes.
      initial: float[M], weights to begin with, which sum to 1.

    Returns:
      f32[M], weights that sum to 1.
    """
    chex.assert_rank(initial, 1)

    played = returns.member[:, None] == jnp.arange(initial.shape[0])
    value = returns.value
    of_all = _mean_and_variance(value, returns.member >= 0)
    count = jnp.sum(played, axis=0)
    mean, variance = jax.vmap(_mean_and_variance, in_axes=(None, 1))(value, played)
    # Pooled with one episode as all members play them.
    known = count + _PRIOR_EPISODES
    pooled = (count * mean + _PRIOR_EPISODES * of_all[0]) / known
    spread = count * (variance + (mean - pooled) ** 2)
    spread += _PRIOR_EPISODES * (of_all[1] + (of_all[0] - pooled) ** 2)
    deviation = jnp.sqrt(spread / known) + _SMALLEST_DEVIATION
    best = jnp.max(jnp.where(returns.member >= 0, value, -jnp.inf))
    best = jnp.where(jnp.any(returns.member >= 0), best, 0.0)
    score = (pooled - best) / deviation
    weights = initial * _probability_of_the_largest(score, jnp.sqrt((1 + score**2 / 2) / known))
    weights = (1 - _DOUBT) * weights / jnp.sum(weights) + _DOUBT * initial
    return weights.astype(jnp.float32)


def mixed_log_probs(log_probs: jax.Array, weights: jax.Array) -> jax.Array:
    """Log-probabilities of the mixture `sum_m w_m p_m(a|s)`.

    Examples:
      >>> members = jnp.log(jnp.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0]]))
      >>> mixed = refine.mixed_log_probs(members, jnp.array([0.5, 0.5]))
      >>> print(np.round(np.exp(mixed), 2))
      [0.7 0.3 0. ]

    Args:
      log_probs: float[M, A], of each member, `-inf` where no action is.
      weights: float[M], which sum to 1.

    Returns:
      f32[A], `-inf` where no member has an action.
    """
    chex.assert_rank([log_probs, weights], [2, 1])
    chex.assert_type([log_probs, weights], float)
    chex.assert_equal_shape_prefix([log_probs, weights], 1)

    joint = jax.vmap(normalize)(log_probs) + jnp.log(weights)[:, None]
    # The derivative of a sum of nothing would be NaN.
    exists = jnp.any(joint != -jnp.inf, axis=0)
    mixed = jax.nn.logsumexp(jnp.where(exists, joint, 0.0), axis=0)
    return jnp.where(exists, mixed, -jnp.inf)


def responsibilities(
    policy_log_probs: jax.Array, log_probs: jax.Array, weights: jax.Array
) -> jax.Array:
    """How much each member has to do with what a policy does in a state.

    `E_pi[w_m p_m(a) / p_w(a)]`, the posterior probability that the action came from member m. Their
    mean over states is the weight that maximizes `E_pi[log p_w(a|s)]` next (one step of
    expectation-maximization, which never lowers it). Where pi is the posterior `p_w(a) exp(Q(a) /
    alpha) / Z`, they are proportional to `w_m sum_a p_m(a) exp(Q(a) / alpha)`: the members' weights
    times their evidence.

    Examples:
      >>> members = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
      >>> policy = jnp.log(jnp.array([1.0, 0.0]))
      >>> theirs = refine.responsibilities(policy, members, jnp.array([0.5, 0.5]))
      >>> print(np.round(np.asarray(theirs), 2))  # 0.9 : 0.5
      [0.64 0.36]

    Args:
      policy_log_probs: float[A], log pi(a|s), `-inf` where the policy has no mass.
      log_probs: float[M, A], of each member.
      weights: float[M], which sum to 1.

    Returns:
      f32[M], which sum to 1; the weights themselves where there is no action.
    """
    chex.assert_rank([policy_log_probs, log_probs, weights], [1, 2, 1])
    chex.assert_type([policy_log_probs, log_probs, weights], float)

    joint = jax.vmap(normalize)(log_probs) + jnp.log(weights)[:, None]
    policy = jnp.exp(normalize(policy_log_probs))
    total = mixed_log_probs(log_probs, weights)
    there = (total != -jnp.inf) & (policy > 0)
    share = jnp.where(there, jnp.exp(joint - jnp.where(there, total, 0.0)), 0.0)
    return jnp.where(jnp.any(there), share @ jnp.where(there, policy, 0.0), weights)


def distillation_loss(
    log_probs: jax.Array,
    posterior_log_probs: jax.Array,
    old_log_probs: jax.Array,
    leash: float | jax.Array,
) -> jax.Array:
    """How far a prior is from the posterior that it is to become, and from what it was.

    `E_pi[-log p(a|s)] + leash KL(p_old || p)`: the cross-entropy of the posterior, which the M-step
    minimizes, and a price for forgetting. Its minimizer is `(pi + leash p_old) / (1 + leash)`, so
    that a leash of 1 goes half the way. Gradients flow through `log_probs` alone.

    Examples:
      >>> posterior, old = jnp.log(jnp.array([0.9, 0.1])), jnp.log(jnp.array([0.5, 0.5]))
      >>> best = jnp.log(jnp.array([0.8, 0.2]))  # 0.9 and a third of 0.5, divided by 4 / 3
      >>> slope = jax.grad(
      ...     lambda logits: refine.distillation_loss(
      ...         jax.nn.log_softmax(logits), posterior, old, leash=1 / 3
      ...     )
      ... )
      >>> bool(jnp.allclose(slope(best), 0.0, atol=1e-6))
      True

    Args:
      log_probs: float[A], log p(a|s) of the prior that learns, `-inf` where no action is.
      posterior_log_probs: float[A], log pi(a|s), `-inf` where the posterior has no mass.
      old_log_probs: float[A], log p_old(a|s), likewise.
      leash: price of each nat of `KL(p_old || p)`.

    Returns:
      f32[]; infinite where posterior or old prior have mass and the prior has none.
    """
    chex.assert_rank([log_probs, posterior_log_probs, old_log_probs], 1)
    chex.assert_type([log_probs, posterior_log_probs, old_log_probs], float)
    chex.assert_equal_shape([log_probs, posterior_log_probs, old_log_probs])

    posterior, old = jax.lax.stop_gradient((posterior_log_probs, old_log_probs))
    entropy_of_old = _cross_entropy(old, old)
    return _cross_entropy(posterior, log_probs) + leash * (
        _cross_entropy(old, log_probs) - entropy_of_old
    )


def _cross_entropy(of: jax.Array, log_probs: jax.Array) -> jax.Array:
    """`sum_a q(a) (-log p(a))` of log q and log p [A]; what q has no mass in counts nothing."""
    there = of != -jnp.inf
    return -jnp.sum(jnp.where(there, jnp.exp(of) * jnp.where(there, log_probs, 0.0), 0.0))


def _mean_and_variance(value: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the values [W] that count, bool[W]; 0 where none does."""
    number = jnp.maximum(jnp.sum(counts), 1)
    mean = jnp.sum(jnp.where(counts, value, 0.0)) / number
    return mean, jnp.sum(jnp.where(counts, (value - mean) ** 2, 0.0)) / number


def _probability_of_the_largest(mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """Of independent normal variables [M], the probability f32[M] that each is the largest."""
    quantiles = jax.scipy.stats.norm.ppf((jnp.arange(_QUANTILES) + 0.5) / _QUANTILES)
    draws = mean[:, None] + deviation[:, None] * quantiles
    below = jax.scipy.stats.norm.cdf(
        (draws[:, :, None] - mean) / deviation
    )  # [M, quantiles, M], whether the others lie below.
    others = ~jnp.eye(mean.shape[0], dtype=bool)[:, None, :]
    chance = jnp.mean(jnp.prod(jnp.where(others, below, 1.0), axis=-1), axis=-1)
    return chance / jnp.sum(chance)
