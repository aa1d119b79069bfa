"""What the search for settings and the report that uses them measure alike.

The kitchen, the behavior that its data is of, and how a learning curve is read.
"""

from typing import NamedTuple

import numpy as np

SALAD = "Overcooked-TomatoLettuceSalad"
# Of an expert that takes a random action seven times in ten: with better data little is left to
# save, since a thousand transitions are enough even without a prior.
DATASET_BEHAVIOR = "expert@0.7"
# Evaluations whose mean is where a curve ends; of a short curve, its second half.
NUM_LAST = 5


class Curve(NamedTuple):
    """Success against the amount of what is scarce.

    Attributes:
      amounts: f[M], increasing: transitions, environment steps, ...
      success: f[M, S], of each of S seeds at each amount.
    """

    amounts: np.ndarray
    success: np.ndarray


def needed(amounts: np.ndarray, success: np.ndarray, level: float) -> float:
    """The least amount at which a curve has reached `level`.

    Args:
      amounts: f[M], increasing: transitions, environment steps, ...
      success: f[M], success at each.
      level: what to reach.

    Returns:
      The amount, interpolated where the curve passes the level between two of its points, on
      the scale of logarithms where the first of these is not at 0; infinite if it never reaches it.
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


def end(success: np.ndarray, num_last: int = NUM_LAST) -> float:
    """Where a curve f[M] ends: the mean of its last points, of a short curve its second half."""
    return float(np.mean(success[-min(num_last, max(1, len(success) // 2)) :]))
