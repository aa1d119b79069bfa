"""Searches for the best settings of each agent, for baselines as thoroughly as for methods.

    python -m launch.search_settings --workdir=runs/settings --out=launch/results/settings --jobs=2

Trains every setting of a grid, with one factor changed at a time and then the best values together,
on seeds that no report uses, and chooses the best by a fixed rule. DQN has the same grid as
DQN-Prior, CQL as CQL-Prior, GFlan as GFlan-Prior. Writes `report.md` and `results.json` to `--out`;
`launch.reproduce` takes the settings of each agent in the kitchens from there. Repeat the command
to resume. The grids and the rule are in `launch/search_settings/plan.py`.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence

from launch.common import app, run_pool, steps
from launch.common.made import make_once
from launch.search_settings import plan, report
from llmprior_jax.files import check_writable
from llmprior_jax.registry import unknown
from llmprior_jax.training.metrics import read_metrics

_AGENTS = list(plan.searches(plan.FULL, ""))
FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the runs.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_AGENTS_WANTED = FLAGS.list(
    "agents", _AGENTS, "Agents to search for; what --out has of others stays."
)
_QUICK = FLAGS.boolean("quick", False, "Do all of it tiny, to see that it works.")
_JOBS = FLAGS.integer("jobs", 2, "Processes that share the runs.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    for agent in _AGENTS_WANTED.value:
        if agent not in _AGENTS:
            raise ValueError(f"--agents: {unknown('agent', agent, _AGENTS)}")
    workdir, out = pathlib.Path(_WORKDIR.value).absolute(), pathlib.Path(_OUT.value)
    check_writable(out / report.FILE)
    check_writable(workdir / plan.DATASET)
    report.check(out, _QUICK.value)
    every = plan.searches(plan.QUICK if _QUICK.value else plan.FULL, str(workdir / plan.DATASET))
    searches = {agent: every[agent] for agent in _AGENTS_WANTED.value}
    needs_dataset = any("offline.dataset" in search.fields for search in searches.values())
    if needs_dataset:
        make_once(workdir / plan.DATASET, *plan.COLLECT)
    tried = {agent: plan.one_at_a_time(search) for agent, search in searches.items()}
    found = _train(workdir, searches, tried)
    for agent, search in searches.items():
        scores = {name: plan.score(search, curve) for name, (_, curve) in found[agent].items()}
        if (best := plan.combined(search, scores)) not in tried[agent]:
            tried[agent].append(best)
    found = _train(workdir, searches, tried)
    command = shlex.join(["python", "-m", "launch.search_settings", *sys.argv[1:]])
    report.write(searches, found, command, out, _QUICK.value)
    print(f"the report is in {out / report.FILE}")


def _train(
    workdir: pathlib.Path,
    searches: Mapping[str, plan.Search],
    tried: Mapping[str, Sequence[plan.Fields]],
) -> dict[str, report.Tried]:
    """Trains what is not trained yet; returns all settings with their curves."""
    store = str(workdir / "priors.sqlite")
    runs = {
        plan.name(search, fields): plan.config(search, fields, store)
        for agent, search in searches.items()
        for fields in tried[agent]
    }
    if failed := run_pool.train_in_processes(workdir, runs, _JOBS.value):
        sys.exit(run_pool.describe_failures(failed, len(runs)))
    if missing := [name for name in runs if not run_pool.is_finished(workdir, name)]:
        sys.exit(f"another process is at {', '.join(missing)}; give the same command again later")

    def curve(name: str, agent: str) -> Mapping[str, object]:
        return steps.curve_of(read_metrics(workdir / name / agent))

    return {
        agent: {
            plan.name(search, fields): (fields, curve(plan.name(search, fields), agent))
            for fields in tried[agent]
        }
        for agent, search in searches.items()
    }


if __name__ == "__main__":
    app.run(main, FLAGS)
