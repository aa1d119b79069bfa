"""Trains every combination of some settings: seeds together as in any run, the rest as processes.

    python -m launch.sweep --config=launch/configs/overcooked_dqn_prior.py --workdir=runs/alpha \\
        --set=agent.alpha=0.01,0.03,0.1 --set=agent.backup=posterior,soft

Each combination is a run of `launch.train` with a directory of its own in --workdir, named for its
settings, with its output in `log.txt`. Given again, the command goes on where it stopped: finished
runs are left alone and interrupted ones resumed.
"""

import concurrent.futures
import difflib
import functools
import itertools
import operator
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
from absl import flags
from ml_collections import config_flags

from launch.common import app
from llmprior_jax import progress, training
from llmprior_jax.learning.run import step_unit
from llmprior_jax.training import summary
from llmprior_jax.training.config import check_workdir
from llmprior_jax.training.metrics import read_metrics

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to run: a file with `get_config()`."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the sweep.", required=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "A field of the configuration and its values: agent.alpha=0.01,0.1"
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs at the same time; one already uses all cores.", lower_bound=1
)
flags.mark_flag_as_required("config")

_POLL_SECONDS = 0.2
# Between values, and not within a tuple, such as agents=("dqn",),("dqn","dqn_prior").
_COMMA = re.compile(r",(?![^()]*\))")


def combinations(settings: Sequence[str], config: training.Config) -> list[dict[str, str]]:
    """All combinations of settings given as "field=value,value".

    Raises:
      ValueError: a setting has no values, or the configuration has no such field.
    """
    fields = _leaves(config.to_dict())
    values = {}
    for setting in settings:
        name, _, listed = setting.partition("=")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            raise ValueError(
                f"--set={setting}: the configuration has no field {name!r}; did you mean "
                f"{near[0]!r}?"
            )
        values[name] = [value for value in _COMMA.split(listed) if value]
        if not values[name]:
            raise ValueError(f"--set={setting}: give values, as in {name}=1,2")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def main(argv: Sequence[str]) -> None:
    del argv
    points = combinations(_SET.value, _CONFIG.value)
    workdir = pathlib.Path(_WORKDIR.value)
    runs = {_name(point): point for point in points}
    with (
        app.StopSignal() as should_stop,
        concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool,
        progress.bar(total=len(runs), desc="sweep", unit="run") as bar,
    ):
        futures = {}
        for name, point in runs.items():
            futures[name] = pool.submit(_train, workdir / name, point, should_stop)
            futures[name].add_done_callback(lambda _: bar.update())
    codes = {name: future.result() for name, future in futures.items()}
    if should_stop():
        raise training.InterruptedRunError(f"stopped; the same command goes on in {workdir}")

    results = {}
    for name in runs:
        if codes[name] == 0:
            # Not from its summary, which another version may have written in other words.
            config = training.read_config(workdir / name)
            for agent in config.agents:
                told = read_metrics(workdir / name / agent)
                results[f"{name} {agent}"] = summary.summarize(told, step_unit(config))
    if results:
        rich.console.Console().print(summary.table(results, _CONFIG.value.num_seeds))
    failed = [name for name, code in codes.items() if code]
    if failed:
        sys.exit(f"error: {len(failed)} of {len(runs)} runs failed; see log.txt in {failed}")
    print(f"every run has a directory in {workdir}")


def _train(directory: pathlib.Path, point: Mapping[str, str], should_stop: app.StopSignal) -> int:
    """Runs one combination to its end and returns the exit status; 0 if it had finished before."""
    if (directory / training.SUMMARY_FILE).exists():
        _check_finished(directory, point)
        return 0
    if should_stop():
        return 1
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "launch.train", f"--workdir={directory}", *_passed_on()]
    command += [f"--config.{name}={value}" for name, value in point.items()]
    with (directory / "log.txt").open("a") as log:
        # In a session of its own: Ctrl-C reaches this process alone, which asks the run to end.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not should_stop():
            time.sleep(_POLL_SECONDS)
        if process.poll() is None:
            process.terminate()
        return process.wait()


def _check_finished(directory: pathlib.Path, point: Mapping[str, str]) -> None:
    """Raises a ConfigMismatchError if a finished run differs in more than what its name says."""
    config = _CONFIG.value.copy_and_resolve_references()
    theirs = training.read_config(directory)
    config.update_from_flattened_dict(
        {name: functools.reduce(operator.getitem, name.split("."), theirs) for name in point}
    )
    check_workdir(directory, config)


@functools.cache
def _passed_on() -> list[str]:
    """The flags of this command that say what each run has in common."""
    flag = flags.FLAGS["config"]
    told = config_flags.get_override_values(flag)
    return [
        f"--config={config_flags.get_config_filename(flag)}",
        *(f"--config.{name}={value}" for name, value in told.items()),
    ]


def _name(point: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in point.items()).replace("/", "_") or "run"


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in fields.items():
        inner = isinstance(value, Mapping)
        names += _leaves(value, f"{prefix}{name}.") if inner else [prefix + name]
    return names


if __name__ == "__main__":
    app.run(main)
