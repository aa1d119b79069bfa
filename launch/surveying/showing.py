"""A survey for people and programs: tables, a picture, and JSON."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import rich.markup
import rich.table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from launch.common.pictures import POSTERIOR, PRIOR
from launch.surveying.measuring import Finding, Survey
from launch.surveying.recommending import Recommendation
from llmprior_jax.files import replaced, write_atomically
from llmprior_jax.training.prior_alone import RETURN, SUCCESS, with_interval
from llmprior_jax.training.summary import bounds

FILE = "survey.json"
_RECOMMENDED = "#2e8b57"


def tables(survey: Survey, recommended: Finding | None) -> list[rich.table.Table]:
    """What settings achieve, where they play, and what their priors are like.

    A uniform policy is the first row; brackets are 95% intervals.
    """
    shown = [_of_priors(survey)]
    if survey.uniform is not None:
        shown.insert(0, _of_play(survey))
    for table in shown:
        for row, finding in enumerate(survey.findings, start=1):
            if finding == recommended:
                table.rows[row].style = "bold"
    return shown


def _of_play(survey: Survey) -> rich.table.Table:
    assert survey.uniform is not None
    title = f"the prior alone{_mixed(survey)} [95% interval]"
    table = _table(title, "success", "return", "episodes", "states")
    rows = [("uniform", survey.uniform, "")]
    rows += [(each.name, each.played or {}, f"{each.states:,}") for each in survey.findings]
    for name, played, states in rows:
        intervals = (with_interval(played[by]) for by in (SUCCESS, RETURN))
        _add(table, name, *intervals, f"{played['episodes']:,}", states)
    return table


def _of_priors(survey: Survey) -> rich.table.Table:
    first = survey.findings[0]
    title = (
        f"the prior{', not mixed,' if _mixed(survey) else ''} in {first.states_compared:,} states"
    )
    columns = ["entropy", "least\nlikely", "per\ntoken"]
    uniform = [f"{first.uniform_entropy:.2f}", f"{math.exp(-first.uniform_entropy):.1g}", "0"]
    if first.likelihood is not None:
        title += f", and {first.likelihood.actions:,} demonstrated actions"
        columns += ["log p", "at best\nT"]
        uniform += 2 * [f"{first.likelihood.uniform:.2f}"]
    table = _table(title, *columns, "states/s")
    _add(table, "uniform", *uniform, "")
    for each in survey.findings:
        likelihood, speed = each.likelihood, each.states_per_second
        row = [
            f"{each.entropy:.2f}",
            f"{each.least_likely_low:.1g}",
            "" if each.length_slope is None else f"{each.length_slope:+.2f}",
        ]
        if likelihood is not None:
            best = f"{likelihood.best:.2f} at {likelihood.temperature:.2g}"
            row += [f"{likelihood.mean:.2f}", best]
        _add(table, each.name, *row, "stored" if speed is None else f"{speed:,.1f}")
    table.caption = (
        "entropy: in nats, mean; least likely: the probability of each state's least likely "
        "action, 5% quantile; per token: nats for each token that an action is longer by"
    )
    if first.likelihood is not None:
        table.caption += (
            "; log p: mean log-likelihood of what was demonstrated; T: config.prior.temperature"
        )
    return table


def _mixed(survey: Survey) -> str:
    """What the prior was mixed with when it played, in words; empty if with nothing."""
    share = survey.findings[0].uniform_share
    return f", played with {share:g} of the uniform prior" if share and survey.uniform else ""


def _table(title: str, *columns: str) -> rich.table.Table:
    table = rich.table.Table(title=rich.markup.escape(title))
    table.add_column("setting", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _add(table: rich.table.Table, *cells: str) -> None:
    table.add_row(*map(rich.markup.escape, cells), end_section=not table.rows)


def to_json(survey: Survey, recommendation: Recommendation, about: dict[str, Any]) -> str:
    """All of it as JSON; what is not finite is null.

    Args:
      survey: what was found.
      recommendation: what follows.
      about: what was asked for.
    """
    findings = [_fields(finding) for finding in survey.findings]
    content = {
        "about": about,
        "uniform": survey.uniform,
        "findings": findings,
        "recommended": None if recommendation.finding is None else dict(recommendation.fields),
        "why": recommendation.why,
    }
    return json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"


def _fields(finding: Finding) -> dict[str, Any]:
    likelihood = None if finding.likelihood is None else finding.likelihood._asdict()
    return finding._asdict() | {"likelihood": likelihood}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _drawable(statistic: Mapping[str, Any]) -> tuple[float, float]:
    """An interval that can be drawn: the mean alone where it has no bounds."""
    low, high = bounds(statistic)
    return (low, high) if math.isfinite(high - low) else (statistic["mean"],) * 2


def draw(survey: Survey, recommended: Finding | None, title: str, path: pathlib.Path) -> None:
    """Draws a row for each setting and a panel for each measure; the uniform prior is a line."""
    findings = survey.findings
    first = findings[0]
    panels: list[tuple[str, list[Any], float | None, tuple[float, float] | None]] = []
    for by in (SUCCESS, RETURN):
        if survey.uniform is not None:
            low, high = _drawable(survey.uniform[by])
            stated = [(each.played or {})[by] for each in findings]
            label = f"{by.replace('_', ' ')} of the prior alone"
            panels.append((label, stated, survey.uniform[by]["mean"], (low, high)))
    entropies = [each.entropy for each in findings]
    panels.append(("entropy, nats", entropies, first.uniform_entropy, None))
    least = [max(each.least_likely_low, 1e-12) for each in findings]
    panels.append(("least likely action, 5%", least, math.exp(-first.uniform_entropy), None))
    slopes = [each.length_slope for each in findings]
    if any(slope is not None for slope in slopes):
        panels.append(("nats per token longer", slopes, 0.0, None))
    if first.likelihood is not None:
        best = [None if each.likelihood is None else each.likelihood.best for each in findings]
        label = "log p shown, best temperature"
        panels.append((label, best, first.likelihood.uniform, None))

    figure = Figure(
        figsize=(2 + 2.6 * len(panels), 1.6 + 0.34 * len(findings)), layout="constrained"
    )
    FigureCanvasAgg(figure)
    drawn = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    y = np.arange(len(findings))
    colors = [_RECOMMENDED if each == recommended else POSTERIOR for each in findings]
    for axes, (label, values, uniform, interval) in zip(drawn, panels, strict=True):
        for place, value, color in zip(y, values, colors, strict=True):
            if isinstance(value, dict):
                low, high = _drawable(value)
                axes.plot([low, high], [place, place], color=color, linewidth=2)
                value = value["mean"]
            if value is not None and math.isfinite(value):
                axes.plot([value], [place], "o", color=color)
        if interval is not None:
            axes.axvspan(*interval, color=PRIOR, alpha=0.3, linewidth=0)
        if uniform is not None:
            axes.axvline(uniform, color=PRIOR, linestyle="--")
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        if label.startswith("least"):
            axes.set_xscale("log")
            # Whole decades, a few of them named: other numbers are too long to stand side by side.
            axes.set_xlim(10 ** math.floor(math.log10(min(least))), 1)
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif label.startswith("entropy"):
            axes.set_xlim(left=0)
        elif label.startswith("success"):
            axes.set_xlim(-0.02, 1.02)
    drawn[0].set(yticks=y, ylim=(len(findings) - 0.5, -0.5))
    drawn[0].set_yticklabels([each.name.replace("$", r"\$") for each in findings])
    for each, tick in zip(findings, drawn[0].get_yticklabels(), strict=True):
        tick.set_fontweight("bold" if each == recommended else "normal")
    mark = "; bold and green: recommended" if recommended is not None else ""
    figure.suptitle(f"{title}\ndashed and gray: uniform{mark}".replace("$", r"\$"), fontsize=10)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def write(
    survey: Survey, recommendation: Recommendation, about: dict[str, Any], out: pathlib.Path
) -> None:
    """Writes `survey.json` and `survey.png` into a directory.

    Args:
      survey: what was found.
      recommendation: what follows.
      about: what was asked for; `prior` and `place` are in the picture, files by their names.
      out: the directory.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / FILE, to_json(survey, recommendation, about))
    prior, place = (_short(about[name]) for name in ("prior", "place"))
    title = f"{prior} in {place}{_mixed(survey)}"
    draw(survey, recommendation.finding, title, out / "survey.png")


def _short(name: str) -> str:
    """The name of a file or directory without the way to it; any other name as it is."""
    path = pathlib.Path(name).expanduser()
    return path.name if path.exists() or path.suffix == ".gguf" else name
