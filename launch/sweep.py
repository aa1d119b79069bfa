"""Trains every combination of some settings, each as one process with all its seeds.

    python -m launch.sweep --config=launch/configs/overcooked_dqn_prior.py --workdir=runs/alpha \\
        --set=agent.alpha=0.01,0.03,0.1 --set=agent.backup=posterior,soft

Each combination is a run of `launch.train` in its own directory in --workdir, which is named for
its settings and has the output in `log.txt`. If the command is repeated, finished runs are kept and
interrupted ones resumed. A run that fails does not stop the others.
"""

import copy
import itertools
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
from absl import flags
from ml_collections import config_flags

from launch.common import app, results, run_pool
from llmprior_jax import training
from llmprior_jax.registry import nearest
from llmprior_jax.training import summary

FLAGS = app.Flags()
_CONFIG = FLAGS.config_file("What to run: a file with `get_config()`.", required=True)
_WORKDIR = FLAGS.string("workdir", None, "Directory of the sweep.", required=True)
_SET = flags.DEFINE_multi_string(
    "set", [], "A field of the configuration and its values: agent.alpha=0.01,0.1", FLAGS
)
_JOBS = FLAGS.integer(
    "jobs", 1, "Runs at the same time; one already uses all cores.", lower_bound=1
)

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
            raise ValueError(
                f"--set={setting}: the configuration has no field {name!r}; did you mean "
                f"{nearest(name, fields)!r}?"
            )
        values[name] = [value for value in _COMMA.split(listed) if value]
        if not values[name]:
            raise ValueError(f"--set={setting}: give values, as in {name}=1,2")
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def with_settings(config: training.Config, point: Mapping[str, str]) -> training.Config:
    """A configuration with one combination of settings, read as `launch.train` reads them.

    Raises:
      ValueError: a value is none of its field.
    """
    words = ["sweep", *(f"--config.{name}={value}" for name, value in point.items())]
    values = flags.FlagValues()
    own = copy.deepcopy(config)  # A plain copy would lose the types of what is None.
    changed = config_flags.DEFINE_config_dict("config", own, flag_values=values, sys_argv=words)
    try:
        values(words)
    except (flags.Error, TypeError, ValueError) as error:
        settings = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ValueError(f"--set cannot make {settings}: {error}") from error
    return changed.value


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    points = combinations(_SET.value, _CONFIG.value)
    configs = {_name(point): with_settings(_CONFIG.value, point) for point in points}
    failed = run_pool.train_in_processes(workdir, configs, _JOBS.value)
    finished = [workdir / name for name in configs if run_pool.is_finished(workdir, name)]
    if found := results.read(finished):
        statistics, num_seeds = results.summarize(found), results.common_num_seeds(found)
        rich.console.Console().print(summary.table(statistics, num_seeds))
    if failed:
        sys.exit(run_pool.describe_failures(failed, len(configs)))
    if len(finished) < len(configs):
        print(
            f"{len(finished)} of {len(configs)} runs are finished; another process is at the others"
        )
    else:
        print(f"every run has a directory in {workdir}")


def _name(point: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in point.items()).replace("/", "_") or "run"


def _leaves(fields: Mapping[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in fields.items():
        inner = isinstance(value, Mapping)
        names += _leaves(value, f"{prefix}{name}.") if inner else [prefix + name]
    return names


if __name__ == "__main__":
    app.run(main, FLAGS)
