"""Runs the experiments of the paper and some more, and writes a report that a reader can check.

    python -m launch.reproduce --workdir=runs/reproduce --out=report
    python -m launch.reproduce --workdir=runs/quick --out=report --quick
    python -m launch.reproduce --workdir=runs/reproduce --out=report --only=offline
    python -m launch.reproduce --workdir=runs/reproduce --out=report --notrain

`--out` gets `report.md` with a table, a figure and a verdict on each claim, the figures, and
`results.jsonl`: a line for each seed of each run, from which all of it is computed. Given again,
the command goes on where it stopped. `--quick` does all of it small, in 13 minutes on 2 cores, and
`--notrain` tells what is finished so far. The settings are in `launch/experiments.py`.
"""

import contextlib
import datetime
import difflib
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from launch import app, claims, experiments
from launch.claims import Curve
from launch.experiments import Experiment, Run
from llmprior_jax import progress, training
from llmprior_jax.training import provenance, summary
from llmprior_jax.training.config import check_workdir
from llmprior_jax.training.files import write_atomically
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.training.runs import step_unit

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the report.", required=True)
_QUICK = flags.DEFINE_bool("quick", False, "Do all of it small, for a look.")
_ONLY = flags.DEFINE_string("only", "", "Only experiments whose name begins so.")
_TRAIN = flags.DEFINE_bool("train", True, "Train; --notrain reports what is finished so far.")

_SECONDS = "seconds.jsonl"
_TOLD = ("success_rate", "return", "unseen_success_rate")
Records = Sequence[Mapping[str, Any]]


def main(argv: Sequence[str]) -> None:
    del argv
    scale = experiments.QUICK if _QUICK.value else experiments.FULL
    workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
    inputs = experiments.find_inputs(workdir)
    planned = experiments.make(scale, inputs)
    chosen = {name: told for name, told in planned.items() if name.startswith(_ONLY.value)}
    if not chosen:
        near = difflib.get_close_matches(_ONLY.value, planned, n=1, cutoff=0.0)[0]
        raise ValueError(f"--only={_ONLY.value}: no experiment begins so; did you mean {near!r}?")
    if _TRAIN.value:
        needs = {need for experiment in chosen.values() for need in experiment.needs}
        _prepare(inputs, scale, needs)
        _train(workdir, _distinct(chosen))
    num_planned = len(_distinct(chosen))
    chosen = _finished(workdir, chosen)
    runs = _distinct(chosen)

    out.mkdir(parents=True, exist_ok=True)
    records = {
        name: [
            record
            for record in read_metrics(workdir / name / run.config.agents[0])
            if "success_rate" in record
        ]
        for name, run in runs.items()
    }
    lines = [
        json.dumps(line)
        for name, experiment in chosen.items()
        for line in _raw(name, experiment, records)
    ]
    sections = [_section(name, experiment, records, out) for name, experiment in chosen.items()]
    write_atomically(out / "results.jsonl", "\n".join(lines) + "\n")
    head = _head(scale, workdir, runs, num_planned)
    write_atomically(out / "report.md", "\n\n".join([head, *sections]) + "\n")
    print(f"the report of {len(chosen)} experiments is in {out / 'report.md'}")


def _distinct(chosen: Mapping[str, Experiment]) -> dict[str, Run]:
    """The runs of all experiments by directory, each once."""
    return {run.directory: run for experiment in chosen.values() for run in experiment.runs}


def _finished(workdir: pathlib.Path, chosen: Mapping[str, Experiment]) -> dict[str, Experiment]:
    """The experiments with those of their runs that are finished, and the claims about them.

    Raises:
      ValueError: there are none to compare.
    """
    told = {}
    for name, experiment in chosen.items():
        runs = tuple(
            run
            for run in experiment.runs
            if (workdir / run.directory / training.SUMMARY_FILE).exists()
        )
        labels = {run.label for run in runs}
        checked = tuple(
            claim for claim in experiment.claims if {claim.method, claim.baseline} <= labels
        )
        if len(runs) > 1:  # One alone has nothing beside it.
            told[name] = experiment._replace(runs=runs, claims=checked)
    if not told:
        raise ValueError(
            f"no two runs of an experiment in {workdir} are finished; leave --notrain out"
        )
    return told


def _train(workdir: pathlib.Path, runs: Mapping[str, Run]) -> None:
    """Trains what is not finished yet."""
    with app.StopSignal() as should_stop:
        for name, run in progress.bar(runs.items(), desc="runs"):
            check_workdir(workdir / name, run.config)
            if not (workdir / name / training.SUMMARY_FILE).exists():
                with _timed(workdir, name):
                    training.run(run.config, workdir / name, should_stop=should_stop)
                jax.clear_caches()  # Programs are kept on disk, and nothing else would free them.


def _prepare(inputs: experiments.Inputs, scale: experiments.Scale, needs: set[str]) -> None:
    """Makes the files that experiments need and that are not there yet."""
    salad, games = f"--env={experiments.SALAD}", f"{inputs.games}/json_2.1.1/train"
    train, unseen = scale.pick((28, 26), (2, 2))
    commands = {
        # 100 of the 133 episodes of the paper's released dataset succeed.
        "dataset": (
            "launch.collect",
            salad,
            f"--behaviour={experiments.DATASET_BEHAVIOUR}",
            "--success_share=0.75",
            f"--transitions={max(scale.dataset_sizes)}",
        ),
        "demonstrations": ("launch.collect", salad, "--behaviour=expert@0.1", "--transitions=4000"),
        "games": ("launch.make_games", "--tasks=pick", f"--train={train}", f"--unseen={unseen}"),
        "pick": (
            "launch.collect",
            "--env=ALFWorld",
            f"--games={games}",
            "--history=3",
            "--behaviour=prior:0.75,random:0.25",
            "--success_share=0.75",
            f"--transitions={max(scale.alfworld_sizes)}",
        ),
    }
    for name, command in commands.items():
        if name not in needs:
            continue
        path = getattr(inputs, name)
        finished = path.with_suffix(f"{path.suffix}.complete")
        if not finished.exists():
            with _timed(path.parent, path.name):
                _command(*command, f"--out={path}")
            finished.touch()


def _command(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


@contextlib.contextmanager
def _timed(workdir: pathlib.Path, name: str) -> Generator[None]:
    """Adds the time that something takes to what is known of it, whether it ends or is stopped."""
    started = time.monotonic()
    try:
        yield
    finally:
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / _SECONDS).open("a") as file:
            told = {"name": name, "seconds": round(time.monotonic() - started, 1)}
            file.write(json.dumps(told) + "\n")


def _raw(
    name: str, experiment: Experiment, records: Mapping[str, Records]
) -> Iterator[dict[str, Any]]:
    """A line for each seed: its whole curve, so that every number can be computed again."""
    for run in experiment.runs:
        told = records[run.directory]
        for seed in range(run.config.num_seeds):
            yield {
                "experiment": name,
                "run": run.label,
                "agent": run.config.agents[0],
                **({} if run.amount is None else {experiment.scarce: run.amount}),
                "seed": seed,
                "steps": [record["step"] for record in told],
                **{
                    key: [round(record[key][seed], 6) for record in told]
                    for key in _TOLD
                    if key in told[-1]
                },
            }


def _section(
    name: str, experiment: Experiment, records: Mapping[str, Records], out: pathlib.Path
) -> str:
    """The part of the report on one experiment; draws its figure."""
    curves = _curves(experiment, records)
    _draw(curves, experiment, out / f"{name}.png")
    return "\n\n".join(
        [
            f"## {experiment.title}",
            experiment.question,
            f"![{experiment.title}]({name}.png)",
            _table(experiment, records),
            *(_verdict(claim, curves, experiment.scarce) for claim in experiment.claims),
            *([f"**Tried before.** {experiment.tried}"] if experiment.tried else []),
        ]
    )


def _curves(experiment: Experiment, records: Mapping[str, Records]) -> dict[str, Curve]:
    """By label, success against what was given: runs are points where their amounts differ."""
    points: dict[str, list[tuple[int, Sequence[float]]]] = {}
    for run in experiment.runs:
        told = records[run.directory]
        points.setdefault(run.label, []).extend(
            [(record["step"], record[experiment.success]) for record in told]
            if run.amount is None
            else [(run.amount, told[-1][experiment.success])]
        )
    return {
        label: Curve(*map(np.array, zip(*of_label, strict=True)))
        for label, of_label in points.items()
    }


def _draw(curves: Mapping[str, Curve], experiment: Experiment, path: pathlib.Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colors: dict[str, str] = {}
    for label, (amounts, success) in curves.items():
        # What learns with a prior and that prior alone belong together.
        color = colors.setdefault(label.removesuffix(" alone"), f"C{len(colors)}")
        means = [summary.interquartile_mean(row) for row in success]
        if len(amounts) == 1:
            axes.axhline(means[0], color=color, linestyle="--", label=label)
            continue
        low, high = np.array([summary.interval(row) for row in success]).T
        axes.plot(amounts, means, color=color, label=label)
        axes.fill_between(amounts, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(
        xlabel=experiment.scarce, ylabel="success rate, interquartile mean", ylim=(-0.02, 1.02)
    )
    if experiment.runs[0].amount is not None:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def _table(experiment: Experiment, records: Mapping[str, Records]) -> str:
    """Final results of every run, as Markdown."""
    unseen = any("unseen_success_rate" in records[run.directory][-1] for run in experiment.runs)
    has_amounts = experiment.runs[0].amount is not None
    columns = ["run", *([experiment.scarce] if has_amounts else []), "seeds", "success rate"]
    columns += [*(["unseen tasks"] if unseen else []), "return"]
    columns += [] if has_amounts else ["steps to 90% success"]
    rows = [columns, ["---"] * len(columns)]
    for run in experiment.runs:
        told = summary.summarize(records[run.directory], step_unit(run.config))
        rows.append(
            [
                run.label,
                *([f"{run.amount:,}"] if run.amount is not None else []),
                str(run.config.num_seeds),
                _interval(told["success_rate"]),
                *([_interval(told.get("unseen_success_rate"))] if unseen else []),
                _interval(told["return"]),
                *([] if has_amounts else [_steps(told["steps_to_90"])]),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _interval(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    return f"{told['iqm']:.2f} [{told['ci95'][0]:.2f}, {told['ci95'][1]:.2f}]"


def _steps(told: Mapping[str, Any]) -> str:
    median, low, high = (
        "never" if steps is None else f"{steps:,.0f}"
        for steps in (told["median"], *told["quartiles"])
    )
    return median if median == "never" else f"{median} [{low}, {high}]"


def _verdict(claim: experiments.Claim, curves: Mapping[str, Curve], scarce: str) -> str:
    """Says of a claim whether what was measured bears it out."""
    baseline, method = curves[claim.baseline], curves[claim.method]
    claimed = (
        f"{claim.method} needs at most {claim.at_most:g} times the {scarce} of {claim.baseline}"
    )
    if not any(summary.interquartile_mean(row) > 0 for row in baseline.success):
        return f"**Claim: {claimed}.** {claim.baseline} never succeeds here: nothing to compare."
    told = claims.saving(baseline, method, claim.level)
    best = f", the best of {claim.baseline}," if claim.level is None else ""
    level = f"a success rate of {told.level:.2f}{best}"
    if np.isinf(told.baseline):
        return f"**Claim: {claimed}.** {claim.baseline} never reaches {level}: nothing to compare."
    if np.isinf(told.method):
        most = f"at least {1 - told.high:.2f}" if np.isfinite(told.high) else "infinite"
        return (
            f"**Claim: {claimed}. Not borne out.** {claim.method} never reaches {level} here "
            f"(lower end of the 95% interval of the ratio: {most})."
        )
    if 1 - told.low <= claim.at_most:
        verdict = "Borne out"
    else:
        # An interval around the claimed ratio decides nothing.
        verdict = "Not decided" if 1 - told.high <= claim.at_most else "Not borne out"
    upper = f"{1 - told.low:.2f}" if np.isfinite(told.low) else "never"
    return (
        f"**Claim: {claimed}. {verdict}.** To reach {level} {claim.baseline} needs "
        f"{told.baseline:,.0f} and {claim.method} {told.method:,.0f}: {1 - told.saved:.2f} times "
        f"as many, 95% interval [{1 - told.high:.2f}, {upper}]."
    )


def _head(
    scale: experiments.Scale, workdir: pathlib.Path, runs: Mapping[str, Run], num_planned: int
) -> str:
    told = provenance.describe()
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    commits = dict.fromkeys(
        json.loads(line)["commit"]
        for name in runs
        for line in (workdir / name / provenance.FILE).read_text().splitlines()
    )
    spent = [json.loads(line) for line in (workdir / _SECONDS).read_text().splitlines()]
    minutes = sum(each["seconds"] for each in spent if each["name"] in runs) / 60
    return "\n".join(
        [
            "# What a prior is worth",
            "",
            "Interquartile means over seeds, with 95% bootstrap intervals; of steps, medians and",
            "quartiles. `results.jsonl` has the curve of every seed.",
            "",
            f"- command: `{told['command']}`",
            f"- written: {datetime.date.today()}; {len(runs)} of {num_planned} runs are "
            f"finished, and took {minutes:.0f} minutes in all, over all calls of the command",
            f"- commits of the runs: {', '.join(map(str, commits))}",
            f"- devices: {', '.join(told['devices'])}; Python {told['python']}; {versions}",
            f"- sizes: {scale}",
        ]
    )


if __name__ == "__main__":
    app.run(main)
