"""The prior alone beside a uniform policy: what a model is worth before anything is learned.

An agent starts from its prior, so a prior that does worse than blind choice leads it astray, the
longer, the surer it is. A run therefore has both play some episodes before the first agent trains
that needs the prior, warns where the prior is worse, and keeps what came of it. `launch.survey`
compares prompts and normalizations in the same way.
"""

import dataclasses
import functools
import pathlib
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import scipy.stats
from absl import logging

from llmprior_jax import agents
from llmprior_jax.distributed.seeds import fold_in
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning import Run
from llmprior_jax.play.engine_games import EngineGames
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors import PriorBatch, Prompt
from llmprior_jax.settings import GamesSettings, OfflineSettings, SearchSettings, Settings
from llmprior_jax.training import build, config
from llmprior_jax.training.config import asked
from llmprior_jax.training.summary import bounds
from llmprior_jax.types import ActionPrior, TextState

PRIOR, UNIFORM, WORSE_BY, ASKED = "prior alone", "uniform", "worse_by", "asked"
MODEL, OTHERS = "model", "others"
SUCCESS, RETURN = "success_rate", "return"

_CONFIDENCE = 0.95
# Of the keys of a run's evaluations, so that no stream of its own is touched.
_STREAM = 2**31 - 1
# Episodes at least: those in environments whose states are all scored cost next to nothing.
_EPISODES, _LAZY_EPISODES = 256, 64
# What a warning advises: so much of the uniform prior that a wrong one does little harm, ...
_ENOUGH_UNIFORM = 0.9
# ... the bodies of prompts that any model can be asked, and, where fields must be set, a
# configuration that differs from the default one in its agents alone, of which a survey has none.
_BODIES = ("plain", "options", "story")
_PLAIN_CONFIG = "quickstart"
# Beginnings of the names of fields that say what is played, and by which prior.
_OF_SETTING = ("env", "games.", "history", "engine.", "freeform.", "prior.")
# States that the language model is asked about, after which no more episodes are begun.
_LAZY_STATES = 256


class _Statistics(TypedDict):
    """What `Outcome.statistics` gives."""

    success_rate: Mapping[str, Any]
    episodes: int


_Of = TypedDict(
    "_Of",
    {
        "prior alone": _Statistics,
        "uniform": _Statistics,
        "worse_by": str | None,
        "model": str,
        "asked": str,
    },
)
"""What `look` found of one prior."""


class Found(_Of):
    """What `look` found, as a file has it."""

    others: NotRequired[list[_Of]]


class Outcome(NamedTuple):
    """What came of N episodes that a policy played.

    Attributes:
      success: bool[N].
      returns: f64[N], undiscounted.
    """

    success: np.ndarray
    returns: np.ndarray

    def statistics(self) -> dict[str, Any]:
        """As JSON has them: `success_rate` and `return`, each `mean` and `ci95`, and `episodes`.

        The interval of success is Wilson's, that of the return Student's, which of a single episode
        has no bounds, two None (`summary.bounds`).
        """
        count = len(self.success)
        successes = int(self.success.sum())
        wilson = scipy.stats.binomtest(successes, count).proportion_ci(_CONFIDENCE, "wilson")
        return {
            SUCCESS: {"mean": successes / count, "ci95": [float(wilson.low), float(wilson.high)]},
            RETURN: {
                "mean": float(self.returns.mean()),
                "ci95": [None, None] if count < 2 else list(mean_interval(self.returns)),
            },
            "episodes": count,
        }


class Verdict(NamedTuple):
    """How one policy does beside another.

    Attributes:
      sign: 1 if it is better, -1 if it is worse, 0 if the episodes do not tell.
      by: what tells, "success_rate" or "return"; empty if nothing does.
    """

    sign: int
    by: str


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95% interval of the mean of `values` [N]; all numbers for a single value."""
    if len(values) < 2:
        return -np.inf, np.inf
    mean, error = np.mean(values), scipy.stats.sem(values)
    half = error * scipy.stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)
    return float(mean - half), float(mean + half)


def verdict(statistics: Mapping[str, Any], other: Mapping[str, Any]) -> Verdict:
    """Whether one policy is better than another or worse, intervals apart.

    By success; where success does not tell (both always fail, say), by the return.

    Args:
      statistics: what `Outcome.statistics` gives of it.
      other: of the other.
    """
    for by, interval in ((SUCCESS, _interval_of_success), (RETURN, _interval_of_return)):
        low, high = interval(statistics, other)
        other_low, other_high = interval(other, statistics)
        if low > other_high:
            return Verdict(1, by)
        if high < other_low:
            return Verdict(-1, by)
    return Verdict(0, "")


def _interval_of_success(
    statistics: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[float, float]:
    del other
    low, high = statistics[SUCCESS]["ci95"]
    return low, high


def _interval_of_return(
    statistics: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[float, float]:
    """Where all returns are equal, they do not show their spread: the other policy's stands in."""
    low, high = bounds(statistics[RETURN])
    if low < high:
        return low, high
    other_low, other_high = bounds(other[RETURN])
    half = (other_high - other_low) / 2 * (other["episodes"] / statistics["episodes"]) ** 0.5
    return low - half, high + half


def play(
    run: Run, scored: ScoredStates, num_episodes: int, most_states: int | None = None
) -> Outcome:
    """Episodes of the prior alone, in as many evaluations as it takes.

    A uniform policy is the prior alone where the prior is uniform (`uniform_states`), so the same
    compiled programs serve both.

    Args:
      run: of the agent "prior", as `without_learning` has it.
      scored: the states with their priors, loaded.
      num_episodes: how many episodes at least.
      most_states: once there are so many states more than at first, no more are begun.
    """
    run.player.scored = scored
    keys = fold_in(run.keys["evaluate"], _STREAM)
    size = int(scored.table.size)
    success: list[np.ndarray] = []
    returns: list[np.ndarray] = []
    while sum(map(len, success)) < num_episodes:
        episodes = run.player.evaluate(run.state.agent, fold_in(keys, len(success)))[""]
        success.append(np.asarray(episodes.success).ravel())
        returns.append(np.asarray(episodes.returns, np.float64).ravel())
        if most_states is not None and int(scored.table.size) - size >= most_states:
            break
    return Outcome(np.concatenate(success), np.concatenate(returns))


def without_learning(settings: Settings, eval_episodes: int) -> Settings:
    """The settings of a run in which the prior alone acts, in no unseen games.

    Args:
      settings: of a run that may learn.
      eval_episodes: episodes of one evaluation, per seed.
    """
    environment, run = settings.environment, settings.run
    seen = GamesSettings(environment.games.train)
    return dataclasses.replace(
        settings,
        environment=dataclasses.replace(environment, games=seen),
        agents=("prior",),
        offline=OfflineSettings(),
        search=SearchSettings(),
        run=dataclasses.replace(run, eval_episodes=eval_episodes, eval_modes=("sample",)),
    )


def uniform_states(
    env: TextEnvironment | EngineGames,
    first: np.ndarray,
    num_features: int,
    directory: pathlib.Path,
) -> ScoredStates:
    """States whose prior is uniform, for which no model is asked; they are loaded.

    Args:
      env: whose states.
      first: observations [N, *O] to begin with, one or more.
      num_features: as many as other priors have; these have nothing to say.
      directory: an empty one, which stays so.
    """

    def build_prompt(state: TextState) -> Prompt:
        return Prompt("", state.actions)

    files = RowFiles(directory, read_only=True)
    scored = ScoredStates(env, lambda: first, _Uniform(), build_prompt, num_features, files)
    scored.load()
    return scored


class _Uniform:
    """A source of priors that knows nothing and asks nobody."""

    identity = "uniform"

    def score(self, prompts: Sequence[Prompt]) -> PriorBatch:
        count = np.array([len(prompt.actions) for prompt in prompts])[:, None]
        is_action = np.arange(count.max()) < count
        log_probs = np.where(is_action, -np.log(count), -np.inf).astype(np.float32)
        # Zeros are not kept, and a table without features would have another shape, for which
        # programs would be compiled again.
        features = (-1.0) ** np.arange(count.max(), dtype=np.float32)[:, None]
        return PriorBatch(log_probs, np.tile(features, (len(prompts), 1, 1)))

    def metrics(self, outcomes: Mapping[str, int]) -> dict[str, float]:
        del outcomes
        return {}


def look(
    settings: Settings,
    env: TextEnvironment | EngineGames,
    env_params: Any,
    known: build.Priors,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Has the prior alone and a uniform policy play, and compares them.

    Nothing that a run keeps is touched: neither its table nor its random keys. What the language
    model is asked on the way, in environments whose states cannot be listed, goes to the store.

    Args:
      settings: of the run.
      env: the environment.
      env_params: its parameters.
      known: the run's priors, its table loaded.
      directory: holds the rows of the table.

    Returns:
      What `Outcome.statistics` gives of "prior alone" and "uniform"; under "worse_by" the measure
      by which the prior is worse, None if it is not; under "model" and "asked" which model it is of
      and how that was asked; and, where there are several priors, under "others" the same of each
      further one.
    """
    table = known.scored.table
    first = np.asarray(table.observations)[: int(table.size)]
    if isinstance(env, EngineGames):
        # The same engines, in no unseen games. A digest of text stands for a state there, and a run
        # that goes on has forgotten the texts of `first`.
        env = EngineGames(env.bridge, env.games, (), env.num_actions, build.history(settings))
        first = env.observe(TextState("", "", (), ("wait",)))[None]
    if isinstance(env, TextEnvironment) and env.list_observations() is not None:
        scored, eval_episodes = known.scored, settings.run.eval_episodes
        num_episodes, most_states = _EPISODES, None
    else:
        # So few at a time that hardly more states are met than are to be.
        scored, eval_episodes = known.scored.copy(env, RowFiles(directory, read_only=True)), 1
        num_episodes, most_states = _LAZY_EPISODES, _LAZY_STATES
    runs: list[Run] = []
    played: list[Outcome] = []
    every = config.priors_of(settings.prior)
    for number, prior in enumerate(every):
        alone = without_learning(dataclasses.replace(settings, prior=prior), eval_episodes)
        see = functools.partial(_the_only_one, number=number)
        acting = known._replace(scored=scored)
        runs.append(build.make_run("prior", alone, env, env_params, acting, see=see))
        played.append(play(runs[-1], scored, num_episodes, most_states))
    with tempfile.TemporaryDirectory() as scratch:
        blind = uniform_states(env, first, table.features.shape[-1], pathlib.Path(scratch))
        # No model is asked about its states, except where their actions are proposed.
        proposes = settings.environment.freeform.k is not None
        uniform = play(runs[0], blind, num_episodes, most_states if proposes else None)
    found = [
        {**compared(outcome, uniform), MODEL: prior.model, ASKED: asked(prior)}
        for prior, outcome in zip(every, played, strict=True)
    ]
    return {**found[0], **({OTHERS: found[1:]} if found[1:] else {})}


def _the_only_one(prior: ActionPrior, number: int) -> ActionPrior:
    """Of several priors of a state, the one with this number, without the others."""
    if number:
        assert prior.others is not None
        prior = prior._replace(log_probs=prior.others[..., number - 1, :])
    return prior._replace(others=None)


def compared(prior: Outcome, uniform: Outcome) -> dict[str, Any]:
    """What came of both, as `look` gives it, but for how the model was asked."""
    statistics = {PRIOR: prior.statistics(), UNIFORM: uniform.statistics()}
    sign, by = verdict(statistics[PRIOR], statistics[UNIFORM])
    return {**statistics, WORSE_BY: by if sign < 0 else None}


def warn(found: Mapping[str, Any], settings: Settings, name: str) -> None:
    """Says so if a prior alone is worse than a uniform policy, and what to do about it.

    Args:
      found: what `look` gave.
      settings: of the run.
      name: the agent that starts from the prior.
    """
    every = [found, *found.get(OTHERS, ())]
    for prior, of_prior in zip(config.priors_of(settings.prior), every, strict=True):
        _warn_of_one(of_prior, dataclasses.replace(settings, prior=prior), name)


def _warn_of_one(found: Mapping[str, Any], settings: Settings, name: str) -> None:
    """`warn` of the settings' only prior."""
    by = found[WORSE_BY]
    if by is None:
        return
    prior, uniform = (with_interval(found[name][by]) for name in (PRIOR, UNIFORM))
    logging.warning(
        "the prior of %s alone is worse than a uniform policy: %s %s against %s, in %d and %d "
        "episodes. %s. Look for a better prompt or normalization with\n  %s%s",
        settings.prior.model,
        by.replace("_", " "),
        prior,
        uniform,
        found[PRIOR]["episodes"],
        found[UNIFORM]["episodes"],
        "Agents learn to do without it" if _weighs(settings, name) else "It leads agents astray",
        _survey(settings),
        "".join(f"\nor {advice}" for advice in _advice(settings, name)),
    )


def with_interval(statistic: Mapping[str, Any]) -> str:
    """A mean and its interval, for people."""
    low, high = bounds(statistic)
    return f"{statistic['mean']:.2f} [{low:.2f}, {high:.2f}]"


def _weighs(settings: Settings, name: str) -> bool:
    """Whether an agent learns how far to trust its prior, and can act without it."""
    return agents.weighs_prior(name) and settings.agent.trust == agents.trust.LEARNED


def _advice(settings: Settings, name: str) -> list[str]:
    """What may help without a look, but for what is done already."""
    prior = settings.prior
    advice: list[str] = []
    if prior.method == "score" and prior.normalization != "token":
        advice.append("try --config.prior.normalization=token")
    # A policy begins as its model is, and nothing is mixed in.
    limited = agents.is_policy(name) or prior.uniform_share >= _ENOUGH_UNIFORM
    if not limited and not _weighs(settings, name):
        advice.append(f"limit the prior with --config.prior.uniform_share={_ENOUGH_UNIFORM}")
    return advice


def _survey(settings: Settings) -> str:
    """The command that compares prompts and normalizations in a run's very setting."""
    prior, environment = settings.prior, settings.environment
    flags = {"prior": prior.model, "env": environment.env}
    if environment.games.train:
        flags["games"] = ",".join(environment.games.train)
    if environment.history:
        flags["history"] = str(environment.history)
    if prior.examples.file is not None:
        flags["examples"] = prior.examples.file
    flags["prompts"] = ",".join(dict.fromkeys((prior.prompt, *_BODIES)))
    fields = _fields_beside(settings)
    if fields:
        flags |= {"config": _PLAIN_CONFIG} | fields
    words = (f"--{flag}={value}" for flag, value in flags.items())
    return shlex.join(["python", "-m", "launch.survey", *words])


def _fields_beside(settings: Settings) -> dict[str, str]:
    """The fields of a setting that are not as in any run, and that no flag of a survey's own has.

    Those of one's own sources are not among them: no command line has them.
    """
    own = ("env", "games.train", "history", "prior.model", "prior.prompt", "prior.normalization")
    # A survey takes the defaults that suit the model, as a run does.
    usual = config.default_config()
    usual.prior.model, usual.prior.prompt = settings.prior.model, settings.prior.prompt
    default, ours = config.flat(config.to_settings(usual)), config.flat(settings)
    return {
        f"config.{name}": _on_command_line(value)
        for name, value in ours.items()
        if name.startswith(_OF_SETTING)
        and name not in own
        and not name.startswith(("prior.extra.", "prior.examples.", "prior.refine."))
        and value != default[name]
    }


def _on_command_line(value: Any) -> str:
    """A field's value as `--config.FIELD` reads it: a list is a tuple there, and None is empty."""
    if isinstance(value, list):
        return repr(tuple(value))
    return "" if value is None else str(value)
