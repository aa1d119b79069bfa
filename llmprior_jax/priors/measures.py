"""Measures of a prior: its entropy, what it rules out, and its agreement with demonstrations.

A prior is `log_probs` f[N, A], normalized over the actions of each of N states, `-inf` where there
is no action (NumPy, host side). Everything is in nats.

Example:
  >>> log_probs = np.log([[0.5, 0.25, 0.25]])
  >>> uniform = priors.measures.uniform(log_probs)
  >>> print(priors.measures.entropy(log_probs).round(2), priors.measures.entropy(uniform).round(2))
  [1.04] [1.1]
"""

import numpy as np
import scipy.optimize

# The temperatures that are considered: beyond them a prior is uniform, or all at its likeliest.
_COLDEST, _HOTTEST = 1e-3, 1e3


def uniform(log_probs: np.ndarray) -> np.ndarray:
    """The uniform prior over the same actions, f64[N, A].

    Examples:
      >>> print(np.exp(priors.measures.uniform(np.log([[0.9, 0.1]]))))
      [[0.5 0.5]]
    """
    is_action = np.isfinite(log_probs)
    count = is_action.sum(axis=-1, keepdims=True)
    return np.where(is_action, -np.log(np.maximum(count, 1)), -np.inf)


def entropy(log_probs: np.ndarray) -> np.ndarray:
    """The entropy of each state's prior, f64[N], from 0 (sure) to log A (uniform).

    Examples:
      >>> float(priors.measures.entropy(np.log([[0.5, 0.5]]))[0].round(4))
      0.6931
    """
    log_probs = np.asarray(log_probs, np.float64)
    p = np.exp(log_probs)
    return -np.sum(p * np.where(p > 0, log_probs, 0.0), axis=-1)


def least_likely(log_probs: np.ndarray) -> np.ndarray:
    """The probability of each state's least likely action, f64[N].

    What is all but ruled out is hardly ever tried, so this says how hard a prior is to correct.

    Examples:
      >>> print(priors.measures.least_likely(np.log([[0.75, 0.25], [0.01, 0.99]])))
      [0.25 0.01]
    """
    log_probs = np.asarray(log_probs, np.float64)
    return np.exp(np.where(np.isfinite(log_probs), log_probs, np.inf).min(axis=-1))


def length_slope(log_probs: np.ndarray, num_tokens: np.ndarray) -> float:
    """How much an action's log-probability changes with each token that its text is longer by.

    The slope of a regression within states (each has an intercept of its own, a fixed effect), so
    that only actions of one list are compared. Below 0, the prior favors short texts: a text of one
    token more gets `exp(slope)` times the probability. A uniform prior has 0.

    Examples:
      >>> slope = priors.measures.length_slope(np.log([[0.8, 0.2]]), np.array([[1, 3]]))
      >>> f"{np.exp(slope):.2f}"  # Two tokens more, a quarter of the probability.
      '0.50'

    Args:
      log_probs: f[N, A].
      num_tokens: i[N, A], tokens of each action; of no account where no action is.

    Returns:
      Nats per token; NaN where no state has actions of different lengths.
    """
    is_action = np.isfinite(log_probs)
    lengths = _centered(np.asarray(num_tokens, np.float64), is_action)
    scores = _centered(np.asarray(log_probs, np.float64), is_action)
    spread = np.sum(lengths**2)
    return float(np.sum(lengths * scores) / spread) if spread > 0 else float("nan")


def log_likelihood(
    log_probs: np.ndarray, action: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    """Log-probability of what was done in each state under the prior at a temperature, f64[N].

    Examples:
      >>> log_probs, done = np.log([[0.8, 0.2]]), np.array([1])
      >>> cold, hot = (priors.measures.log_likelihood(log_probs, done, t) for t in (1.0, 2.0))
      >>> print(np.exp(cold), np.exp(hot).round(4))
      [0.2] [0.3333]

    Args:
      log_probs: f[N, A], at temperature 1; a state may come more than once.
      action: i[N], what was done.
      temperature: T > 0; the prior is proportional to `p ** (1 / T)`, and uniform where T is
        infinite.
    """
    if np.isinf(temperature):
        log_probs, temperature = uniform(log_probs), 1.0
    scaled = np.asarray(log_probs, np.float64) / temperature
    done = np.take_along_axis(scaled, np.asarray(action)[:, None], axis=-1)[:, 0]
    return done - np.logaddexp.reduce(scaled, axis=-1)


def best_temperature(log_probs: np.ndarray, action: np.ndarray) -> float:
    """The temperature at which what was done is likeliest.

    In 1 / T the log-likelihood is concave (its derivative, the score of what was done less its
    expectation, falls), so there is one best, found where the derivative is 0.

    Examples:
      >>> done = np.array([0, 0, 0, 1])  # of odds of 4 : 1, which demonstrators have as 3 : 1
      >>> log_probs = np.log(np.tile([0.8, 0.2], (4, 1)))
      >>> f"{priors.measures.best_temperature(log_probs, done):.4f}"  # log 4 / log 3
      '1.2619'

    Args:
      log_probs: f[N, A], at temperature 1.
      action: i[N], what was done.

    Returns:
      From 0.001 to 1000: infinite if the uniform prior is better than any of these, 0.001 if the
      prior cannot be too sure; NaN if the prior gives something that was done no probability.
    """
    log_probs = np.asarray(log_probs, np.float64)
    done = np.take_along_axis(log_probs, np.asarray(action)[:, None], axis=-1)[:, 0]
    if not np.isfinite(done).all():
        return float("nan")
    finite = np.where(np.isfinite(log_probs), log_probs, 0.0)

    def derivative(inverse: float) -> float:
        scaled = inverse * log_probs
        p = np.exp(scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True))
        return float(np.mean(done - np.sum(p * finite, axis=-1)))

    if derivative(1 / _HOTTEST) <= 0:
        return float("inf")
    if derivative(1 / _COLDEST) >= 0:
        return _COLDEST
    inverse = scipy.optimize.root_scalar(derivative, bracket=(1 / _HOTTEST, 1 / _COLDEST)).root
    return float(1 / inverse)


def _centered(values: np.ndarray, is_action: np.ndarray) -> np.ndarray:
    """Values less their mean over each state's actions, 0 where no action is."""
    kept = np.where(is_action, values, 0.0)
    count = np.maximum(is_action.sum(axis=-1, keepdims=True), 1)
    return np.where(is_action, kept - kept.sum(axis=-1, keepdims=True) / count, 0.0)
