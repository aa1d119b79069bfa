"""Runs the experiments of the paper and some more, and writes a report that a reader can check.

    python -m launch.reproduce --workdir=runs/reproduce --out=report
    python -m launch.reproduce --workdir=runs/quick --out=report --quick --jobs=2
    python -m launch.reproduce --workdir=runs/reproduce --out=report --only=offline
    python -m launch.reproduce --workdir=runs/reproduce --out=report --notrain

`--out` gets `report.md` with a table, a figure and a verdict on each claim, the figures, and
`results.jsonl`: a line for each seed of each run, from which all of it is computed. Given again,
the command goes on where it stopped, and what a report in `--out` tells of other runs stays there.
`--quick` does each experiment small, in 8.5 minutes with two processes on 2 cores (11 with one),
and leaves out what only a long look can tell apart, such as GFlan beyond one kitchen; `--notrain`
tells what is finished so far. The settings are in `launch/plan.py`.
"""

import datetime
import difflib
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import filelock
from absl import flags

from launch.common import app, run_pool
from launch.paper import plan, report
from launch.paper.plan import Experiment, Run
from llmprior_jax import training
from llmprior_jax.files import write_atomically
from llmprior_jax.training import provenance
from llmprior_jax.training.metrics import read_metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs.", required=True)
_OUT = flags.DEFINE_string("out", None, "Directory of the report.", required=True)
_QUICK = flags.DEFINE_bool("quick", False, "Do all of it small, for a look.")
_ONLY = flags.DEFINE_string("only", "", "Only experiments whose name begins so.")
_JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Processes that share the runs, on CPUs; one seldom keeps two cores busy.",
    lower_bound=1,
)
_TRAIN = flags.DEFINE_bool("train", True, "Train; --notrain reports what is finished so far.")


def main(argv: Sequence[str]) -> None:
    del argv
    scale = plan.QUICK if _QUICK.value else plan.FULL
    workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
    inputs = plan.find_inputs(workdir)
    planned = plan.make(scale, inputs)
    chosen = {name: told for name, told in planned.items() if name.startswith(_ONLY.value)}
    if not chosen:
        near = difflib.get_close_matches(_ONLY.value, planned, n=1, cutoff=0.0)[0]
        raise ValueError(f"--only={_ONLY.value}: no experiment begins so; did you mean {near!r}?")
    every, runs = _distinct(planned), _distinct(chosen)
    if others := report.read(out).records.keys() - every.keys():
        raise ValueError(
            f"the report in {out} tells of {len(others)} runs that are none of these: they were "
            "made with --quick or without it, with other settings, or with packages that are "
            "missing here; use another --out, or remove that one"
        )
    if _TRAIN.value:
        needs = {need for experiment in chosen.values() for need in experiment.needs}
        _prepare(inputs, scale, needs)
        configs = {name: run.config for name, run in runs.items()}
        run_pool.train(workdir, configs, _JOBS.value)
    finished = {
        name: read_metrics(workdir / name / run.config.agents[0])
        for name, run in runs.items()
        if (workdir / name / training.SUMMARY_FILE).exists()
    }
    # Read again: another call may have added to it meanwhile.
    known = report.read(out).add(finished, _call(scale, workdir, finished))
    told = report.write(out, planned, known)
    print(f"the report of {told} experiments is in {out / 'report.md'}")


def _distinct(chosen: Mapping[str, Experiment]) -> dict[str, Run]:
    """The runs of all experiments by name, each once."""
    return {run.name: run for experiment in chosen.values() for run in experiment.runs}


def _prepare(inputs: plan.Inputs, scale: plan.Scale, needs: set[str]) -> None:
    """Makes the files that experiments need and that are not there yet."""
    salad, games = f"--env={plan.SALAD}", f"{inputs.games}/json_2.1.1/train"
    train, unseen = scale.pick((28, 26), (2, 2))
    commands = {
        # 100 of the 133 episodes of the paper's released dataset succeed.
        "dataset": (
            "launch.collect",
            salad,
            f"--behavior={plan.DATASET_BEHAVIOR}",
            "--success_share=0.75",
            f"--transitions={max(scale.dataset_sizes)}",
        ),
        "demonstrations": ("launch.collect", salad, "--behavior=expert@0.1", "--transitions=4000"),
        "games": ("launch.make_games", "--tasks=pick", f"--train={train}", f"--unseen={unseen}"),
        **{
            name: (
                "launch.collect",
                "--env=ALFWorld",
                f"--games={games}",
                "--history=3",
                "--behavior=prior:0.75,random:0.25",
                "--success_share=0.75",
                f"--transitions={max(sizes, default=0)}",
            )
            for name, sizes in (
                ("pick", scale.alfworld_sizes),
                ("pick_large", scale.alfworld_large_sizes),
            )
        },
    }
    for name, command in commands.items():
        if name in needs:
            _make(getattr(inputs, name), *command)


def _make(path: pathlib.Path, module: str, *arguments: str) -> None:
    """Makes a file or a directory by a command, unless it is there.

    Raises:
      ValueError: it was made by another command.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = path.with_suffix(f"{path.suffix}.complete")
    # Wherever the work directory lies.
    command = shlex.join([module, *arguments]).replace(f"{path.parent}/", "")
    with filelock.FileLock(path.with_suffix(f"{path.suffix}.lock")):
        if not finished.exists():
            with run_pool.timed(path.parent, path.name):
                made = [sys.executable, "-m", module, *arguments, f"--out={path}"]
                subprocess.run(made, check=True)
            write_atomically(finished, command + "\n")
    if finished.read_text().strip() != command:
        raise ValueError(
            f"{path} was made by `{finished.read_text().strip()}`, and `{command}` is wanted; use "
            "another --workdir"
        )


def _call(scale: plan.Scale, workdir: pathlib.Path, finished: Collection[str]) -> dict[str, Any]:
    """What a report says of this call, to which it owes those runs."""
    told = provenance.describe()
    commits = dict.fromkeys(
        json.loads(line)["commit"]
        for name in finished
        for line in (workdir / name / provenance.FILE).read_text().splitlines()
    )
    spent = workdir / run_pool.SECONDS_FILE
    times = [json.loads(line) for line in spent.read_text().splitlines()] if finished else []
    return {
        "written": str(datetime.date.today()),
        "command": told["command"],
        "minutes": round(sum(each["seconds"] for each in times if each["name"] in finished) / 60),
        "commits": list(commits),
        "devices": told["devices"],
        "python": told["python"],
        "versions": told["versions"],
        "sizes": str(scale),
    }


if __name__ == "__main__":
    app.run(main)
