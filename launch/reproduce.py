"""Runs the experiments of the paper and some more, and writes a report that a reader can check.

    python -m launch.reproduce --workdir=runs/reproduce --out=report
    python -m launch.reproduce --workdir=runs/quick --out=report --quick
    python -m launch.reproduce --workdir=runs/reproduce --out=report --only=offline

`--out` gets `report.md` with a table, a figure and a verdict on each claim, the figures, and
`results.jsonl`: a line for each seed of each agent of each run, from which all of it is computed.
Given again, the command goes on where it stopped. `--quick` does all of it small. The settings are
in `launch/experiments.py`.
"""

import datetime
import difflib
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from launch import app, claims, experiments
from launch.experiments import Experiment
from llmprior_jax import training
from llmprior_jax.training import provenance, summary
from llmprior_jax.training.files import write_atomically
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.training.runs import step_unit

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the report.", required=True)
_QUICK = flags.DEFINE_bool("quick", False, "Do all of it small, for a look.")
_ONLY = flags.DEFINE_string("only", "", "Only experiments whose name begins so.")

Curves = Mapping[str, Sequence[Mapping[str, Any]]]
_DATASET_SEED = 0


def main(argv: Sequence[str]) -> None:
    del argv
    scale = experiments.QUICK if _QUICK.value else experiments.FULL
    workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
    planned = experiments.make(scale, _inputs(workdir, scale))
    chosen = {name: told for name, told in planned.items() if name.startswith(_ONLY.value)}
    if not chosen:
        near = difflib.get_close_matches(_ONLY.value, planned, n=1, cutoff=0.0)[0]
        raise ValueError(f"--only={_ONLY.value}: no experiment begins so; did you mean {near!r}?")
    started = time.monotonic()
    with app.StopSignal() as should_stop:
        for name, experiment in tqdm.tqdm(chosen.items(), desc="experiments", disable=None):
            for run in experiment.runs:
                training.run(run.config, workdir / name / run.label, should_stop=should_stop)
    minutes = (time.monotonic() - started) / 60

    out.mkdir(parents=True, exist_ok=True)
    sections, lines = [], []
    for name, experiment in chosen.items():
        curves = {
            run.label: {
                agent: read_metrics(workdir / name / run.label / agent)
                for agent in run.config.agents
            }
            for run in experiment.runs
        }
        lines += list(_raw(name, experiment, curves))
        sections.append(_section(name, experiment, curves, out))
    write_atomically(out / "results.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_atomically(out / "report.md", "\n\n".join([_head(scale, minutes), *sections]) + "\n")
    print(f"the report of {len(chosen)} experiments is in {out / 'report.md'}")


def _inputs(workdir: pathlib.Path, scale: experiments.Scale) -> experiments.Inputs:
    """Makes the files that experiments need and that are not there yet."""
    dataset = workdir / "salad.parquet"
    if not dataset.exists():
        _command(
            "launch.collect",
            f"--env={experiments.SALAD}",
            # 100 of the 133 episodes of the paper's released dataset succeed.
            "--behaviour=expert@0.3:0.75,random:0.25",
            "--success_share=0.75",
            f"--transitions={max(scale.dataset_sizes)}",
            f"--seed={_DATASET_SEED}",
            f"--out={dataset}",
        )
    if importlib.util.find_spec("alfworld") is None:
        return experiments.Inputs(str(dataset), None)
    games, (train, unseen) = workdir / "games", scale.games
    if not (games / "complete").exists():
        _command(
            "launch.make_games",
            "--tasks=pick",
            f"--train={train}",
            f"--unseen={unseen}",
            f"--out={games}",
        )
        (games / "complete").touch()
    return experiments.Inputs(str(dataset), str(games))


def _command(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def _raw(name: str, experiment: Experiment, curves: Mapping[str, Curves]):
    """A line for each seed: its whole curve, so that every number can be computed again."""
    for run in experiment.runs:
        for agent, records in curves[run.label].items():
            kept = [record for record in records if "success_rate" in record]
            for seed in range(run.config.num_seeds):
                yield {
                    "experiment": name,
                    "run": run.label,
                    "agent": agent,
                    "seed": seed,
                    "steps": [record["step"] for record in kept],
                    **{
                        key: [record[key][seed] for record in kept]
                        for key in ("success_rate", "return", "unseen_success_rate")
                        if key in kept[-1]
                    },
                }


def _section(
    name: str, experiment: Experiment, curves: Mapping[str, Curves], out: pathlib.Path
) -> str:
    """The part of the report on one experiment; draws its figure."""
    series = _series(experiment, curves)
    _draw(series, experiment, out / f"{name}.png")
    verdicts = [
        _verdict(claim, series, experiment.scarce)
        for claim in experiment.claims
        if claim.method in series and claim.baseline in series
    ]
    return "\n\n".join(
        [
            f"## {experiment.title}",
            experiment.question,
            f"![{experiment.title}]({name}.png)",
            _table(experiment, curves),
            *verdicts,
        ]
    )


def _series(
    experiment: Experiment, curves: Mapping[str, Curves]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each agent what was given [M] and the success of its seeds [M, S]."""
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if experiment.runs[0].amount is not None:
        for agent in experiment.runs[0].config.agents:
            last = [curves[run.label][agent][-1]["success_rate"] for run in experiment.runs]
            amounts = np.array([run.amount for run in experiment.runs])
            series[agent] = amounts, np.array(last)
        return series
    alone = all(len(run.config.agents) == 1 for run in experiment.runs)
    for run in experiment.runs:
        for agent, records in curves[run.label].items():
            kept = [record for record in records if "success_rate" in record]
            steps = np.array([record["step"] for record in kept])
            success = np.array([record["success_rate"] for record in kept])
            series[run.label if alone else agent] = steps, success
    return series


def _draw(series, experiment: Experiment, path: pathlib.Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for color, (label, (amounts, success)) in enumerate(series.items()):
        means = [summary.interquartile_mean(row) for row in success]
        if len(amounts) == 1:
            axes.axhline(means[0], color=f"C{color}", linestyle="--", label=label)
            continue
        low, high = np.array([summary.interval(row) for row in success]).T
        axes.plot(amounts, means, color=f"C{color}", label=label)
        axes.fill_between(amounts, low, high, color=f"C{color}", alpha=0.2, linewidth=0)
    axes.set(
        xlabel=experiment.scarce, ylabel="success rate, interquartile mean", ylim=(-0.02, 1.02)
    )
    if experiment.runs[0].amount is not None:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _table(experiment: Experiment, curves: Mapping[str, Curves]) -> str:
    """Final results of every agent of every run, as Markdown."""
    varied = len(experiment.runs) > 1
    unseen = any(
        "unseen_success_rate" in records[-1]
        for told in curves.values()
        for records in told.values()
    )
    columns = [*(["run"] if varied else []), "agent", "seeds", "success rate"]
    columns += [*(["unseen tasks"] if unseen else []), "return", "steps to 90% success"]
    rows = [columns, ["---"] * len(columns)]
    for run in experiment.runs:
        for agent, records in curves[run.label].items():
            told = summary.summarize(records, step_unit(run.config))
            steps = told["steps_to_90"]["median"]
            rows.append(
                [
                    *([run.label] if varied else []),
                    agent,
                    str(run.config.num_seeds),
                    _interval(told["success_rate"]),
                    *([_interval(told.get("unseen_success_rate"))] if unseen else []),
                    _interval(told["return"]),
                    "never" if steps is None else f"{steps:,.0f}",
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _interval(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    return f"{told['iqm']:.2f} [{told['ci95'][0]:.2f}, {told['ci95'][1]:.2f}]"


def _verdict(claim: experiments.Claim, series, scarce: str) -> str:
    (amounts, baseline), (_, method) = series[claim.baseline], series[claim.method]
    if not any(summary.interquartile_mean(row) > 0 for row in baseline):
        return f"**Claim.** {claim.baseline} never succeeds here, so nothing can be compared."
    told = claims.saving(amounts, baseline, method)
    if np.isinf(told.method):
        return (
            f"**Claim not borne out.** {claim.baseline} reaches a success rate of "
            f"{told.level:.2f}; {claim.method} never does."
        )
    borne_out = "borne out" if told.low >= 0.9 else "not borne out"
    return (
        f"**Claim {borne_out}.** To reach {told.level:.2f}, the best success rate of "
        f"{claim.baseline}, {claim.baseline} needs {told.baseline:,.0f} {scarce} and "
        f"{claim.method} {told.method:,.0f}: {told.saved:.0%} fewer, 95% interval "
        f"[{told.low:.0%}, {told.high:.0%}]; claimed are 90%."
    )


def _head(scale: experiments.Scale, minutes: float) -> str:
    told = provenance.describe()
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    return "\n".join(
        [
            "# What a prior is worth",
            "",
            "Interquartile means over seeds, with 95% bootstrap intervals. `results.jsonl` has the",
            "curve of every seed.",
            "",
            f"- command: `{told['command']}`",
            f"- written: {datetime.date.today()}, after {minutes:.0f} minutes of this call",
            f"- commit: {told['commit']}",
            f"- devices: {', '.join(told['devices'])}; Python {told['python']}; {versions}",
            f"- sizes: {scale}",
        ]
    )


if __name__ == "__main__":
    app.run(main)
