"""The report of `launch.real_models`: a table for each place, curves, and what it comes to."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from launch.common import steps
from launch.common.pictures import POSTERIOR, PRIOR
from launch.real_models.measure import SETTINGS
from launch.real_models.plan import CHOOSING
from llmprior_jax.files import replaced, write_atomically
from llmprior_jax.training import summary
from llmprior_jax.training.prior_alone import RETURN, SUCCESS, verdict, with_interval

FILE, RESULTS, PICTURE = "report.md", "results.json", "learning.png"
LEVEL = 0.9
_DQN = "dqn"
_STYLES = {"default": "-", "as before": ":"}

Results = Mapping[str, Any]
"""What was measured: `surveys` [model][place][prompt], `learning` [model][run][agent], and
`proposals`, `formats` and `low_rank` by model."""


def write(results: Results, command: str, out: pathlib.Path) -> None:
    """Writes `report.md`, `learning.png` and `results.json`, from which the others are made."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / RESULTS, json.dumps(results, indent=1) + "\n")
    if any(results["learning"].values()):
        _draw(results["learning"], out / PICTURE)
    parts = ["# Real language models as priors\n", f"Made by `{command}`.\n"]
    parts += [_of_places(results["surveys"])]
    parts += [_of_learning(results["learning"]), _of_the_rest(results)]
    write_atomically(out / FILE, "\n".join(filter(None, parts)))


def best(of_place: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], Mapping[str, Any]] | None:
    """The setting whose prior alone is best in a place: its name, it, and the uniform policy."""
    rows = [row for row in _rows(of_place) if row[1]["played"] is not None]
    return max(rows, key=lambda row: _rank(row[1]["played"]), default=None)


def best_of_all(of_model: Mapping[str, Any], places: Sequence[str]) -> tuple[str, str] | None:
    """The prompt and normalization whose prior alone does best in several places together.

    By the mean of the success, and of the return where that is the same.

    Returns:
      Them, of those that were scored in all these places; None if there are none.
    """
    ranks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for place in places:
        for prompt, found in of_model.get(place, {}).items():
            for each in found["findings"]:
                if each["normalization"] and each["played"] is not None:
                    setting = prompt, each["normalization"]
                    ranks.setdefault(setting, []).append(_rank(each["played"]))
    whole = {setting: of for setting, of in ranks.items() if len(of) == len(places)}
    return max(whole, key=lambda setting: np.mean(whole[setting], axis=0).tolist(), default=None)


def _rank(played: Mapping[str, Any]) -> tuple[float, float]:
    return played[SUCCESS]["mean"], played[RETURN]["mean"]


def _rows(
    of_place: Mapping[str, Any],
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    return [
        (f"{prompt}, {each['normalization'] or each['method']}", each, found["uniform"])
        for prompt, found in of_place.items()
        for each in found["findings"]
    ]


def _of_places(surveys: Mapping[str, Any]) -> str:
    lines = ["## The prior alone\n"]
    lines.append(
        "Success and 95% interval; the prior is not mixed. Better and worse: than the uniform "
        "policy, intervals apart. The example of `few_shot` is of another task; on FrozenLake, of "
        "the same task on another lake. No step of it is one of the game that is played.\n"
    )
    lines += [
        "| model | place | best setting | prior alone | uniform | |",
        "|---|---|---|---|---|---|",
    ]
    for model, of_model in surveys.items():
        for place, of_place in of_model.items():
            row = best(of_place)
            if row is not None:
                name, found, uniform = row
                sign, by = verdict(found["played"], uniform)
                word = {1: f"better by {by.replace('_rate', '')}", 0: "not told apart", -1: "worse"}
                cells = (with_interval(found["played"][SUCCESS]), with_interval(uniform[SUCCESS]))
                lines.append(f"| {model} | {place} | {name} | {' | '.join(cells)} | {word[sign]} |")
    for model, of_model in surveys.items():
        for place, of_place in of_model.items():
            lines.append(f"\n### {model}, {place}\n")
            lines.append(
                "| prompt, normalization | success | return | episodes | entropy, nats | "
                "least likely, 5% | nats per token longer | states/s |"
            )
            lines.append("|---|---|---|---|---|---|---|---|")
            rows = _rows(of_place)
            if rows:
                uniform, first = rows[0][2], rows[0][1]
                cells = [with_interval(uniform[by]) for by in (SUCCESS, RETURN)]
                least = np.exp(-first["uniform_entropy"])
                lines.append(
                    f"| uniform | {' | '.join(cells)} | {uniform['episodes']} | "
                    f"{first['uniform_entropy']:.2f} | {least:.1g} | | |"
                )
            lines += [_row(name, each) for name, each, _ in rows]
    return "\n".join(lines) + "\n"


def _row(name: str, each: Mapping[str, Any]) -> str:
    slope, speed = each["length_slope"], each["states_per_second"]
    cells = [
        name,
        *(with_interval(each["played"][by]) for by in (SUCCESS, RETURN)),
        str(each["played"]["episodes"]),
        f"{each['entropy']:.2f}",
        f"{each['least_likely_low']:.1g}",
        "" if slope is None else f"{slope:+.2f}",
        "" if speed is None else f"{speed:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _of_learning(learning: Mapping[str, Any]) -> str:
    if not any(learning.values()):
        return ""
    lines = ["## Learning on TomatoLettuceSalad\n"]
    lines.append(
        "16 seeds with the quickstart's settings and the prior as it is; all agents of a run have "
        "the features of the same model and prompt, and each run is compared with its own DQN. "
        f"Best of the surveys: by success on {' and '.join(CHOOSING)}, where it differs from the "
        f"default. Steps to a success of {LEVEL}: median over seeds [95% interval of the median].\n"
    )
    lines += [
        f"| model | asked | agent | final success | steps to {LEVEL} | times DQN's |",
        "|---|---|---|---|---|---|",
    ]
    for model, runs in learning.items():
        for run, of_run in runs.items():
            dqn = _steps(of_run.get(_DQN))
            for agent, curve in of_run.items():
                needed = _steps(curve)
                final = np.asarray(curve[SUCCESS][-1])
                low, high = summary.interval(final)
                median = steps.median(needed).text() if len(needed) else ""
                compared = len(needed) and len(dqn) and agent != _DQN
                ratio = steps.ratio(needed, dqn).text("{:.2f}") if compared else ""
                lines.append(
                    f"| {model} | {run} | {agent} | {summary.interquartile_mean(final):.2f} "
                    f"[{low:.2f}, {high:.2f}] | {median} | {ratio} |"
                )
    return "\n".join([*lines, "", f"![Learning curves]({PICTURE})", ""])


def _steps(curve: Mapping[str, Any] | None) -> np.ndarray:
    """For each seed the steps after which it reached the level; nothing for who does not learn."""
    if curve is None or len(curve["steps"]) < 2:
        return np.zeros(0)
    return steps.steps_to(LEVEL, curve)


def _of_the_rest(results: Results) -> str:
    lines: list[str] = []
    for model, of_model in results["proposals"].items():
        lines.append(f"\n## Proposals of {model} on TomatoSalad\n")
        lines.append("The prior is the share of 16 sampled answers that mean an action.\n")
        lines += ["| prompt | success | uniform | entropy, nats |", "|---|---|---|---|"]
        for prompt, found in of_model.items():
            each = found["findings"][0]
            lines.append(
                f"| {prompt} | {with_interval(each['played'][SUCCESS])} | "
                f"{with_interval(found['uniform'][SUCCESS])} | {each['entropy']:.2f} |"
            )
    if results["formats"]:
        lines.append("\n## Number formats\n")
        lines.append("Log-probabilities of actions by token, beside float32, in nats.\n")
        lines.append(
            "| model | format | mean difference | largest | same first choice | states/s |"
        )
        lines.append("|---|---|---|---|---|---|")
        lines += [
            f"| {model} | {name} | {of['mean_difference']:.4f} | {of['largest_difference']:.3f} | "
            f"{of['same_first_choice']:.2f} | {of['states_per_second']:.1f} |"
            for model, formats in results["formats"].items()
            for name, of in formats.items()
            if name != SETTINGS
        ]
    for model, curve in results["low_rank"].items():
        lines.append(f"\n## GFlan-Prior: {model} itself learns TomatoSalad by LoRA\n")
        lines.append(f"{curve[SETTINGS]['minutes']:g} minutes of training.\n")
        lines += ["| steps | success |", "|---|---|"]
        lines += [
            f"| {step:,} | {np.mean(success):.2f} |"
            for step, success in zip(curve["steps"], curve[SUCCESS], strict=True)
        ]
    return "\n".join(lines) + "\n"


def _draw(learning: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws success against steps, a panel for each model."""
    shown = {model: runs for model, runs in learning.items() if runs}
    figure = Figure(figsize=(5 * len(shown), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
    for axes, (model, runs) in zip(panels, shown.items(), strict=True):
        for run, of_run in runs.items():
            for agent, curve in of_run.items():
                color = PRIOR if agent in (_DQN, "prior") else POSTERIOR
                style = _STYLES.get(run, "-.")
                style = "--" if agent == "prior" else style
                label = f"{agent}, {run.split(':')[0]}"
                success = np.asarray(curve[SUCCESS], float)
                middle = [summary.interquartile_mean(of_step) for of_step in success]
                if len(middle) == 1:
                    axes.axhline(middle[0], color=color, linestyle=style, label=label)
                else:
                    axes.plot(curve["steps"], middle, style, color=color, label=label)
        axes.set(title=model, xlabel="environment steps", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("success, interquartile mean")
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
