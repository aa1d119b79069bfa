"""How many steps agents take to a level of success, and how those of two compare.

Medians over seeds, since the steps of a seed that never gets there are infinite; intervals are of
whole seeds drawn anew (a percentile bootstrap).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmprior_jax.training import summary
from llmprior_jax.training.prior_alone import SUCCESS

_RESAMPLES = 2_000
_TAILS = (0.025, 0.975)


class Estimate(NamedTuple):
    """A number and its 95% interval; all three may be infinite."""

    value: float
    low: float
    high: float

    def text(self, form: str = "{:,.0f}") -> str:
        """For people; "never" is what is infinite."""
        value, low, high = (form.format(each) if np.isfinite(each) else "never" for each in self)
        return f"{value} [{low}, {high}]"


def steps_to(level: float, curve: Mapping[str, Any]) -> np.ndarray:
    """For each seed the steps f64[S] after which it reached a level of success; or infinite.

    Args:
      level: the success rate.
      curve: `steps` [E] and `success_rate` [E][S].
    """
    return summary.steps_to(level, curve["steps"], np.asarray(curve[SUCCESS], float))


def curve_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The learning curve in the evaluations among some records, as `steps_to` takes it."""
    evaluations = [record for record in records if SUCCESS in record]
    return {
        "steps": [record["step"] for record in evaluations],
        SUCCESS: [record[SUCCESS] for record in evaluations],
    }


def median(steps: np.ndarray) -> Estimate:
    """Of the steps [S] of one agent's seeds."""
    low, high = np.quantile(_medians(steps), _TAILS, method="nearest")
    return Estimate(float(np.median(steps)), float(low), float(high))


def ratio(steps: np.ndarray, others: np.ndarray) -> Estimate:
    """Of the medians of two agents' steps, [S] and [S'], whose seeds are not paired."""
    with np.errstate(invalid="ignore"):
        ratios = _medians(steps) / _medians(others, seed=1)
        value = float(np.median(steps) / np.median(others))
    low, high = np.quantile(
        np.nan_to_num(ratios, nan=np.inf, posinf=np.inf), _TAILS, method="nearest"
    )
    return Estimate(value, float(low), float(high))


def difference(success: np.ndarray, others: np.ndarray) -> Estimate:
    """Of the interquartile means of two agents' success, [S] and [S']."""
    value = summary.interquartile_mean(success) - summary.interquartile_mean(others)
    drawn = _means(success) - _means(others, seed=1)
    low, high = np.quantile(drawn, _TAILS)
    return Estimate(value, float(low), float(high))


def _medians(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Medians of resampled seeds."""
    rng = np.random.default_rng(seed)
    return np.median(rng.choice(values, (_RESAMPLES, len(values))), axis=1)


def _means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Interquartile means of resampled seeds."""
    rng = np.random.default_rng(seed)
    return np.apply_along_axis(
        summary.interquartile_mean, 1, rng.choice(values, (_RESAMPLES, len(values)))
    )
