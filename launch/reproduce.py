"""Runs the paper's experiments and some more, and writes a report that a reader can check.

    python -m launch.reproduce --workdir=runs/reproduce --out=report
    python -m launch.reproduce --workdir=runs/quick --out=report --quick --jobs=2
    python -m launch.reproduce --workdir=runs/reproduce --out=report --only=offline
    python -m launch.reproduce --workdir=runs/reproduce --out=report --notrain

Writes to `--out`: `report.md` with a table, a figure and verdicts on each claim, the figures, and
`results.jsonl`, a line for each run with its seeds' curves, from which all is computed. Agents that
are compared in kitchens have the settings that `launch.search_settings` chose. Repeat the command
to resume; other runs in a report in `--out` are kept. `--quick` makes each experiment small and
leaves out those that need long runs, such as GFlan beyond one kitchen; `--notrain` reports what is
finished so far. The settings are in `launch/paper`.
"""

import pathlib
import sys
from collections.abc import Sequence

from launch.common import app, run_pool
from launch.paper import experiments, inputs, plan, report
from llmprior_jax.files import check_writable
from llmprior_jax.registry import unknown
from llmprior_jax.training.metrics import read_metrics

FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the runs.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_QUICK = FLAGS.boolean("quick", False, "Do all of it small, for a look.")
_ONLY = FLAGS.string("only", "", "Only experiments whose name begins so.")
_JOBS = FLAGS.integer(
    "jobs",
    1,
    "Processes that share the runs, on CPUs; one seldom keeps two cores busy.",
    lower_bound=1,
)
_TRAIN = FLAGS.boolean("train", True, "Train; --notrain reports what is finished so far.")


def main(argv: Sequence[str]) -> None:
    del argv
    scale = experiments.QUICK if _QUICK.value else experiments.FULL
    workdir, out = pathlib.Path(_WORKDIR.value), pathlib.Path(_OUT.value)
    check_writable(out / report.FILE)
    found = experiments.find_inputs(workdir)
    planned = plan.make(scale, found)
    chosen = {name: each for name, each in planned.items() if name.startswith(_ONLY.value)}
    left_out = plan.left_out(found)
    if not chosen:
        told = [unknown("experiment", _ONLY.value, planned), *left_out]
        raise ValueError(f"--only={_ONLY.value}: {'; '.join(told)}")
    for line in left_out:
        print(line, file=sys.stderr)
    every, runs = experiments.distinct_runs(planned), experiments.distinct_runs(chosen)
    if others := report.read(out).records.keys() - every.keys():
        raise ValueError(
            f"the report in {out} tells of {len(others)} runs that are none of these: they were "
            "made with --quick or without it, with other settings, or with packages that are "
            "missing here; use another --out, or remove that one"
        )
    if _TRAIN.value:
        needs = {need for experiment in chosen.values() for need in experiment.needs}
        inputs.prepare(found, scale, needs)
        configs = {name: run.config for name, run in runs.items()}
        if _JOBS.value == 1:
            run_pool.train_here(workdir, configs)
        elif failed := run_pool.train_in_processes(workdir, configs, _JOBS.value):
            sys.exit(run_pool.describe_failures(failed, len(configs)))
    finished = {
        name: read_metrics(workdir / name / run.config.agents[0])
        for name, run in runs.items()
        if run_pool.is_finished(workdir, name)
    }
    # Read again: another call may have added to it meanwhile.
    evidence = report.read(out).add(finished, report.describe_call(scale, workdir, finished))
    num_experiments = report.write(out, planned, evidence)
    print(f"the report of {num_experiments} experiments is in {out / report.FILE}")


if __name__ == "__main__":
    app.run(main, FLAGS)
