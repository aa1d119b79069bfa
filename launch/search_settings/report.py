"""The report of `launch.search_settings`: every setting that was tried, and the chosen one."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from launch.search_settings import plan
from launch.search_settings.chosen import read
from llmprior_jax.files import write_atomically
from llmprior_jax.training import summary

FILE, RESULTS = "report.md", "results.json"

Tried = Mapping[str, tuple[plan.Fields, Mapping[str, Any]]]
"""By a run's name, its setting and its learning curve."""


def write(
    searches: Mapping[str, plan.Search],
    tried: Mapping[str, Tried],
    command: str,
    out: pathlib.Path,
    is_quick: bool = False,
) -> None:
    """Writes `report.md` and `results.json`, which has every curve; what it has of others stays.

    Args:
      searches: by agent.
      tried: likewise, the settings that were tried.
      command: that made them.
      out: directory of both.
      is_quick: whether the searches were.

    Raises:
      ValueError: see `check`.
    """
    check(out, is_quick)
    found: dict[str, Any] = {
        **read(out / RESULTS),
        **{
            agent: {"command": command, "is_quick": is_quick, **_result(search, tried[agent])}
            for agent, search in searches.items()
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    results = {"level": plan.LEVEL, "searches": found}
    write_atomically(out / RESULTS, json.dumps(results) + "\n")
    doc = (plan.__doc__ or "").split("\n\n", 1)[1].strip()
    head = f"# Settings of each agent\n\n{doc}"
    sections = [_section(agent, of_agent) for agent, of_agent in found.items()]
    write_atomically(out / FILE, "\n\n".join([head, *sections]) + "\n")


def check(out: pathlib.Path, is_quick: bool) -> None:
    """Raises a ValueError if results of the other size are in a directory, or damaged ones."""
    if any(found["is_quick"] is not is_quick for found in read(out / RESULTS).values()):
        raise ValueError(
            f"{out / RESULTS} has results made {'without' if is_quick else 'with'} --quick; use "
            "another --out"
        )


def _result(search: plan.Search, tried: Tried) -> dict[str, Any]:
    """What is known of a search, as JSON has it."""
    scores = {name: plan.score(search, curve) for name, (_, curve) in tried.items()}
    best = min(scores, key=lambda name: scores[name])
    return {
        # Wherever the work directory lies.
        "fields": {
            field: plan.DATASET if field == "offline.dataset" else value
            for field, value in search.fields.items()
        },
        "factors": {field: list(values) for field, values in search.factors.items()},
        "chosen": dict(tried[best][0]),
        "tried": [
            {
                "fields": dict(fields),
                "steps_to_level": _finite(scores[name].steps) if search.counts_steps else None,
                "end": 1 - scores[name].failure,
                **curve,
            }
            for name, (fields, curve) in tried.items()
        ],
    }


def _section(agent: str, found: Mapping[str, Any]) -> str:
    sizes = found["fields"]
    unit = "updates" if "offline.size" in sizes else "environment steps"
    counted = "" if unit == "updates" else f"steps to {plan.LEVEL:g}"
    columns = ["setting", *([counted] if counted else []), "success at the end", "last evaluation"]
    lines = [f"| {' | '.join(columns)} | |", f"|{'---|' * (len(columns) + 1)}"]
    for entry in found["tried"]:
        steps = entry["steps_to_level"]
        low, high = summary.interval(entry["success_rate"][-1])
        cells = [
            ", ".join(f"{field} {value}" for field, value in entry["fields"].items()) or "default",
            *(["never" if steps is None else f"{steps:,.0f}"] if counted else []),
            f"{entry['end']:.3f}",
            f"[{low:.2f}, {high:.2f}]",
            "chosen" if entry["fields"] == found["chosen"] else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    told = (
        f"Made by `{found['command']}`: {sizes['num_seeds']} seeds, {sizes['num_steps']:,} {unit}, "
        f"an evaluation of {sizes['eval_episodes']} episodes every {sizes['eval_every']:,}; "
        "brackets have the 95% interval of the last one."
    )
    return "\n".join([f"## {agent}", "", told, "", *lines])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
