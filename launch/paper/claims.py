"""What a method saves: how much less of something it needs to be as good as its baseline gets.

A claim such as "90% fewer samples" is a ratio of two points on two curves. Here both are read off
curves of interquartile means over seeds, and the interval is a stratified bootstrap: the seeds of
each point of each curve are drawn anew (Agarwal et al., NeurIPS 2021, arXiv 2108.13264).
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

_RESAMPLES = 2_000
_TAIL = 0.025  # on either side of a 95% interval


class Curve(NamedTuple):
    """Success against the amount of what is scarce.

    Attributes:
      amounts: f[M], increasing: transitions, environment steps, ...
      success: f[M, S], of each of S seeds at each amount.
    """

    amounts: np.ndarray
    success: np.ndarray


class Saving(NamedTuple):
    """How much less a method needs than its baseline.

    Attributes:
      level: the success to reach.
      baseline: what the baseline needs for it.
      method: what the method needs for it; infinite if its curve never gets there.
      saved: 1 - method / baseline; minus infinity if the method never gets there. Of a baseline
        that needs nothing, nothing can be saved.
      low: lower end of the 95% interval of `saved`.
      high: upper end.
    """

    level: float
    baseline: float
    method: float
    saved: float
    low: float
    high: float


def needed(amounts: np.ndarray, success: np.ndarray, level: float) -> float:
    """The least amount at which a curve has reached `level`.

    Args:
      amounts: f[M], increasing: transitions, environment steps, ...
      success: f[M], success at each.
      level: what to reach.

    Returns:
      The amount, interpolated (on the scale of logarithms if all amounts are positive) where the
      curve passes the level between two of its points; infinite if it never reaches it.
    """
    reached = np.flatnonzero(success >= level)
    if not len(reached):
        return np.inf
    last = reached[0]
    if last == 0:
        return float(amounts[0])
    share = (level - success[last - 1]) / (success[last] - success[last - 1])
    between = amounts[last - 1 : last + 1].astype(float)
    if between[0] > 0:
        return float(between[0] * (between[1] / between[0]) ** share)
    return float(between[0] + share * (between[1] - between[0]))


def saving(baseline: Curve, method: Curve, level: float | None = None, seed: int = 0) -> Saving:
    """How much less a method needs than its baseline to reach a success.

    Args:
      baseline: its curve.
      method: likewise, at amounts of its own.
      level: the success to reach; None is the best of the baseline.
      seed: of the bootstrap.

    Raises:
      ValueError: the baseline never succeeds, so there is nothing to reach.
    """
    if not _middle(baseline.success).max() > 0:
        raise ValueError("the baseline never succeeds, so there is no success of its to reach")
    random = np.random.default_rng(seed)

    def compare(of_baseline: np.ndarray, of_method: np.ndarray) -> tuple[float, float, float]:
        """The success to reach, and what both need for it."""
        goal = float(of_baseline.max()) if level is None else level
        theirs = needed(baseline.amounts, of_baseline, goal)
        return goal, theirs, needed(method.amounts, of_method, goal)

    def drawn(success: np.ndarray) -> np.ndarray:
        """Curves [R, M] of seeds drawn anew at each point."""
        draws = random.integers(success.shape[1], size=(_RESAMPLES, *success.shape))
        return _middle(np.take_along_axis(success[None], draws, axis=2))

    goal, theirs, ours = compare(_middle(baseline.success), _middle(method.success))
    resampled = zip(drawn(baseline.success), drawn(method.success), strict=True)
    saved = np.array([_saved(*compare(*pair)[1:]) for pair in resampled])
    # With infinite entries a quantile must be one of the entries, not something between two.
    low, high = np.quantile(saved, [_TAIL, 1 - _TAIL], method="inverted_cdf")
    return Saving(goal, theirs, ours, _saved(theirs, ours), float(low), float(high))


def _saved(baseline: float, method: float) -> float:
    if np.isinf(method):
        return -np.inf
    if baseline == 0:
        return 0.0 if method == 0 else -np.inf
    return 1 - method / baseline  # All of it, where the baseline never gets there.


def _middle(success: np.ndarray) -> np.ndarray:
    """Interquartile means over the last axis."""
    return scipy.stats.trim_mean(success, 0.25, axis=-1)
