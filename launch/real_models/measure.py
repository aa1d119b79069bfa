"""Measures real language models, one step at a time; what was measured is read again.

Each measurement is a file of JSON, whose field `settings` has what it depends on: the model, the
place, what is asked and shown, and for how long. Where these differ it is measured again.
"""

import functools
import gc
import hashlib
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from launch.common import app, children
from launch.real_models import plan
from launch.surveying import measuring, recommending, showing
from llmprior_jax import envs, models, priors, training
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.files import write_atomically
from llmprior_jax.priors import prompts
from llmprior_jax.training import build, examples
from llmprior_jax.training.config import check_workdir
from llmprior_jax.training.metrics import read_metrics

# Computed in other number formats, to see what that changes.
_FORMATS = ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantize": "int8"})
_STATES_COMPARED = 64
SETTINGS = "settings"


def once(
    path: pathlib.Path, settings: Mapping[str, Any], measure: Callable[[], str]
) -> dict[str, Any]:
    """What was measured with these settings, and they; it is measured if it is not there."""
    found = kept(path, settings)
    if found is None:
        found = {SETTINGS: dict(settings), **json.loads(measure())}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(found, indent=1) + "\n")
        # Each prompt has programs of its own, which nothing else would free.
        jax.clear_caches()
        gc.collect()
    return found


def kept(path: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a file says, None if there is none or it was measured with other settings."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found.get(SETTINGS) == settings else None


def settings_of_survey(
    fingerprint: str, place: plan.Place, prompt: str, workdir: pathlib.Path
) -> dict[str, Any]:
    """What a survey depends on; games count by where they are in the work directory.

    Args:
      fingerprint: of the model.
      place: where it plays.
      prompt: what it is asked.
      workdir: has the games.
    """
    shows = prompts.FEW_SHOT in prompts.words(prompt)
    config = json.dumps(dict(place.config)).replace(f"{workdir}/", "")
    return {
        "model": fingerprint,
        "config": json.loads(config),
        "prompt": prompt,
        "normalizations": list(place.normalizations),
        "episodes": place.episodes,
        "states": place.states,
        "examples": _shown(json.dumps(dict(place.config))) if shows else None,
    }


def settings_of_formats(fingerprint: str) -> dict[str, Any]:
    """What the comparison of number formats depends on."""
    return {
        "model": fingerprint,
        "formats": list(map(dict, _FORMATS)),
        "states": _STATES_COMPARED,
        "examples": _shown(json.dumps({"env": plan.SALAD})),
    }


def settings_of_low_rank(fingerprint: str, minutes: float) -> dict[str, Any]:
    """What training by LoRA depends on."""
    return {
        "model": fingerprint,
        "config": json.loads(json.dumps(plan.LOW_RANK)),
        "minutes": minutes,
        "examples": _shown(json.dumps({"env": plan.SMALL_SALAD})),
    }


def check_run(workdir: pathlib.Path, config: training.Config) -> None:
    """Checks that a directory, if there is one, is of a run that would be the same today.

    Raises:
      ValueError: its configuration is another one, or its prompts showed other examples.
    """
    check_workdir(workdir, config)
    shown = examples.read(workdir)
    if shown is not None:
        env, _ = build.make_environment(training.to_settings(config))
        if shown != list(env.examples()):
            raise ValueError(
                f"{workdir} is a run that was shown other examples than it would be now; remove it"
            )


@functools.cache
def _shown(config: str) -> str:
    """The digest of the episodes that an environment shows, by its fields as JSON."""
    wanted = training.default_config()
    wanted.update_from_flattened_dict(
        {name: tuple(of) if isinstance(of, list) else of for name, of in json.loads(config).items()}
    )
    env, _ = build.make_environment(training.to_settings(wanted))
    return hashlib.sha256(json.dumps(env.examples()).encode()).hexdigest()


def make_games(workdir: pathlib.Path) -> None:
    """Makes the games that the places are of, each set once, and again if it is to be another."""
    for name, command in plan.GAMES.items():
        made, said = workdir / f"{name}.complete", " ".join(command) + "\n"
        if not made.exists() or made.read_text() != said:
            made.unlink(missing_ok=True)
            shutil.rmtree(workdir / name, ignore_errors=True)
            children.run(*command, f"--out={workdir / name}")
            write_atomically(made, said)


def survey(model: str, place: plan.Place, prompt: str) -> str:
    """One prompt in one place, with every normalization, as JSON."""
    settings = training.to_settings(plan.config_of(place, model))
    grid = measuring.Grid([prompt], place.normalizations, (), place.episodes, place.states)
    with tempfile.TemporaryDirectory() as scratch:
        found = measuring.survey(settings, grid, None, True, pathlib.Path(scratch), app.never)
    about = {"place": place.name, "prompt": prompt}
    return showing.to_json(found, recommending.recommend(found), about)


def speaks(model: str) -> bool:
    """Whether a model has a chat template."""
    return models.load_tokenizer(model).chat_template is not None


def formats(model: str) -> str:
    """How log-probabilities depend on the number format, in states of the kitchen, as JSON."""
    env, _ = envs.make(plan.SALAD)
    observations = env.list_observations()
    assert observations is not None
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(len(observations), _STATES_COMPARED, replace=False))
    build = prompts.make("few_shot", env.examples())
    asked = [build(env.text_state(observations[row])) for row in chosen]
    texts, actions = [each.text for each in asked], [each.actions for each in asked]
    found: dict[str, Any] = {}
    exact = None
    for chosen_format in _FORMATS:
        lm = models.load(model, **chosen_format)
        priors.score_actions(lm, texts[:8], actions[:8], "token")  # Compiles.
        begin = time.perf_counter()
        log_probs = np.asarray(priors.score_actions(lm, texts, actions, "token"))
        seconds = time.perf_counter() - begin
        exact = log_probs if exact is None else exact
        real = np.isfinite(exact)
        off = np.abs(log_probs[real] - exact[real])
        found[" ".join(chosen_format.values())] = {
            "mean_difference": float(off.mean()),
            "largest_difference": float(off.max()),
            "same_first_choice": float((log_probs.argmax(1) == exact.argmax(1)).mean()),
            "states_per_second": len(asked) / seconds,
        }
        del lm
        jax.clear_caches()
    return json.dumps(found, indent=2) + "\n"


def low_rank(model: str, workdir: pathlib.Path, minutes: float) -> str:
    """Trains the model itself by GFlan-Prior for so many minutes; its evaluations as JSON."""
    until = time.monotonic() + 60 * minutes
    with app.StopSignal() as is_asked:
        try:
            training.run(
                plan.low_rank(model),
                workdir,
                should_stop=lambda: is_asked() or time.monotonic() > until,
            )
        except InterruptedRunError:
            if is_asked():
                raise
    return json.dumps(read_curves(workdir, "gflan_prior")) + "\n"


def read_curves(workdir: pathlib.Path, agent: str) -> dict[str, Any]:
    """The evaluations of an agent: their steps, and the success rates [evaluations, seeds]."""
    records = read_metrics(workdir / agent)
    return {
        "steps": [record["step"] for record in records],
        "success_rate": [record["success_rate"] for record in records],
    }
