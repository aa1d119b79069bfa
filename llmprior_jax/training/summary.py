"""Summaries of runs: statistics with intervals over seeds, a table of them, and learning curves.

Interquartile means with stratified bootstrap intervals, as "Deep Reinforcement Learning at the Edge
of the Statistical Precipice" (Agarwal et al., NeurIPS 2021, arXiv 2108.13264) recommends for few
seeds.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.table
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llmprior_jax.files import replaced

_CONFIDENCE = 0.95
_RESAMPLES = 2_000
SOLVED = 0.9
_UNSEEN, _TRUST = "unseen_success_rate", "trust"
_SAMPLE = "sample"
# Under this a summary has what came before training (`prior_alone.look`); no agent is named so.
BEFORE_TRAINING = "before_training"


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of `values` [S]; a NaN stays one."""
    return float(scipy.stats.trim_mean(values, 0.25))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the interquartile mean over seeds, `values` [S]."""
    resampled = np.random.default_rng(0).choice(values, (_RESAMPLES, len(values)))
    means = scipy.stats.trim_mean(resampled, 0.25, axis=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def with_interval(values: np.ndarray) -> str:
    """The interquartile mean of `values` [S] and its interval, such as "0.95 [0.84, 0.97]"."""
    low, high = interval(values)
    return f"{interquartile_mean(values):.2f} [{low:.2f}, {high:.2f}]"


def steps_to(level: float, steps: Sequence[float], success: np.ndarray) -> np.ndarray:
    """Steps after which each seed's success rate first reached `level`.

    Args:
      level: success rate, 0 to 1.
      steps: [E], steps at each evaluation.
      success: [E, S], success rate of each seed at each evaluation.

    Returns:
      f64[S]; infinite where it was never reached.
    """
    reached = success >= level
    return np.where(reached.any(axis=0), np.asarray(steps, float)[reached.argmax(axis=0)], np.inf)


def summarize(
    records: Sequence[Mapping[str, Any]], unit: str, modes: Sequence[str] = ("sample",)
) -> dict[str, Any]:
    """Statistics of one agent from its metrics records.

    Args:
      records: as `read_metrics` gives them.
      unit: what their steps are (`Run.unit`).
      modes: how the agent acted in evaluations (`RunSettings.eval_modes`).

    Returns:
      `mode`, the first of the modes, of which is what follows; where there are others,
        `other_modes`, which has the same of each of them;
      `success_rate` and `return` (of the last evaluation), and `unseen_success_rate` where unseen
      games were played: `iqm`, `ci95` and `per_seed`;
      `trust`, the weight of the prior at the end, where it was learned, and of several priors the
        weight of each from `trust_1` on: `mean` and `per_seed`;
      `steps_to_90`: `median`, `quartiles` and `per_seed`, each None where not reached, and
      `reached`, the share of seeds that got there; `steps`, those taken, and `unit`.

    Raises:
      ValueError: no record is of an evaluation.
    """
    mode, *others = modes
    of_others = {
        other: _summarize(of_mode(records, f"{other}_"), unit) | {"mode": other} for other in others
    }
    return {
        "mode": mode,
        **_summarize(records, unit),
        **({"other_modes": of_others} if others else {}),
    }


def of_mode(records: Sequence[Mapping[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """Records as if a further mode of evaluation were the only one.

    Args:
      records: as `read_metrics` gives them.
      prefix: what stands before the names of the mode's metrics.
    """
    theirs = {name for record in records for name in record if name.startswith(prefix)}
    # Never the first mode's, should a record lack those of this one.
    measured = {"success_rate", "return"} | {name.removeprefix(prefix) for name in theirs}
    return [
        {
            name.removeprefix(prefix): values
            for name, values in record.items()
            if name not in measured
        }
        for record in records
    ]


def _summarize(records: Sequence[Mapping[str, Any]], unit: str) -> dict[str, Any]:
    evaluations = [record for record in records if {"success_rate", "return"} <= record.keys()]
    if not evaluations:
        raise ValueError(
            "no evaluation is left in the records of an agent (its metrics.jsonl); start the run "
            "again with --noresume"
        )
    success = np.array([record["success_rate"] for record in evaluations], float)
    returns = np.array([record["return"] for record in evaluations], float)
    steps = steps_to(SOLVED, [record["step"] for record in evaluations], success)
    # The higher of two neighbors: where half of the seeds never get there, the median is never.
    quartiles = np.quantile(steps, [0.25, 0.5, 0.75], method="higher")
    last = evaluations[-1]
    # Before an agent learns, there are no numbers.
    trust = {
        name: {"mean": float(np.mean(values)), "per_seed": values}
        for name, values in last.items()
        if name.split("_")[0] == _TRUST and None not in values
    }
    unseen = {_UNSEEN: _over_seeds(np.array(last[_UNSEEN], float))} if _UNSEEN in last else {}
    return {
        "success_rate": _over_seeds(success[-1]),
        **unseen,
        "return": _over_seeds(returns[-1]),
        **trust,
        "steps_to_90": {
            "median": _finite(quartiles[1]),
            "quartiles": [_finite(quartiles[0]), _finite(quartiles[2])],
            "per_seed": [_finite(value) for value in steps],
            "reached": float(np.isfinite(steps).mean()),
        },
        "steps": last["step"],
        "unit": unit,
    }


def bounds(statistic: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a statistic, infinite where `ci95` has no number: JSON knows no infinity."""
    low, high = statistic["ci95"]
    return -np.inf if low is None else low, np.inf if high is None else high


def table(summary: Mapping[str, Mapping[str, Any]], num_seeds: int | None) -> rich.table.Table:
    """The summary as a table to print; brackets hold 95% intervals or quartiles over seeds.

    Args:
      summary: for each row what `summarize` gives, and under "before_training", if that is there,
        what `prior_alone.look` gives, which makes rows of its own.
      num_seeds: for the title; None if the rows have different numbers.
    """
    before = summary.get(BEFORE_TRAINING, {})
    summary = _by_mode({name: row for name, row in summary.items() if name != BEFORE_TRAINING})
    seeds = "" if num_seeds is None else f"{num_seeds} seeds, "
    result = rich.table.Table(title=f"{seeds}interquartile means [95% interval]")
    unseen = ["success rate, unseen"] if any(_UNSEEN in row for row in summary.values()) else []
    units = " or ".join(sorted({row["unit"] for row in summary.values()}))
    columns = ("agent", "success rate", *unseen, "return", f"{units} to 90% success", "seeds there")
    for column in columns:
        result.add_column(column, justify="left" if column == "agent" else "right")
    for name, row in summary.items():
        steps = row["steps_to_90"]
        low, high = steps["quartiles"]
        result.add_row(
            name,
            _with_interval(row["success_rate"], "{:.2f}"),
            *(_with_interval(row[_UNSEEN], "{:.2f}") if _UNSEEN in row else "" for _ in unseen),
            _with_interval(row["return"], "{:.2f}"),
            f"{_count(steps['median'])} \\[{_count(low)}, {_count(high)}]",
            f"{steps['reached']:.0%}",
        )
    for name, row in _policies(before).items():
        success, returns = (
            _with_interval(row[key], "{:.2f}") for key in ("success_rate", "return")
        )
        result.add_row(name, success, *("" for _ in unseen), returns, "", "")
    if before:
        result.caption = _caption(before)
    return result


def plot(
    records_by_agent: Mapping[str, Sequence[Mapping[str, Any]]],
    path: pathlib.Path,
    unit: str = "environment steps",
) -> None:
    """Draws success rate and return against steps, with 95% intervals over seeds.

    Where unseen games were played, success in them has a panel of its own. Agents that do not learn
    are horizontal lines.
    """
    panels = {
        "success_rate": "success rate",
        _UNSEEN: "success rate in unseen games",
        "return": "return",
    }
    if not any(_UNSEEN in record for records in records_by_agent.values() for record in records):
        del panels[_UNSEEN]
    width = 5 * len(panels)
    # One legend below all panels, where it covers no curve; an inch holds about 12 letters.
    columns = max(1, 12 * width // (max(map(len, records_by_agent)) + 8))
    rows = -(-len(records_by_agent) // columns)
    figure = Figure(figsize=(width, 4 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, label) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for color, (name, records) in enumerate(records_by_agent.items()):
            evaluations = [record for record in records if key in record]
            if not evaluations:
                continue  # The agent was not asked to play unseen games.
            steps = [record["step"] for record in evaluations]
            values = np.array([record[key] for record in evaluations], float)
            means = [interquartile_mean(value) for value in values]
            if len(steps) == 1:
                axes.axhline(means[0], color=f"C{color}", linestyle="--", label=name)
                continue
            low, high = np.array([interval(value) for value in values]).T
            axes.plot(steps, means, color=f"C{color}", label=name)
            axes.fill_between(steps, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
        axes.set(xlabel=unit, ylabel=f"{label}, interquartile mean of seeds")
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def _by_mode(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """A row for each mode of evaluation of each agent; named for it, unless all are samples."""
    rows = {
        (name, mode): of_mode
        for name, row in summary.items()
        for mode, of_mode in {row.get("mode", _SAMPLE): row, **row.get("other_modes", {})}.items()
    }
    is_named = {mode for _, mode in rows} != {_SAMPLE}
    return {f"{name}, {mode}" if is_named else name: row for (name, mode), row in rows.items()}


def _policies(before: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Of what came before training, the statistics of each policy."""
    further = {
        f"prior {number} alone": found["prior alone"]
        for number, found in enumerate(before.get("others", ()), 2)
    }
    return {name: row for name, row in before.items() if isinstance(row, Mapping)} | further


def _caption(before: Mapping[str, Any]) -> str:
    """What the rows of before training are, and what they say."""
    policies = _policies(before)
    episodes = {name: f"{row['episodes']:,} episodes" for name, row in policies.items()}
    if len(set(episodes.values())) == 1:
        over = f"{next(iter(episodes.values()))} each"
    else:
        over = ", ".join(f"{number} of {name}" for name, number in episodes.items())
    by = before["worse_by"]
    worse = f"; the prior alone is worse than uniform by its {by.replace('_', ' ')}" if by else ""
    return f"{', '.join(policies)}: before training, means \\[95% intervals] over {over}{worse}"


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    return {
        "iqm": interquartile_mean(values),
        "ci95": list(interval(values)),
        "per_seed": values.tolist(),
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _count(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f}"


def _with_interval(statistic: Mapping[str, Any], form: str) -> str:
    low, high = bounds(statistic)
    middle = statistic["iqm"] if "iqm" in statistic else statistic["mean"]
    return f"{form.format(middle)} \\[{form.format(low)}, {form.format(high)}]"
