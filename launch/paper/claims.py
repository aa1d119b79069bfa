"""What a method needs beside its baseline, and what an interval says of a claim about that.

A claim such as "90% fewer samples" is a ratio of two points on two curves. Both are read off curves
of interquartile means over seeds, and the interval is a bootstrap of whole seeds: each drawing
takes a seed's curve from its first point to its last (Agarwal et al., NeurIPS 2021, arXiv
2108.13264). The success to reach is said before anything is measured: a rate, or where the baseline
ends, which is no maximum, so that no single lucky point decides.

A curve that never gets there needs more than its last amount, nobody knows how much. So each need
has a lower and an upper end, and so has the ratio. A baseline that ends at 0 leaves nothing to
reach: where its end is the success to reach, nothing is known of the ratio then.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from launch.common.yardstick import NUM_LAST, Curve, end, needed

BORNE_OUT, NOT_BORNE_OUT, NOT_DECIDED = "borne out", "not borne out", "not decided"

_RESAMPLES = 2_000
_TAIL = 0.025  # on either side of a 95% interval


class Comparison(NamedTuple):
    """What a method needs beside its baseline.

    Attributes:
      level: the success to reach.
      baseline: what the baseline needs for it; infinite if its curve never gets there.
      method: what the method needs for it, likewise.
      ratio: the method's need over the baseline's. Where the baseline never gets there it is the
        most that it can be; infinite where the method does not.
      low: lower end of the 95% interval of the ratio.
      high: upper end.
    """

    level: float
    baseline: float
    method: float
    ratio: float
    low: float
    high: float

    def verdict(self, at_most: float) -> str:
        """What the interval says of the claim that the ratio is at most so much."""
        if self.high <= at_most:
            return BORNE_OUT
        return NOT_BORNE_OUT if self.low > at_most else NOT_DECIDED


def goal(baseline: Curve, level: float | None, num_last: int = NUM_LAST) -> float:
    """The success to reach: `level`, or where a baseline ends; 0 is none.

    Args:
      baseline: its curve.
      level: the success to reach; None is where the baseline ends.
      num_last: how many of the last points that is.
    """
    return end(_middle(baseline.success), num_last) if level is None else level


def compare(
    baseline: Curve,
    method: Curve,
    level: float | None = None,
    num_last: int = NUM_LAST,
    seed: int = 0,
) -> Comparison:
    """What a method needs beside its baseline to reach a success.

    Args:
      baseline: its curve.
      method: likewise, at amounts and with seeds of its own.
      level: the success to reach; None is where the baseline ends, in each drawing its own.
      num_last: how many of the last points that is.
      seed: of the bootstrap.

    Raises:
      ValueError: the success to reach is where the baseline ends, and that is 0.
    """
    if not goal(baseline, level, num_last) > 0:
        raise ValueError("the baseline ends at 0, so there is no success of its to reach")
    random = np.random.default_rng(seed)

    def drawn(curve: Curve) -> np.ndarray:
        """Curves [R, M] of whole seeds drawn anew."""
        num_seeds = curve.success.shape[1]
        draws = random.integers(num_seeds, size=(_RESAMPLES, num_seeds))
        return _middle(curve.success[:, draws]).T

    def needs(of_baseline: np.ndarray, of_method: np.ndarray) -> tuple[float, float, float]:
        """The success to reach, and what both need for it."""
        wanted = end(of_baseline, num_last) if level is None else level
        theirs = needed(baseline.amounts, of_baseline, wanted)
        return wanted, theirs, needed(method.amounts, of_method, wanted)

    def ends(wanted: float, theirs: float, ours: float) -> tuple[float, float]:
        """The least and the most that the ratio can be."""
        if not wanted > 0:  # In this drawing the baseline has no need.
            return 0.0, np.inf
        most_known = float(baseline.amounts[-1]), float(method.amounts[-1])
        return (
            _ratio(min(ours, most_known[1]), theirs),
            _ratio(ours, min(theirs, most_known[0])),
        )

    found = needs(_middle(baseline.success), _middle(method.success))
    resampled = zip(drawn(baseline), drawn(method), strict=True)
    lowest, highest = np.array([ends(*needs(*pair)) for pair in resampled]).T
    # With infinite entries a quantile must be one of the entries, not something between two.
    low = np.quantile(lowest, _TAIL, method="inverted_cdf")
    high = np.quantile(highest, 1 - _TAIL, method="inverted_cdf")
    return Comparison(*found, ends(*found)[1], float(low), float(high))


def _ratio(method: float, baseline: float) -> float:
    """The one over the other; of a baseline that needs nothing, nothing can be saved."""
    if np.isinf(method):
        return np.inf
    if baseline == 0:
        return 1.0 if method == 0 else np.inf
    return method / baseline


def _middle(success: np.ndarray) -> np.ndarray:
    """Interquartile means over the last axis."""
    return scipy.stats.trim_mean(success, 0.25, axis=-1)
