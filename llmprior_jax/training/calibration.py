"""Calibration of the prior against a trained policy: how often it does what the prior gives p.

Reliability curves and the expected calibration error are those of Guo et al., "On Calibration of
Modern Neural Networks" (ICML 2017, arXiv 1706.04599); here the truth is what a trained agent does.
"""

from typing import NamedTuple

import numpy as np

_BINS = 10


class Calibration(NamedTuple):
    """A reliability curve over equal bins of predicted probability.

    Attributes:
      predicted: f64[N], mean prediction in each bin; NaN in empty ones.
      observed: f64[N], mean truth in each bin; NaN in empty ones.
      count: i64[N], predictions in each bin.
      error: the expected calibration error: mean of |predicted - observed| over predictions.
    """

    predicted: np.ndarray
    observed: np.ndarray
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]
    error: float


def calibration(predicted: np.ndarray, observed: np.ndarray, num_bins: int = _BINS) -> Calibration:
    """Compares predicted probabilities with what was observed.

    Args:
      predicted: f[M], probabilities.
      observed: f[M], what happened, 0 or 1, or the probability of it.
      num_bins: N, equal bins from 0 to 1.
    """
    bins = np.minimum((predicted * num_bins).astype(int), num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_predicted = np.bincount(bins, predicted, num_bins) / count
        mean_observed = np.bincount(bins, observed, num_bins) / count
    error = np.nansum(count * np.abs(mean_predicted - mean_observed)) / len(predicted)
    return Calibration(mean_predicted, mean_observed, count, float(error))
