"""What a prior is worth under each prompt and normalization: measured, by a grid of settings."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from llmprior_jax import priors, progress
from llmprior_jax.datasets import Dataset
from llmprior_jax.learning import Run
from llmprior_jax.play.engine_games import EngineGames
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import ScoredStates, explored_observations
from llmprior_jax.priors import measures, prompts
from llmprior_jax.priors.prompts import Example
from llmprior_jax.settings import Settings
from llmprior_jax.training import build, prior_alone
from llmprior_jax.training.build_agent import build_agent
from llmprior_jax.types import ActionPrior, TextState

# Episodes of one evaluation: few, so that hardly more states are met than are to be.
_EPISODES_AT_ONCE = 8
# States by which priors are compared where there is no dataset, the same ones for all settings.
_STATES_COMPARED = 64
# Of the probabilities of the least likely actions.
_LOW = 0.05
# What is compared where nobody says: the ways to write a state, and episodes before it.
_PROMPTS = ("plain", "options", "story")


class Likelihood(NamedTuple):
    """How likely a prior finds what was demonstrated, means of log-probabilities in nats.

    Attributes:
      mean: of the prior as it is.
      uniform: of the uniform prior.
      best: of the prior at its best temperature.
      temperature: which that is, to be set as `config.prior.temperature`.
      gain_ci95: 95% interval of `best - uniform`.
      actions: N, demonstrated actions.
    """

    mean: float
    uniform: float
    best: float
    temperature: float
    gain_ci95: tuple[float, float]
    actions: int


class Finding(NamedTuple):
    """What one setting is worth.

    Attributes:
      prompt: its name.
      method: where the prior comes from (`PriorSettings.method`).
      normalization: "sum", "token" or "word"; empty where the prior is not scored.
      temperature: scores were divided by it (`PriorSettings.temperature`).
      uniform_share: of the uniform prior, which was mixed in for the episodes and for nothing else.
      played: what came of episodes of the prior alone (`Outcome.statistics`); None without an
        environment.
      states: distinct states that the model was asked about for them.
      entropy: of the prior, not mixed; mean over the states compared, in nats.
      uniform_entropy: that of the uniform prior.
      least_likely: the smallest probability that any action gets.
      least_likely_low: the 5% quantile, over states, of that of the least likely action.
      length_slope: nats per token (`measures.length_slope`); None where it cannot be told.
      likelihood: of what was demonstrated; None without a dataset.
      states_compared: how many.
      states_per_second: that were asked about under this prompt; None if all were in the store.
    """

    prompt: str
    method: str
    normalization: str
    temperature: float
    uniform_share: float
    played: dict[str, Any] | None
    states: int
    entropy: float
    uniform_entropy: float
    least_likely: float
    least_likely_low: float
    length_slope: float | None
    likelihood: Likelihood | None
    states_compared: int
    states_per_second: float | None

    @property
    def name(self) -> str:
        """Of the setting, for people."""
        return f"{self.prompt}, {self.normalization}" if self.normalization else self.prompt


class Survey(NamedTuple):
    """What all settings are worth.

    Attributes:
      uniform: what came of episodes of a uniform policy; None without an environment.
      findings: one for each setting.
      most_states: as many states as the episodes of a setting were to meet.
    """

    uniform: dict[str, Any] | None
    findings: list[Finding]
    most_states: int


class Grid(NamedTuple):
    """What is to be compared, and by how much.

    Attributes:
      prompts: names of prompts; none for the built-in ones, with examples if there are any.
      normalizations: of their scores.
      examples: what prompts with examples show; the environment's own where there are none.
      episodes: of each setting.
      states: once a setting's episodes have met so many new states, no more are begun.
    """

    prompts: Sequence[str]
    normalizations: Sequence[str]
    examples: Sequence[Example]
    episodes: int
    states: int


class _Setting(NamedTuple):
    """A setting, and what asks the model in it: nothing is loaded or scored yet."""

    settings: Settings
    build_prompt: prompts.Builder
    source: priors.PriorSource


class _Compared(NamedTuple):
    """States by which priors are compared, and what was demonstrated in them: N actions."""

    states: Sequence[TextState]
    row: np.ndarray
    action: np.ndarray


def survey(
    settings: Settings,
    grid: Grid,
    dataset: Dataset | None,
    plays: bool,
    scratch: pathlib.Path,
    should_stop: Callable[[], bool] | None = None,
) -> Survey:
    """Measures every setting of a grid.

    What the model says is kept in the store, where a survey that is repeated finds it. It is asked
    once per prompt and state: normalizations are made of the same answers.

    Args:
      settings: what else a run would have.
      grid: what to compare.
      dataset: demonstrations, if there are any.
      plays: whether there is an environment to play in.
      scratch: an empty directory.
      should_stop: asked while the model is loaded and asked (`priors.CachedModel`).

    Raises:
      FileNotFoundError, ValueError: there is no such prompt, model or game, or the like.
    """
    settings = _small(settings, scratch)
    model = build.make_model(settings, should_stop)
    try:
        place = _Place(settings, model, scratch / "rows") if plays else None
        if place is not None and not grid.examples:
            grid = grid._replace(examples=place.env.examples())
        grid = _with_prompts(grid)
        # All that may be wrong is made first: scoring takes long.
        made = [list(_settings_of(prompt, settings, grid, model)) for prompt in grid.prompts]
        model.load()
        compared = (
            None if dataset is None else _demonstrated(dataset, grid.states, settings.run.seed)
        )
        if compared is None:
            assert place is not None
            compared = _Compared(place.states(), np.zeros(0, int), np.zeros(0, int))
        uniform = None if place is None else place.uniform(grid)
        findings: list[Finding] = []
        number = sum(map(len, made))
        with progress.bar(total=number, desc="survey", unit="setting") as bar:
            for of_prompt in made:
                before = model.queries
                found: list[Finding] = []
                for setting in of_prompt:
                    found.append(_measure(setting, compared, model, place, grid))
                    bar.update()
                asked = model.queries.made - before.made
                seconds = model.queries.seconds - before.seconds
                speed = asked / seconds if asked else None
                findings += [each._replace(states_per_second=speed) for each in found]
        return Survey(None if uniform is None else uniform.statistics(), findings, grid.states)
    finally:
        model.close()


class _Place:
    """An environment, and who plays in it; its states are scored as they are met.

    Args:
      settings: small ones.
      model: the language model.
      directory: an empty one, which stays so.
    """

    def __init__(self, settings: Settings, model: priors.CachedModel, directory: pathlib.Path):
        self._directory = directory
        self._settings = prior_alone.without_learning(settings, _EPISODES_AT_ONCE)
        self._model = model
        self.env, self.env_params = build.make_environment(self._settings)

    @functools.cached_property
    def met(self) -> np.ndarray:
        """Observations [N, *O] that random play meets, even where all could be listed."""
        if isinstance(self.env, EngineGames):
            candidates = build.make_candidates(self._settings, self._model, prompts.plain)
            return self.env.first_observations(candidates)
        return explored_observations(self.env, self.env_params)

    @functools.cached_property
    def first(self) -> np.ndarray:
        """Some of them, with which each setting's table begins."""
        rng = np.random.default_rng(self._settings.run.seed)
        number = min(_STATES_COMPARED, len(self.met))
        return self.met[np.sort(rng.choice(len(self.met), number, replace=False))]

    def states(self) -> list[TextState]:
        """The texts of `first`, each once."""
        return list(dict.fromkeys(self.env.text_state(observation) for observation in self.first))

    def uniform(self, grid: Grid) -> prior_alone.Outcome:
        """Episodes of a uniform policy, for which no model is asked unless it proposes actions."""
        proposes = self._settings.environment.freeform.k is not None
        most_states = grid.states if proposes else None
        return prior_alone.play(self._run, self._blind, grid.episodes, most_states)

    def play(self, setting: _Setting, grid: Grid) -> tuple[prior_alone.Outcome, int]:
        """Episodes of the prior alone, and how many states it was asked about for them."""
        fitting = prompts.fitting(setting.build_prompt, self._model.fits)
        files = RowFiles(self._directory, read_only=True)
        num_features = setting.settings.prior.num_features
        scored = ScoredStates(
            self.env, lambda: self.first, setting.source, fitting, num_features, files
        )
        run = self._run
        if isinstance(self.env, EngineGames):  # Where a prompt may propose the actions, too.
            known = build.Priors(self._model, setting.build_prompt, scored)
            run = self._make_run(setting.settings, known)
        else:
            scored.load()
        outcome = prior_alone.play(run, scored, grid.episodes, grid.states)
        return outcome, int(scored.table.size)

    @functools.cached_property
    def _blind(self) -> ScoredStates:
        num_features = self._settings.prior.num_features
        return prior_alone.uniform_states(self.env, self.met, num_features, self._directory)

    @functools.cached_property
    def _run(self) -> Run:
        known = build.Priors(self._model, prompts.plain, self._blind)
        return self._make_run(self._settings, known)

    def _make_run(self, settings: Settings, known: build.Priors) -> Run:
        alone = prior_alone.without_learning(settings, _EPISODES_AT_ONCE)
        return build.make_run("prior", alone, self.env, self.env_params, known)


def _small(settings: Settings, scratch: pathlib.Path) -> Settings:
    """Settings that play with little, and keep what the model says at least for this survey."""
    prior, loop = settings.prior, settings.loop
    store = prior.store or str(scratch / "priors.sqlite")
    return dataclasses.replace(
        settings,
        prior=dataclasses.replace(prior, num_features=1, store=store),
        loop=dataclasses.replace(
            loop, num_envs=_EPISODES_AT_ONCE, replay_capacity=64, batch_size=1
        ),
        run=dataclasses.replace(settings.run, num_seeds=1, mesh=None),
    )


def _with_prompts(grid: Grid) -> Grid:
    """The grid with its prompts, those that show examples only where there are some.

    Raises:
      ValueError: a prompt lacks examples.
    """
    if not grid.prompts:
        return grid._replace(prompts=_PROMPTS + ((prompts.FEW_SHOT,) if grid.examples else ()))
    for prompt in grid.prompts:
        if prompts.FEW_SHOT in prompts.words(prompt) and not grid.examples:
            raise ValueError(
                f"prompt {prompt!r} shows episodes, and there are none here: name a file of them "
                "(--examples)"
            )
    return grid


def _settings_of(
    prompt: str, settings: Settings, grid: Grid, model: priors.CachedModel
) -> Iterator[_Setting]:
    """The settings of one prompt.

    Raises:
      FileNotFoundError, ValueError: there is no such prompt.
    """
    examples = grid.examples if prompts.FEW_SHOT in prompts.words(prompt) else ()

    def made(**of_prior: str) -> _Setting:
        prior = dataclasses.replace(settings.prior, prompt=prompt, **of_prior)
        changed = dataclasses.replace(settings, prior=prior)
        return _Setting(changed, *build.make_source(changed, model, examples))

    only = made()
    if settings.prior.method != "score":
        yield only
    elif only.build_prompt(TextState("", "")).after_thought is not None:
        yield made(method="propose")  # A thought is sampled.
    else:
        for normalization in grid.normalizations:
            yield made(normalization=normalization)


def _demonstrated(dataset: Dataset, most_states: int, seed: int) -> _Compared:
    """A random sample of what was demonstrated, as large as so many distinct states allow."""
    order = np.random.default_rng(seed).permutation(dataset.num_transitions)
    number_of: dict[int, int] = {}
    kept: list[int] = []
    for index in order.tolist():
        row = int(dataset.row[index])
        if row not in number_of and len(number_of) == most_states:
            break
        number_of.setdefault(row, len(number_of))
        kept.append(index)
    return _Compared(
        [dataset.states[row] for row in number_of],
        np.array([number_of[int(row)] for row in dataset.row[kept]]),
        dataset.action[kept],
    )


def _measure(
    setting: _Setting,
    compared: _Compared,
    model: priors.CachedModel,
    place: _Place | None,
    grid: Grid,
) -> Finding:
    """Measures one setting."""
    prior = setting.settings.prior
    fitting = prompts.fitting(setting.build_prompt, model.fits)
    asked = [fitting(state) for state in compared.states]
    scored = setting.source.score(asked)
    # As an agent sees it, but not mixed: a share of the uniform prior would hide what the model
    # rules out, and a temperature is for scores before they are mixed.
    unmixed = dataclasses.replace(prior, uniform_share=0.0)
    agent = build_agent("prior", setting.settings.agent, unmixed)
    seen = ActionPrior(jnp.asarray(scored.log_probs), jnp.asarray(scored.features))
    log_probs = np.asarray(agent.policy((), seen).log_probs, np.float64)
    slope = None
    if prior.method == "score":
        slope = measures.length_slope(log_probs, model.score(asked).num_tokens)
    least = measures.least_likely(log_probs)
    played = states = None
    if place is not None:
        outcome, states = place.play(setting, grid)
        played = outcome.statistics()
    return Finding(
        prompt=prior.prompt,
        method=prior.method,
        normalization=prior.normalization if prior.method == "score" else "",
        temperature=prior.temperature,
        uniform_share=prior.uniform_share,
        played=played,
        states=states or 0,
        entropy=float(measures.entropy(log_probs).mean()),
        uniform_entropy=float(measures.entropy(measures.uniform(log_probs)).mean()),
        least_likely=float(least.min()),
        least_likely_low=float(np.quantile(least, _LOW)),
        length_slope=None if slope is None or np.isnan(slope) else slope,
        likelihood=_likelihood(log_probs, compared, prior.temperature),
        states_compared=len(compared.states),
        states_per_second=None,
    )


def _likelihood(
    log_probs: np.ndarray, compared: _Compared, temperature: float
) -> Likelihood | None:
    """Of what was demonstrated, under a prior [M, A] that was made at a temperature."""
    if not len(compared.row):
        return None
    of_actions, action = log_probs[compared.row], compared.action
    uniform = measures.log_likelihood(of_actions, action, np.inf)
    best = measures.best_temperature(of_actions, action)
    at_best = measures.log_likelihood(of_actions, action, best)
    return Likelihood(
        mean=float(measures.log_likelihood(of_actions, action).mean()),
        uniform=float(uniform.mean()),
        best=float(at_best.mean()),
        temperature=best * temperature,
        gain_ci95=prior_alone.mean_interval(at_best - uniform),
        actions=len(action),
    )
