"""Measures the benefit of learning how far to trust a prior, and writes a report.

    python -m launch.trust --workdir=runs/trust --out=report

The priors, good and bad, are those of the embedded model and of two real ones, whose weights come
as packages (`python -m launch.real_models --help` names them; `--models=` leaves them out).
DQN-Prior with learned trust is compared with DQN on the same features, with the same prior used as
is, and with the best fixed setting, found on other seeds; CQL-Prior and GFlan-Prior with their
counterparts. Repeat the command to resume. The settings are in `launch/trust/plan.py`.
"""

import pathlib
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from launch.common import app, children, run_pool, steps
from launch.real_models.plan import find_model
from launch.trust import plan
from llmprior_jax.files import check_writable
from llmprior_jax.registry import unknown
from llmprior_jax.training.metrics import read_metrics

_PARTS = (*(place.name for place in plan.PLACES), "offline", "policies")
FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the runs.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_MODELS = FLAGS.list("models", [plan.SMOLLM2, plan.GEMMA], "Real models; may be empty.")
_PARTS_WANTED = FLAGS.list("parts", list(_PARTS), "What to measure; the report has what is there.")
_OFFLINE_SEEDS = FLAGS.integer(
    "offline_seeds", 16, "Seeds of each run from a dataset.", lower_bound=1
)
_POLICY_SEEDS = FLAGS.integer(
    "policy_seeds", 5, "Seeds of each run whose policy is the language model.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    from launch.trust import report

    del argv
    for part in _PARTS_WANTED.value:
        if part not in _PARTS:
            raise ValueError(f"--parts: {unknown('part', part, _PARTS)}")
    check_writable(pathlib.Path(_OUT.value) / report.FILE)
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    models = {name: find_model(name, workdir) for name in _MODELS.value}
    results: dict[str, Any] = {"online": {}, "offline": {}, "policies": {}}
    for place in plan.PLACES:
        if found := _online(place, models, workdir):
            results["online"][place.name] = found
    dataset = workdir / plan.DATASET
    if "offline" in _PARTS_WANTED.value and not dataset.exists():
        children.run(*plan.COLLECT, f"--out={dataset}")
    from_data = plan.offline(str(dataset), _OFFLINE_SEEDS.value)
    found = _curves("offline", from_data.values(), workdir)
    for (size, what), run in from_data.items():
        if run.name in found:
            results["offline"].setdefault(str(size), {})[what] = found[run.name]
    of_policies = plan.policies(_POLICY_SEEDS.value)
    found = _curves("policies", of_policies.values(), workdir)
    results["policies"] = {
        what: found[run.name] for what, run in of_policies.items() if run.name in found
    }
    command = shlex.join(["python", "-m", "launch.trust", *sys.argv[1:]])
    report.write(results, command, pathlib.Path(_OUT.value))
    print(f"the report is in {pathlib.Path(_OUT.value) / report.FILE}")


def _online(place: plan.Place, models: dict[str, str], workdir: pathlib.Path) -> dict[str, Any]:
    """The curves of a place, with that of the best fixed setting of each prior searched."""
    runs = plan.online(place, models)
    found = _curves(place.name, runs.values(), workdir)
    results: dict[str, Any] = {
        what: found[run.name] for what, run in runs.items() if run.name in found
    }
    for label, tried in plan.search(place, models).items():
        of_search = _curves(place.name, tried.values(), workdir)
        if len(of_search) < len(tried):
            continue

        def cost(setting: tuple[float, float], tried: Any = tried, of: Any = of_search) -> Any:
            """Fewer steps are better, then more success."""
            curve = of[tried[setting].name]
            needed = steps.median(steps.steps_to(place.level, curve)).value
            return needed, -sum(map(sum, curve["success_rate"]))

        setting = min(tried, key=cost)
        best = plan.best_fixed(place, label, models, setting)
        if curve := _curves(place.name, [best], workdir).get(best.name):
            results[f"best fixed {label}"] = {"setting": setting, **curve}
    return results


def _curves(part: str, runs: Iterable[plan.Run], workdir: pathlib.Path) -> dict[str, Any]:
    """The learning curves of runs by their names: of all, if they are wanted, or those there."""
    runs = list(runs)
    if part in _PARTS_WANTED.value:
        run_pool.train_here(workdir, {run.name: run.config for run in runs})
    curves: dict[str, Any] = {}
    for run in runs:
        if run_pool.is_finished(workdir, run.name):
            records = read_metrics(workdir / run.name / run.agent)
            weight = records[-1].get("trust")
            curves[run.name] = steps.curve_of(records) | (
                {} if weight is None else {"trust": weight}
            )
    return curves


if __name__ == "__main__":
    app.run(main, FLAGS)
