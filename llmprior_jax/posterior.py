"""The posterior over actions that a language-model prior and a Q-function define together.

Maximizing `E_pi[Q] - alpha KL(pi || p)` over policies `pi` is Bayesian inference: the prior is
`p(a|s)`, the likelihood of an action is `exp(Q(s,a)/alpha)`, and the maximizer is the posterior

    log pi(a|s) = log p(a|s) + Q(s,a)/alpha - log sum_b p(b|s) exp(Q(s,b)/alpha)
    V(s)        = alpha log sum_b p(b|s) exp(Q(s,b)/alpha)

As alpha -> 0 it is greedy inside the prior's support, as alpha -> infinity it is the prior. From
"Efficient Reinforcement Learning with Large Language Model Priors" (Yan et al., ICLR 2025,
https://arxiv.org/abs/2410.07927); the general picture is that of "Reinforcement Learning and
Control as Probabilistic Inference" (Levine, 2018, https://arxiv.org/abs/1805.00909).

What holds for every function of `posterior`, `bellman` and `elbo`:

- Functions are pure and unbatched: one state, or one transition. `jax.vmap` makes batches.
- A log-probability of `-inf` means "no such action". Such an entry has no influence and gets a
  gradient of exactly zero; the Q-value that stands there may be anything, even NaN.
- A row of `-inf` only (padding of a batch) is a state without actions: its log-probabilities are
  `-inf`, its value, backup, penalty and KL are 0, its sampled action is 0, all its gradients are 0.
- Log-probabilities are normalized over their support before use. Logits serve as well, and the
  rounding of a low-precision prior is not blown up by a large alpha.
- Sums are taken, and results given, in float32 (float64 if an input is), also for bfloat16 inputs.
- `alpha` is a Python number or a traced scalar. A Python number that is not positive raises a
  `ValueError`; a traced one cannot, and turns the result into NaN.
"""

import numbers

import chex
import jax
import jax.numpy as jnp


def posterior_log_probs(
    prior_log_probs: jax.Array, q_values: jax.Array, alpha: jax.Array | float
) -> jax.Array:
    """Log-probabilities of the posterior `pi(a|s)`, proportional to `p(a|s) exp(Q(s,a)/alpha)`.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0]))
      >>> q = jnp.log(jnp.array([1.0, 2.0, 4.0, 8.0]))
      >>> print(jnp.exp(posterior_log_probs(prior, q, 1.0)).round(2))
      [0.25 0.25 0.5  0.  ]

    Args:
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      q_values: float[A], finite where an action is.
      alpha: float[], temperature > 0, in units of the Q-values.

    Returns:
      f32[A], log pi(a|s), `-inf` where no action is.

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([prior_log_probs, q_values, alpha], [1, 1, 0])
    chex.assert_type([prior_log_probs, q_values], float)
    chex.assert_equal_shape([prior_log_probs, q_values])

    log_p, scaled_gaps, _ = _scaled_gaps(prior_log_probs, q_values, alpha)
    return normalize(log_p + scaled_gaps)


def soft_value(
    prior_log_probs: jax.Array, q_values: jax.Array, alpha: jax.Array | float
) -> jax.Array:
    """The value of the posterior, `V(s) = alpha log sum_b p(b|s) exp(Q(s,b)/alpha)`.

    It equals `max_pi E_pi[Q(s,.)] - alpha KL(pi || p)` and lies between `E_p[Q]` (alpha ->
    infinity) and the largest Q-value in the prior's support (alpha -> 0). Its gradient with respect
    to `q_values` is the posterior.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5]))
      >>> q = jnp.log(jnp.array([2.0, 4.0]))
      >>> print(f"{jnp.exp(soft_value(prior, q, 1.0)):.4f}")
      3.0000

    Args:
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      q_values: float[A], finite where an action is.
      alpha: float[], temperature > 0, in units of the Q-values.

    Returns:
      f32[], V(s), in units of the Q-values; 0 for a state without actions.

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([prior_log_probs, q_values, alpha], [1, 1, 0])
    chex.assert_type([prior_log_probs, q_values], float)
    chex.assert_equal_shape([prior_log_probs, q_values])

    log_p, scaled_gaps, best = _scaled_gaps(prior_log_probs, q_values, alpha)
    # With gaps g = (Q - max Q)/alpha <= 0, V = max Q + alpha log sum p exp(g). If alpha is large,
    # that sum is close to 1 and alpha multiplies the rounding of its logarithm, so it is written as
    # 1 + sum p expm1(g). If the sum is small, only the log-sum-exp keeps its digits.
    shortfall = jnp.sum(jnp.exp(log_p) * jnp.expm1(scaled_gaps))
    near_one = shortfall > -0.5
    log_mean_exp = jnp.where(
        near_one,
        jnp.log1p(jnp.where(near_one, shortfall, 0.0)),
        _log_sum_exp(log_p + scaled_gaps),
    )
    return best + as_alpha(alpha, log_p.dtype) * log_mean_exp


def sample_posterior(
    key: jax.Array,
    prior_log_probs: jax.Array,
    q_values: jax.Array,
    alpha: jax.Array | float,
) -> jax.Array:
    """Samples an action from the posterior: direct posterior sampling with the exact prior.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> prior = jnp.log(jnp.array([0.5, 0.5, 0.0]))
      >>> print(sample_posterior(jax.random.key(0), prior, jnp.array([0.0, 1.0, 9.0]), 1e-3))
      1

    Args:
      key: PRNG key.
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      q_values: float[A], finite where an action is.
      alpha: float[], temperature > 0, in units of the Q-values.

    Returns:
      i32[], an action of the prior's support; 0 for a state without actions.

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    log_probs = posterior_log_probs(prior_log_probs, q_values, alpha)
    return jax.random.categorical(key, log_probs).astype(jnp.int32)


def sample_candidates(key: jax.Array, prior_log_probs: jax.Array, k: int) -> jax.Array:
    """Draws `k` candidate actions from the prior, independently and with replacement.

    The paper asks a language model `k` times what it would do, and then picks one of its answers
    (`candidate_log_probs`).

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> prior = jnp.log(jnp.array([0.0, 1.0]))
      >>> print(sample_candidates(jax.random.key(0), prior, 3))
      [1 1 1]

    Args:
      key: PRNG key.
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.
      k: the number K of candidates, a Python integer >= 1.

    Returns:
      i32[K], actions of the prior's support; zeros for a state without actions.

    Raises:
      ValueError: if `k` is less than 1.
    """
    chex.assert_rank(prior_log_probs, 1)
    chex.assert_type(prior_log_probs, float)
    if k < 1:
        raise ValueError(f"k is the number of candidates to draw and must be at least 1, got {k}.")

    log_probs = normalize(prior_log_probs)
    return jax.random.categorical(key, log_probs, shape=(k,)).astype(jnp.int32)


def empirical_log_probs(candidates: jax.Array, num_actions: int) -> jax.Array:
    """Log-probabilities of picking one of the candidates uniformly: `log(count(a) / K)`.

    This replaces the prior where only candidates are known. As `next_prior_log_probs` of
    `posterior_bellman_target` it gives the paper's backups over the candidates of the next state.

    Examples:
      >>> print(jnp.exp(empirical_log_probs(jnp.array([2, 0, 2, 2]), 4)).round(2))
      [0.25 0.   0.75 0.  ]

    Args:
      candidates: int[K], actions in `[0, A)`; one that occurs twice counts twice.
      num_actions: the number A of action slots, a Python integer.

    Returns:
      f32[A], `-inf` for actions that are not among the candidates.
    """
    chex.assert_rank(candidates, 1)
    chex.assert_type(candidates, int)

    # A comparison rather than a scatter: K and A are small, and accelerators scatter slowly.
    counts = jnp.sum(candidates[:, None] == jnp.arange(num_actions), axis=0)
    return jnp.log(counts / candidates.shape[0]).astype(jnp.float32)


def candidate_log_probs(
    candidates: jax.Array, q_values: jax.Array, alpha: jax.Array | float
) -> jax.Array:
    """Log-probabilities of the paper's k-sample policy, given its candidates.

    The policy draws K candidates from the prior and picks one of them with `softmax(Q/alpha)`. It
    is the posterior under the candidates' empirical distribution instead of the prior, and
    therefore tends to the posterior as K grows. An action drawn twice has twice the weight.

    See "Efficient Reinforcement Learning with Large Language Model Priors" by Yan et al.
    (https://arxiv.org/abs/2410.07927).

    Examples:
      >>> q = jnp.log(jnp.array([2.0, 3.0, 100.0]))
      >>> print(jnp.exp(candidate_log_probs(jnp.array([1, 0, 1]), q, 1.0)).round(2))
      [0.25 0.75 0.  ]

    Args:
      candidates: int[K], actions in `[0, A)`, as `sample_candidates` draws them.
      q_values: float[A], finite for the candidates.
      alpha: float[], temperature > 0, in units of the Q-values.

    Returns:
      f32[A], log-probabilities over all actions, `-inf` for those not among the candidates.

    Raises:
      ValueError: if `alpha` is a Python number that is not positive.
    """
    chex.assert_rank([candidates, q_values, alpha], [1, 1, 0])
    chex.assert_type([candidates, q_values], [int, float])

    return posterior_log_probs(empirical_log_probs(candidates, q_values.shape[0]), q_values, alpha)


def kl_to_prior(policy_log_probs: jax.Array, prior_log_probs: jax.Array) -> jax.Array:
    """The exact divergence `KL(pi || p) = sum_a pi(a|s) (log pi(a|s) - log p(a|s))`.

    Examples:
      >>> policy = jnp.log(jnp.array([1.0, 0.0, 0.0]))
      >>> prior = jnp.log(jnp.array([0.25, 0.75, 0.0]))
      >>> print(f"{kl_to_prior(policy, prior):.4f}")  # log 4
      1.3863

    Args:
      policy_log_probs: float[A], log pi(a|s), `-inf` where the policy has no mass.
      prior_log_probs: float[A], log p(a|s), `-inf` where no action is.

    Returns:
      f32[], the divergence in nats, never negative. `+inf`, with zero gradients, if the policy has
      mass outside the prior's support: mask the policy with the prior's support. 0 if the prior or
      the policy has no actions at all (padding).
    """
    chex.assert_rank([policy_log_probs, prior_log_probs], 1)
    chex.assert_type([policy_log_probs, prior_log_probs], float)
    chex.assert_equal_shape([policy_log_probs, prior_log_probs])

    log_pi, log_p = normalize(policy_log_probs), normalize(prior_log_probs)
    in_policy, in_prior = log_pi != -jnp.inf, log_p != -jnp.inf
    both = in_policy & in_prior
    ratio = jnp.where(both, log_pi, 0.0) - jnp.where(both, log_p, 0.0)
    # As both distributions sum to 1, sum pi log(pi/p) = sum [pi log(pi/p) - pi + p]. Each of those
    # terms is >= 0 and second order in the log-ratio, so where pi is close to p the rounding is
    # too, and a large alpha times the divergence keeps its digits. The halves avoid overflow.
    above, below = jnp.where(ratio > 0, ratio, 0.0), jnp.where(ratio > 0, 0.0, ratio)
    terms = jnp.exp(log_pi) * (above + jnp.expm1(-above)) + jnp.exp(log_p) * (
        below * jnp.exp(below) - jnp.expm1(below)
    )
    # Where only the prior has mass, the term is p.
    terms = jnp.where(both, terms, jnp.exp(log_p))
    divergence = jnp.where(jnp.any(in_policy & ~in_prior), jnp.inf, jnp.sum(terms))
    return jnp.where(jnp.any(in_policy) & jnp.any(in_prior), divergence, 0.0)


def normalize(log_probs: jax.Array) -> jax.Array:
    """Normalizes log-probabilities or logits over the actions that exist.

    As `jax.nn.log_softmax`, but in float32 at least, and safe for a row of `-inf` only.

    Args:
      log_probs: float[A], `-inf` where no action is.

    Returns:
      f32[A], `-inf` where no action is.
    """
    chex.assert_rank(log_probs, 1)
    chex.assert_type(log_probs, float)

    log_probs = jnp.asarray(log_probs)
    log_probs = log_probs.astype(jnp.promote_types(log_probs.dtype, jnp.float32))
    # The constant -inf, unlike the difference, passes no gradient on.
    return jnp.where(log_probs == -jnp.inf, -jnp.inf, log_probs - _log_sum_exp(log_probs))


def as_alpha(alpha: jax.Array | float, dtype: jnp.dtype) -> jax.Array:
    """A temperature as an array, checked as far as that is possible.

    Args:
      alpha: float[], the temperature.
      dtype: the floating-point type to compute in.

    Returns:
      dtype[], alpha; NaN if it is not positive, since an array that is traced cannot raise.

    Raises:
      ValueError: if `alpha` is a Python (or NumPy) number that is not a positive, finite float32.
    """
    chex.assert_rank(alpha, 0)

    if isinstance(alpha, numbers.Real):
        limits = jnp.finfo(jnp.float32)
        if not float(limits.tiny) <= alpha <= float(limits.max):
            raise ValueError(
                f"alpha is a temperature and must be positive and finite in float32, got {alpha}. "
                "Use a small alpha such as 1e-8 to act greedily within the prior's support, and a "
                "large one such as 1e8 to follow the prior."
            )
    alpha = jnp.asarray(alpha).astype(dtype)
    return jnp.where(alpha > 0, alpha, jnp.nan)


def _scaled_gaps(
    prior_log_probs: jax.Array, q_values: jax.Array, alpha: jax.Array | float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The normalized prior, `(Q - max Q) / alpha` (0 where no action is), and `max Q` (or 0).

    The differences are taken before the division: where Q/alpha is large, the prior would otherwise
    vanish in its rounding, and with it the odds between actions of equal Q.
    """
    log_p = normalize(prior_log_probs)
    dtype = jnp.promote_types(log_p.dtype, jnp.asarray(q_values).dtype)
    log_p, q_values = log_p.astype(dtype), jnp.asarray(q_values).astype(dtype)
    exists = log_p != -jnp.inf
    # The result does not depend on the reference point, so neither does the gradient.
    best = jax.lax.stop_gradient(jnp.max(jnp.where(exists, q_values, -jnp.inf)))
    best = jnp.where(jnp.any(exists), best, 0.0)
    gaps = jnp.where(exists, q_values, best) - best
    return log_p, gaps / as_alpha(alpha, dtype), best


def _log_sum_exp(log_values: jax.Array) -> jax.Array:
    """`log sum exp`, with 0 and zero gradients where `jax.nn.logsumexp` of nothing gives NaN."""
    top = jax.lax.stop_gradient(jnp.max(log_values))
    top = jnp.where(top == -jnp.inf, 0.0, top)
    total = jnp.sum(jnp.exp(log_values - top))
    return top + jnp.log(jnp.where(total == 0, 1.0, total))
