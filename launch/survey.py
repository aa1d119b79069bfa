"""Measures how good a language model's prior is with each prompt and normalization.

    python -m launch.survey --env=Overcooked-TomatoSalad --prompts=plain --out=survey

For each setting it shows the success of the prior alone and of a uniform policy, the prior's
entropy, the probability of the least likely action, how much the prior favors short texts, and the
likelihood of the demonstrations in a --dataset, with the temperature that maximizes it. Then it
recommends a setting for training, if one is better than a uniform policy. It writes `survey.json`
and `survey.png` to --out.

Give an --env, or a --config that has one, or only a --dataset; then no episodes are played. States
are scored as they are met, once per prompt for all normalizations, and kept in the store, where
training finds them. To resume a survey, repeat the command.
"""

import pathlib
import shlex
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import rich.console
import rich.markup

from launch.common import app
from llmprior_jax import datasets, training
from llmprior_jax.errors import InterruptedRunError
from llmprior_jax.files import check_writable
from llmprior_jax.priors import check_options, prompts
from llmprior_jax.settings import Settings

FLAGS = app.Flags()
_PRIOR = FLAGS.string("prior", None, "Language model: tiny, a directory, a GGUF file, or a hub id.")
_ENV = FLAGS.string("env", None, "Environment to play in, by name.")
_GAMES = FLAGS.list("games", [], "Games of an environment that takes them from files.")
_HISTORY = FLAGS.integer("history", None, "Pairs that an observation holds.")
_CONFIG = FLAGS.config_file("Where all else comes from: a file with `get_config()`.")
_DATASET = FLAGS.string("dataset", None, "Demonstrations, to say how likely they are.")
_PROMPTS = FLAGS.list(
    "prompts",
    None,
    "Prompts to compare; plain, options, story, and few_shot where there is something to show.",
)
_NORMALIZATIONS = FLAGS.list(
    "normalizations", ["sum", "token", "word"], "How an action's tokens become its score."
)
_EXAMPLES = FLAGS.string(
    "examples",
    None,
    "What few_shot prompts show, in JSON Lines; otherwise what the configuration names, or the "
    "environment's own.",
)
_EPISODES = FLAGS.integer("episodes", 128, "Episodes of each setting.", lower_bound=1)
_STATES = FLAGS.integer(
    "states", 300, "New states, of a setting's episodes or of the dataset, at most.", lower_bound=1
)
_OUT = FLAGS.string("out", "survey", "Directory for survey.json and survey.png.")


def main(argv: Sequence[str]) -> None:
    from launch.surveying import measuring, recommending, showing
    from llmprior_jax.training import build, validation

    del argv
    plays = _ENV.value is not None or _CONFIG.value is not None
    if not plays and _DATASET.value is None:
        raise ValueError("say where to look: --env, --config or --dataset")
    asked = _PROMPTS.value
    for name, values, same in (
        ("prompts", asked, prompts.words),
        ("normalizations", _NORMALIZATIONS.value, str),
    ):
        if values is not None and not 0 < len(values) == len(set(map(same, values))):
            raise ValueError(f"--{name} is {','.join(values)!r}; name one or more, each once")
    for normalization in _NORMALIZATIONS.value:
        check_options(normalization, 1.0)
    settings = training.to_settings(_config())
    validation.validate(settings)
    check_writable(pathlib.Path(_OUT.value) / showing.FILE)
    dataset = None
    if _DATASET.value is not None:
        dataset = datasets.read(_DATASET.value, build.history(settings))
    examples = _examples(settings) if _shows(settings.prior.prompt) else ()
    grid = measuring.Grid(
        asked or (), _NORMALIZATIONS.value, examples, _EPISODES.value, _STATES.value
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = measuring.survey(
                settings, grid, dataset, plays, pathlib.Path(scratch), app.never
            )
        except KeyboardInterrupt:
            raise InterruptedRunError(
                "stopped; what was scored is in the store, and the same command goes on from there"
            ) from None
    recommendation = recommending.recommend(found)
    about = {
        "prior": settings.prior.model,
        "place": settings.environment.env if plays else _DATASET.value,
        "history": build.history(settings),
        "dataset": _DATASET.value,
        "episodes": grid.episodes,
        "states": grid.states,
        "temperature": settings.prior.temperature,
        "uniform_share": settings.prior.uniform_share,
    }
    showing.write(found, recommendation, about, pathlib.Path(_OUT.value))
    _print(found, recommendation)


def _examples(settings: Settings) -> Sequence[prompts.Example]:
    """The episodes that somebody names; none for the environment's own.

    Raises:
      FileNotFoundError, ValueError, RestoreError: they cannot be read, or an agent has none.
    """
    from llmprior_jax.training import examples

    named = settings.prior.examples
    if path := _EXAMPLES.value or named.file:
        return prompts.read_examples(path)
    if named.workdir is None:
        return ()
    run = training.restore(
        named.workdir, named.agent, eval_episodes=1, should_stop=app.never, eval_mode="sample"
    )
    return examples.collect(run, named.count, jax.random.key(settings.run.seed))


def _config() -> training.Config:
    config = training.default_config() if _CONFIG.value is None else _CONFIG.value
    if _ENV.value is not None:
        config.env = _ENV.value
    if _GAMES.value:
        config.games.train = tuple(_GAMES.value)
    if _HISTORY.value is not None:
        config.history = _HISTORY.value
    if _PRIOR.value is not None:
        config.prior.model = _PRIOR.value
    # Of a configuration the agents are of no account, nor is what they learn from.
    config.agents, config.offline.dataset = ("prior",), ""
    # Other prompts are asked with; what this one may show is checked.
    shows = _PROMPTS.value is None or any(map(_shows, _PROMPTS.value))
    config.prior.prompt = prompts.FEW_SHOT if shows else "plain"
    return config


def _shows(prompt: str) -> bool:
    return prompts.FEW_SHOT in prompts.words(prompt)


def _print(found: Any, recommendation: Any) -> None:
    from launch.surveying import showing

    console = rich.console.Console()
    for table in showing.tables(found, recommendation.finding):
        console.print(table)
    if recommendation.finding is None:
        console.print(f"not recommended: {rich.markup.escape(recommendation.why)}", highlight=False)
    else:
        fields = [f"--config.prior.{name}={of}" for name, of in recommendation.fields.items()]
        if _EXAMPLES.value is not None and _shows(recommendation.fields["prompt"]):
            fields.append(f"--config.prior.examples.file={_EXAMPLES.value}")
        fields = map(rich.markup.escape, map(shlex.quote, fields))
        why = rich.markup.escape(recommendation.why)
        console.print(f"recommended: {' '.join(fields)}\n  {why}", highlight=False)
    capped = [each.name for each in found.findings if each.played and _is_capped(each)]
    if capped:
        console.print(
            f"fewer than {_EPISODES.value} episodes, since they met {_STATES.value} new states: "
            f"{'; '.join(map(rich.markup.escape, capped))} (--states)",
            highlight=False,
        )
    print(f"survey.json and survey.png are in {_OUT.value}")


def _is_capped(finding: Any) -> bool:
    return finding.played["episodes"] < _EPISODES.value


if __name__ == "__main__":
    app.run(main, FLAGS)
