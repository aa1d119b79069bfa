"""Draws the figures of the README: the benefit of a prior, and an overview of the system.

    python -m launch.paper.draw --out=docs/images

`learning.png` is made from committed results of `launch.reproduce` and `launch.real_models`, so
this needs a clone of the repository; `overview.png` needs nothing.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MultipleLocator

from launch.common import app
from launch.common.pictures import POSTERIOR, PRIOR, VALUE
from launch.common.yardstick import SALAD
from llmprior_jax.files import check_writable, replaced
from llmprior_jax.training import summary

LEARNING, OVERVIEW = "learning.png", "overview.png"
_RESULTS = pathlib.Path(__file__).parent.parent / "results"
_MODELS = {"embedded": "the embedded model, 1 million parameters", "gemma": "Gemma 3 270M"}
_STYLES: Mapping[str, dict[str, Any]] = {
    "DQN-Prior": {"color": POSTERIOR},
    "DQN": {"color": VALUE},
    "prior alone": {"color": PRIOR, "linestyle": "--"},
}

Curve = tuple[Sequence[float], np.ndarray]
"""Steps [E], and the success rates [E, S] of all seeds then."""

FLAGS = app.Flags()
_OUT = FLAGS.string("out", None, "Directory of the pictures.", required=True)


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    pictures = {LEARNING: learning(curves(_RESULTS)), OVERVIEW: overview()}
    for name in pictures:
        check_writable(out / name)
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        with replaced(out / name) as temporary:
            figure.savefig(temporary, dpi=140, format="png", facecolor="white")
        print(out / name)


def curves(results: pathlib.Path) -> dict[str, dict[str, Curve]]:
    """For each model, how well the agents do in the kitchen, by their names.

    Raises:
      FileNotFoundError: the results are not there.
    """
    evaluations: dict[str, list[dict[str, Any]]] = {}
    with open(results / "report" / "results.jsonl") as lines:
        for each in map(json.loads, lines):
            if label := each["experiments"].get("online-salad"):
                evaluations[label] = each["evaluations"]
    learned = json.loads((results / "real_models" / "results.json").read_text())["learning"]
    of_gemma = learned["gemma3-270m"]["default"]
    names = {"dqn_prior": "DQN-Prior", "dqn": "DQN", "prior": "prior alone"}
    return {
        "embedded": {
            name: (
                [each["step"] for each in evaluations[name]],
                np.array([each["success_rate"] for each in evaluations[name]]),
            )
            for name in _STYLES
        },
        "gemma": {
            name: (of_gemma[agent]["steps"], np.array(of_gemma[agent]["success_rate"], float))
            for agent, name in names.items()
        },
    }


def learning(known: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """Success against steps, a panel for each model."""
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(known), sharey=True)
    for axes, (model, of_agents) in zip(panels, known.items(), strict=True):
        for name, (steps, success) in of_agents.items():
            style = _STYLES[name]
            means = [summary.interquartile_mean(row) for row in success]
            if len(steps) == 1:
                axes.axhline(means[0], label=name, **style)
                continue
            low, high = np.array([summary.interval(row) for row in success]).T
            axes.plot(steps, means, label=name, **style)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.set_title(f"prior: {_MODELS[model]}", fontsize=11)
        axes.set(xlabel="environment steps", ylim=(-0.02, 1.02))
        axes.xaxis.set_major_locator(MultipleLocator(10_000))  # Closer, the numbers touch.
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"success in\n{SALAD.removeprefix('Overcooked-')}")
    panels[-1].legend(loc="center right", title="bands: 95% intervals")
    return figure


def overview() -> Figure:
    """How a state becomes words, the words a prior, and the prior a part of a jitted loop."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 18), ylim=(0, 6.8))
    axes.set_axis_off()
    axes.add_patch(
        FancyBboxPatch(
            (5.9, 0.3),
            11.8,
            6.2,
            boxstyle="round,pad=0.05,rounding_size=0.25",
            facecolor="#f3f6fb",
            edgecolor="#b9c6dc",
        )
    )
    axes.text(11.8, 6.05, "one jitted loop, vmapped over seeds", ha="center", fontsize=11)
    posterior = r"$\propto p(a|s)\,\exp(Q(s,a)/\alpha)$"
    places = {
        "text": (0.2, 4.0, "state in words\n“You see a tomato. …\nNext:”", "white", 4.6),
        "model": (0.2, 1.0, "language model\nasked once a state", "#e3e6ec", 4.6),
        "table": (6.4, 1.0, "table of priors\n$\\log p(a|s)$, features", "#e3e6ec", 3.4),
        "act": (10.5, 1.0, f"act by the posterior\n{posterior}", "#dce8f8", 3.6),
        "envs": (10.5, 4.0, "environments in JAX,\nvmapped", "white", 3.6),
        "learn": (14.7, 2.5, "replay,\nBellman update\nof Q", "#fae8d0", 2.6),
    }
    for left, bottom, words, color, width in places.values():
        axes.add_patch(
            FancyBboxPatch(
                (left, bottom),
                width,
                1.5,
                boxstyle="round,pad=0.05,rounding_size=0.15",
                facecolor=color,
                edgecolor="#5c6878",
            )
        )
        axes.text(left + width / 2, bottom + 0.75, words, ha="center", va="center", fontsize=11)
    arrows = {
        "asked": ((2.5, 3.9), (2.5, 2.6)),
        "scored": ((4.9, 1.75), (6.3, 1.75)),
        "looked up": ((9.9, 1.75), (10.4, 1.75)),
        "action": ((12.3, 2.6), (12.3, 3.9)),
        "transitions": ((14.2, 4.6), (15.9, 4.1)),
        "Q": ((15.9, 2.4), (14.2, 1.6)),
        "a state that is new": ((10.4, 4.75), (4.9, 4.75)),
    }
    for start, end in arrows.values():
        arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color="#3d4652")
        axes.add_patch(arrow)
    axes.text(7.7, 4.9, "a state that is new", ha="center", fontsize=10, color="#3d4652")
    axes.text(12.45, 3.15, "action", fontsize=10, color="#3d4652")
    axes.text(15.1, 4.6, "transitions", fontsize=10, color="#3d4652")
    axes.text(15.2, 1.6, "values", fontsize=10, color="#3d4652")
    return figure


if __name__ == "__main__":
    app.run(main, FLAGS)
