"""Measures real language models, one step at a time; what was measured is read again."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from launch.common import app
from launch.real_models import plan
from launch.surveying import measuring, recommending, showing
from llmprior_jax import envs, models, priors, training
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.files import write_atomically
from llmprior_jax.priors import prompts
from llmprior_jax.training.metrics import read_metrics

# Computed in other number formats, to see what that changes.
_FORMATS = ({"dtype": "float32"}, {"dtype": "bfloat16"}, {"quantize": "int8"})
_STATES_COMPARED = 64


def once(path: pathlib.Path, measure: Callable[[], str]) -> dict[str, Any]:
    """What a file of JSON says, which is measured and written if it is not there."""
    if not path.exists():
        text = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
    return json.loads(path.read_text())


def make_games(workdir: pathlib.Path) -> None:
    """Makes the games that the places are of, each set once."""
    for name, (module, *flags) in plan.GAMES.items():
        made = workdir / f"{name}.complete"
        if not made.exists():
            words = [sys.executable, "-m", module, *flags, f"--out={workdir / name}"]
            subprocess.run(words, check=True)
            write_atomically(made, " ".join([module, *flags]) + "\n")


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


def proposals(model: str, prompt: str) -> str:
    """The prior as the share of sampled answers, on the small kitchen, as JSON."""
    place = plan.Place("TomatoSalad", {"env": plan.SMALL_SALAD, "prior.method": "propose"})
    place = place._replace(prompts=(prompt,), normalizations=("sum",))
    return survey(model, place, prompt)


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
