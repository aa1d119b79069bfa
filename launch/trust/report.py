"""The report of `launch.trust`: a table for each place, the figure, and what it comes to."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from launch.common import steps
from launch.common.pictures import POSTERIOR, PRIOR
from launch.trust.plan import CQL, DQN, FIXED, GFLAN, LEARNED, PLACES, PRIORS
from llmprior_jax.files import replaced, write_atomically
from llmprior_jax.training import summary
from llmprior_jax.training.prior_alone import SUCCESS

FILE, RESULTS, PICTURE = "report.md", "results.json", "trust.png"
# What the figure shows, of the first place.
_SHOWN = ("embedded", "SmolLM2", "embedded, reversed", "SmolLM2, plain, by sum")
_BEST = "best fixed"

Results = Mapping[str, Any]
"""Learning curves: `online` [place][what], `offline` [size][what], `policies` [what]."""


def write(results: Results, command: str, out: pathlib.Path) -> None:
    """Writes `report.md`, `trust.png` and `results.json`, from which the others are made."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RESULTS, json.dumps(results) + "\n")
    online = results["online"]
    parts = ["# Learned trust in a prior\n", f"Made by `{command}`.\n"]
    first = online.get(PLACES[0].name, {})
    shown = [label for label in _SHOWN if f"{LEARNED} {label}" in first]
    if shown:
        _draw(first, shown, out / PICTURE)
        parts.append(f"![Success against steps, with good priors and bad ones]({PICTURE})\n")
    parts += [_of_place(place.name, place.level, online.get(place.name, {})) for place in PLACES]
    parts += [_of_offline(results["offline"]), _of_policies(results["policies"])]
    write_atomically(out / FILE, "\n".join(filter(None, parts)))


def _of_place(name: str, level: float, curves: Mapping[str, Any]) -> str:
    if not curves:
        return ""
    any_curve = next(iter(curves.values()))
    num_seeds, last = len(any_curve[SUCCESS][0]), any_curve["steps"][-1]
    lines = [f"## Online: {name}\n"]
    lines.append(
        f"{num_seeds} seeds. Steps to a success of {level:g}: median over seeds [95% interval of "
        "the median], never if half of them do not get there; beside them, times those of DQN on "
        f"the same features, which comes first. Success after {last:,} steps: interquartile mean, "
        "and how far it is from DQN's. Trust: the weight of the priors at the end, mean over "
        "seeds.\n"
    )
    lines += [
        "| prior | agent | steps | times DQN's | success | less DQN's | trust |",
        "|---|---|---|---|---|---|---|",
    ]
    told: set[str] = set()
    for prior in PRIORS:
        dqn = curves.get(f"{DQN} {prior.features}")
        if dqn is None or f"{LEARNED} {prior.label}" not in curves:
            continue
        if prior.features not in told:
            told.add(prior.features)
            lines.append(_row("", f"DQN, {prior.features} features", dqn, None, level))
        agents = {LEARNED: "DQN-Prior", FIXED: "DQN-Prior, fixed", _BEST: "DQN-Prior, "}
        for kind, agent in agents.items():
            curve = curves.get(f"{kind} {prior.label}")
            if curve is not None:
                if kind == _BEST:
                    share, temperature = curve["setting"]
                    agent += f"fixed: {share:g} uniform, temperature {temperature:g}"
                lines.append(_row(prior.label, agent, curve, dqn, level))
    return "\n".join(lines) + "\n"


def _row(
    label: str, agent: str, curve: Mapping[str, Any], dqn: Mapping[str, Any] | None, level: float
) -> str:
    needed, final = steps.steps_to(level, curve), np.asarray(curve[SUCCESS][-1])
    cells = [label, agent, steps.median(needed).text()]
    if dqn is None:
        cells += ["", summary.with_interval(final), "", ""]
    else:
        trust, dqns = curve.get("trust"), steps.steps_to(level, dqn)
        half_there = np.isfinite(np.median(dqns))
        cells += [
            steps.ratio(needed, dqns).text("{:.2f}") if half_there else "DQN never",
            summary.with_interval(final),
            steps.difference(final, np.asarray(dqn[SUCCESS][-1])).text("{:+.2f}"),
            "" if trust is None else f"{np.mean(trust):.2f}",
        ]
    return f"| {' | '.join(cells)} |"


def _of_offline(offline: Mapping[str, Any]) -> str:
    if not offline:
        return ""
    lines = ["## Offline: TomatoLettuceSalad\n"]
    lines.append(
        "CQL-Prior with the embedded model's prior, from so many transitions. Success after the "
        "last update: interquartile mean over seeds [95% interval], and how far it is from CQL's.\n"
    )
    lines += [
        "| transitions | CQL | CQL-Prior | less CQL's | trust | CQL-Prior, fixed |",
        "|---|---|---|---|---|---|",
    ]
    for size, curves in offline.items():
        final = {what: np.asarray(curve[SUCCESS][-1]) for what, curve in curves.items()}
        if {CQL, LEARNED, FIXED} <= final.keys():
            gap = steps.difference(final[LEARNED], final[CQL]).text("{:+.2f}")
            trust = f"{np.mean(curves[LEARNED]['trust']):.2f}"
            cql, learned, fixed = (summary.with_interval(final[it]) for it in (CQL, LEARNED, FIXED))
            cells = (f"{int(size):,}", cql, learned, gap, trust, fixed)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _of_policies(policies: Mapping[str, Any]) -> str:
    if not policies:
        return ""
    lines = ["## The language model as the policy: TomatoLettuceSalad\n"]
    lines += ["| agent | success, by steps |", "|---|---|"]
    names = {GFLAN: "GFlan", LEARNED: "GFlan-Prior", FIXED: "GFlan-Prior, fixed"}
    for what, curve in policies.items():
        points = (
            f"{step:,}: {summary.with_interval(np.asarray(success))}"
            for step, success in zip(curve["steps"], curve[SUCCESS], strict=True)
        )
        lines.append(f"| {names[what]} | {'; '.join(points)} |")
    return "\n".join(lines) + "\n"


def _draw(curves: Mapping[str, Any], shown: list[str], path: pathlib.Path) -> None:
    """Draws success against steps, a panel for each prior."""
    figure = Figure(figsize=(3.4 * len(shown), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    features = {prior.label: prior.features for prior in PRIORS}
    for axes, label in zip(panels, shown, strict=True):
        for what, name, color, style in (
            (f"{DQN} {features[label]}", "DQN", PRIOR, "-"),
            (f"{FIXED} {label}", "DQN-Prior, fixed", POSTERIOR, ":"),
            (f"{LEARNED} {label}", "DQN-Prior", POSTERIOR, "-"),
        ):
            if what not in curves:
                continue
            curve = curves[what]
            success = np.asarray(curve[SUCCESS], float)
            middle = [summary.interquartile_mean(of_step) for of_step in success]
            low, high = np.array([summary.interval(of_step) for of_step in success]).T
            axes.plot(curve["steps"], middle, style, color=color, label=name)
            axes.fill_between(curve["steps"], low, high, color=color, alpha=0.15, linewidth=0)
        axes.set(title=label, xlabel="environment steps", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("success, interquartile mean")
    panels[0].legend(fontsize=8)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
