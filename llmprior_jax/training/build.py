"""Builds environment, priors, agents and runs from settings."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import agents, datasets, envs, models, priors
from llmprior_jax.datasets import Dataset
from llmprior_jax.distributed.mesh import make_mesh, share_environments
from llmprior_jax.distributed.processes import in_first
from llmprior_jax.distributed.seeds import SEEDS, over_seeds
from llmprior_jax.envs.engines import Bridge, list_games
from llmprior_jax.learning.offline import OfflineRun
from llmprior_jax.learning.on_engines import EngineRun
from llmprior_jax.learning.online import OnlineRun, make_loop
from llmprior_jax.learning.policy_gradient import PolicyRun
from llmprior_jax.learning.policy_on_engines import PolicyEngineRun
from llmprior_jax.learning.run import Run
from llmprior_jax.models.language_model import check as check_model
from llmprior_jax.play.actors import PolicyActor, ValueActor
from llmprior_jax.play.candidates import (
    Admissible,
    Candidates,
    Widened,
    from_language_model,
    from_vocabulary,
)
from llmprior_jax.play.engine_games import EngineGames
from llmprior_jax.play.engine_player import EnginePlayer
from llmprior_jax.play.players import JaxPlayer
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import Asked, ScoredStates, first_observations
from llmprior_jax.play.search import SearchActor
from llmprior_jax.priors import CachedModel, PriorSource, Sampling, SourceContext, prompts
from llmprior_jax.priors.prompts import Example
from llmprior_jax.priors.shared_store import SharedStore
from llmprior_jax.priors.tokens import count_tokens
from llmprior_jax.settings import (
    EnvironmentSettings,
    FreeFormSettings,
    PriorSettings,
    Settings,
)
from llmprior_jax.training.build_agent import build_agent, build_policy
from llmprior_jax.training.config import priors_of
from llmprior_jax.types import ActionPrior, TextState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ENGINE = "engine"
_EVAL_MODES = _, _GREEDY, _CANDIDATES = "sample", "greedy", "candidates"
# The paper's in the kitchens.
_NUM_CANDIDATES = 5


class Priors(NamedTuple):
    """The priors of an experiment's states, which all of its runs share.

    Attributes:
      model: the language model, the first where there are several.
      build_prompt: what the model is asked about a state, at any length; who reads it fits it.
      scored: the states, and the sources that score them.
      examples: what the prompts show.
      others: the language models of further priors, without that of the first, each once.
      builders: what they are asked, each prior's.
    """

    model: CachedModel
    build_prompt: prompts.Builder
    scored: ScoredStates
    examples: Sequence[Example] = ()
    others: Sequence[CachedModel] = ()
    builders: Sequence[prompts.Builder] = ()

    @property
    def models(self) -> tuple[CachedModel, ...]:
        """All language models."""
        return (self.model, *self.others)


def make_environment(settings: Settings) -> tuple[envs.TextEnvironment | EngineGames, Any]:
    """The environment that agents are trained in, and its parameters (None for engines).

    Raises:
      ValueError: there are no such games, or unseen ones only.
    """
    wanted = settings.environment
    games, unseen = list_games(wanted.games.train), list_games(wanted.games.unseen)
    if unseen and not games:
        raise ValueError("games.unseen has games, and games.train has none to learn")
    if wanted.env == ENGINE:
        bridge = Bridge(
            settings.run.num_seeds * settings.loop.num_envs,
            max_steps=wanted.engine.max_steps,
            timeout=wanted.engine.timeout,
            describe=wanted.engine.describe,
        )
        num_actions = wanted.engine.num_actions
        return EngineGames(bridge, games, unseen, num_actions, history(settings)), None
    every = list_games((*games, *unseen))
    env_params: Any
    env, env_params = envs.make(wanted.env, **({"games": every} if every else {}))
    if unseen:
        env_params = env_params.replace(games=jnp.arange(len(games)))
    length = history(settings)
    return envs.with_history(env, length) if length else env, env_params


def history(settings: Settings) -> int:
    """Pairs that a state holds: what the language model is told, of which Q may see fewer."""
    told = settings.prior.history
    return settings.environment.history if told is None else told


def make_builder(
    prior: PriorSettings,
    examples: Sequence[Example],
    tokenizer: "Callable[[], PreTrainedTokenizerFast]",
) -> prompts.Builder:
    """What a language model is asked about a state, at any length.

    Args:
      prior: names the prompt.
      examples: what it shows, if it shows any.
      tokenizer: gives that model's tokenizer when it is first needed.

    Raises:
      ValueError: see `prompts.make`; or the prompt is to show examples, and there are none.
    """
    shows = prompts.FEW_SHOT in prompts.words(prior.prompt)
    if shows and not examples:
        raise ValueError(
            f"config.prior.prompt is {prior.prompt!r}, and there are no examples to show: name a "
            "file of them (config.prior.examples.file) or a run to take them from "
            "(config.prior.examples.workdir), or use a prompt without few_shot"
        )
    # There may be examples that another prior's prompt shows.
    return prompts.make(prior.prompt, examples if shows else (), tokenizer, prior.system)


def read_dataset(settings: Settings) -> Dataset | None:
    """The dataset to learn from, checked; None for learning online.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file breaks the format, or has fewer transitions than the subset needs.
    """
    offline = settings.offline
    if offline.dataset is None:
        return None
    dataset = datasets.read(offline.dataset, history(settings))
    datasets.check_size(dataset, offline.size, offline.unit)
    return dataset


def make_priors(
    settings: Settings,
    env: envs.TextEnvironment | EngineGames,
    env_params: Any,
    directory: pathlib.Path,
    read_only: bool = False,
    examples: Sequence[Example] = (),
    should_stop: Callable[[], bool] | None = None,
) -> Priors:
    """Where the priors of an environment's states come from. Nothing is loaded or scored yet.

    Args:
      settings: all of them.
      env: the environment.
      env_params: its parameters.
      directory: holds the rows of the table.
      read_only: leave the directory as it is.
      examples: what the prompt "few_shot" shows.
      should_stop: asked while the model is loaded and asked (`priors.CachedModel`).

    Raises:
      StoreError: the store cannot be used.
      FileNotFoundError, ValueError: see `priors.make_source`.
    """
    model = make_model(settings, should_stop)
    build, source = make_source(settings, model, examples)
    fitting = prompts.fitting(build, model.fits)
    models_by_name, others, builders = {model.name: model}, list[Asked](), list[prompts.Builder]()
    for prior in priors_of(settings.prior)[1:]:
        of_other = dataclasses.replace(settings, prior=prior)
        if prior.model not in models_by_name:
            # Q sees what the first model makes of a state.
            plain = dataclasses.replace(prior, features="hidden")
            of_model = dataclasses.replace(settings, prior=plain)
            models_by_name[prior.model] = make_model(of_model, should_stop)
        other = models_by_name[prior.model]
        build_other, source_of_other = make_source(of_other, other, examples)
        builders.append(build_other)
        others.append(Asked(source_of_other, prompts.fitting(build_other, other.fits)))

    def first() -> np.ndarray:
        if isinstance(env, EngineGames):
            return env.first_observations(make_candidates(settings, model, build))
        return first_observations(env, env_params)

    files = RowFiles(directory, read_only)
    num_features = settings.prior.num_features
    seen = None if settings.prior.history is None else settings.environment.history
    scored = ScoredStates(env, first, source, fitting, num_features, files, seen, others)
    further = [each for each in models_by_name.values() if each is not model]
    return Priors(model, build, scored, examples, further, builders)


def try_prompts(
    settings: Settings, env: envs.TextEnvironment | EngineGames, env_params: Any, known: Priors
) -> None:
    """Builds the prompts of one state, to see whether they can be.

    Tokenizers are read, and no weights.

    Raises:
      ValueError, TypeError: see `prompts.make`; and whatever a builder of one's own raises.
    """
    state = _a_state(env, env_params)
    for build in (known.build_prompt, *known.builders):
        build(state)
    model = settings.policy.model
    if model != known.model.name and any(map(agents.is_policy, settings.agents)):
        read = functools.cache(lambda: models.load_tokenizer(model))
        make_builder(settings.prior, known.examples, read)(state)


def check_policy_model(settings: Settings) -> None:
    """Looks for the language model that policies begin as; no weights are read.

    Raises:
      CheckpointError: it cannot be loaded.
    """
    policy = settings.policy.model
    if policy != settings.prior.model and any(map(agents.is_policy, settings.agents)):
        check_model(policy)


def _a_state(env: envs.TextEnvironment | EngineGames, env_params: Any) -> TextState:
    """A state that an episode may begin in."""
    if isinstance(env, EngineGames):
        others = [None] * (env.bridge.num_environments - 1)
        env.reset([env.games[0], *others], [0] * env.bridge.num_environments)
        return env.states[0]
    observation, _ = env.reset(jax.random.key(0), env_params)
    return env.text_state(np.asarray(observation))


def make_source(
    settings: Settings, model: CachedModel, examples: Sequence[Example] = ()
) -> tuple[prompts.Builder, PriorSource]:
    """What makes the prompt of a state, and the source of priors that it is for.

    Args:
      settings: all of them.
      model: the language model, which nothing loads yet.
      examples: what the prompt "few_shot" shows.

    Raises:
      FileNotFoundError, ValueError: see `priors.make_source` and `prompts.make`.
    """
    build = make_builder(settings.prior, examples, lambda: model.tokenizer)
    context = SourceContext(model, settings.prior, build, history(settings), settings.run.seed)
    return build, priors.make_source(context)


def make_model(settings: Settings, should_stop: Callable[[], bool] | None = None) -> CachedModel:
    """The language model of the prior, with the store of what it said.

    Args:
      settings: all of them.
      should_stop: asked while the model is loaded and asked (`priors.CachedModel`).

    Raises:
      StoreError: the store cannot be used.
      CheckpointError: there is no such store yet, and no such model.
    """
    prior = settings.prior
    store = None
    if path := prior.store:
        # A store is made for a model that is there, not for a name that is mistyped.
        in_first(lambda: pathlib.Path(path).expanduser().exists() or check_model(prior.model))
        store = SharedStore(path)
    mesh = make_mesh(settings.run.mesh, settings.run.num_seeds, shared_environments(settings))
    no_mesh = settings.run.mesh is None
    if no_mesh and jax.default_backend() == "cpu" and jax.process_count() == 1:
        mesh = None  # One device of a CPU computes on all of its cores.
    return CachedModel(prior.model, store, mesh, prior.features, prior.quantize, should_stop)


def make_run(
    name: str,
    settings: Settings,
    env: envs.TextEnvironment | EngineGames,
    env_params: Any,
    known: Priors,
    dataset: Dataset | None = None,
    see: Callable[[ActionPrior], ActionPrior] | None = None,
) -> Run:
    """What trains the agent `name`: from a dataset, on engines, by policy gradient, or online.

    Args:
      name: of the agent.
      settings: all of them.
      env: the environment.
      env_params: its parameters.
      known: the priors of its states.
      dataset: what is learned from, offline.
      see: what an agent that sees priors is to see in place of those that are known.
    """
    num_seeds, num_envs = settings.run.num_seeds, shared_environments(settings)
    mapped = functools.partial(
        over_seeds, num_seeds=num_seeds, mesh=settings.run.mesh, num_envs=num_envs
    )

    def with_prior(agent: agents.Agent) -> agents.Agent:
        return agent if see is None else agents.with_prior(agent, see)

    # All that may be wrong is made first: scoring the first states takes long.
    check_search(name, settings)
    if isinstance(env, EngineGames):

        def play_on_engines(actors: Mapping[str, ValueActor | PolicyActor]) -> EnginePlayer:
            return EnginePlayer(
                actors,
                env,
                make_candidates(settings, known.model, known.build_prompt),
                known.scored,
                num_seeds,
                settings.run.eval_episodes,
                mapped,
            )

        if agents.is_policy(name):
            policy = _make_policy(name, settings, env, known)
            player = play_on_engines(policy.evaluated)
            steps = settings.policy.rollout_steps
            run = PolicyEngineRun(policy.agent, policy.actor, player, settings.run, steps, mapped)
            known.scored.load()
            return run
        agent = with_prior(build_agent(name, settings.agent, settings.prior))
        known.scored.load()
        acting = {prefix: ValueActor(each) for prefix, each in _evaluated(agent, settings).items()}
        player = play_on_engines(acting)
        return EngineRun(agent, player, settings.run, settings.loop, mapped)
    share = share_environments(make_mesh(settings.run.mesh, num_seeds, num_envs), num_seeds)

    def play_with(actors: Mapping[str, ValueActor | PolicyActor]) -> JaxPlayer:
        return JaxPlayer(
            env,
            env_params,
            unseen_params(settings.environment, env_params),
            actors,
            known.scored,
            settings.run.eval_episodes,
            mapped,
            share,
        )

    if agents.is_policy(name):
        policy = _make_policy(name, settings, env, known)
        num_envs, rollout_steps = settings.policy.num_envs, settings.policy.rollout_steps
        run = PolicyRun(
            policy.agent,
            policy.actor,
            play_with(policy.evaluated),
            settings.run,
            num_envs,
            rollout_steps,
            mapped,
        )
        known.scored.load()
        return run
    agent = with_prior(build_agent(name, settings.agent, settings.prior, online=dataset is None))
    if agents.searches(name):
        agent = _searching(agent, settings)
    known.scored.load()
    evaluated = _evaluated(agent, settings)
    player = play_with(
        {
            prefix: ValueActor(each) if each.search is None else SearchActor(each, env, env_params)
            for prefix, each in evaluated.items()
        }
    )
    if dataset is not None and agent.update is not None:
        batch_size = settings.loop.batch_size
        return OfflineRun(
            agent, dataset, player, settings.run, settings.offline, batch_size, mapped
        )
    loop = make_loop(env, env_params, agent, settings.loop, share, axis_name=SEEDS)
    learns, num_envs = agent.update is not None, settings.loop.num_envs
    return OnlineRun(loop, player, settings.run, learns, num_envs, mapped)


def check_eval_modes(modes: Sequence[str], names: Sequence[str]) -> None:
    """Raises a ValueError unless the agents of these names can act so in evaluations."""
    for mode in modes:
        if mode not in _EVAL_MODES:
            raise ValueError(f"eval_modes has {mode!r}; use one of {', '.join(_EVAL_MODES)}")
    if not modes or len(set(modes)) < len(modes):
        raise ValueError(f"eval_modes is {modes!r}; name one or more modes, each once")
    policies = [name for name in names if agents.is_policy(name)]
    if _CANDIDATES in modes and policies:
        raise ValueError(
            f"eval_modes has {_CANDIDATES!r}, of which the one of largest Q is taken, and "
            f"{policies[0]} has no Q; use another mode"
        )


def check_search(name: str, settings: Settings) -> None:
    """Raises a ValueError if the agent `name` is to search where it cannot."""
    simulations = settings.search.simulations
    if simulations is None and not agents.searches(name):
        return
    wanted = f"{name} is to search" + (f" ({simulations} simulations)" if simulations else "")
    if agents.is_policy(name):
        raise ValueError(
            f"{wanted}, and its policy is a language model, which cannot read the states of a "
            "tree; search with an agent that looks priors up, such as dqn_prior or prior"
        )
    if _CANDIDATES in settings.run.eval_modes:
        raise ValueError(
            f"{wanted}, and eval_modes has {_CANDIDATES!r}, where agents act by Q alone; use "
            "another mode, such as sample"
        )
    if settings.environment.env == ENGINE:
        raise ValueError(
            f"{wanted}, and games on engines cannot be stepped from any state; use an environment "
            "in JAX, such as ALFWorld, or an agent without search, such as dqn_prior"
        )


def mode_prefixes(modes: Sequence[str]) -> dict[str, str]:
    """The modes of evaluation by what stands before the names of their metrics."""
    return {f"{mode}_" if number else "": mode for number, mode in enumerate(modes)}


def _evaluated(agent: agents.Agent, settings: Settings) -> dict[str, agents.Agent]:
    """An agent as it acts in evaluations, by what stands before the metrics' names."""
    if settings.search.simulations is not None:
        agent = _searching(agent, settings)
    acting = {
        _GREEDY: agents.greedy(agent),
        _CANDIDATES: agents.best_of_candidates(
            agent, settings.agent.num_candidates or _NUM_CANDIDATES
        ),
    }
    prefixes = mode_prefixes(settings.run.eval_modes)
    return {prefix: acting.get(mode, agent) for prefix, mode in prefixes.items()}


def _searching(agent: agents.Agent, settings: Settings) -> agents.Agent:
    """An agent that searches as the settings say, or with its own number of simulations."""
    simulations = settings.search.simulations
    if simulations is None:
        assert agent.search is not None
        simulations = agent.search.simulations
    return agents.with_search(
        agent,
        simulations=simulations,
        tree_policy=settings.search.tree_policy,
        rollout_steps=settings.search.rollout_steps,
        alpha=settings.agent.alpha,
        discount=settings.agent.discount,
    )


def make_candidates(
    settings: Settings, model: CachedModel, build_prompt: prompts.Builder
) -> Candidates:
    """Where the actions of games on engines come from, as one run learns of them."""
    freeform = settings.environment.freeform
    if freeform.k is None:
        return Admissible()
    if freeform.source == "vocabulary":
        propose = from_vocabulary(freeform.verbs, freeform.k, settings.run.seed)
    else:
        propose = from_language_model(
            lambda: model.language_model,
            freeform.k,
            freeform_sampling(freeform),
            settings.run.seed,
            build_prompt,
        )
    return Widened(propose, settings.environment.engine.num_actions)


def freeform_sampling(freeform: FreeFormSettings) -> Sampling:
    """How the language model's proposals of actions are drawn."""
    return Sampling(freeform.max_new_tokens, freeform.temperature, freeform.top_p, freeform.stop)


def shared_environments(settings: Settings) -> int:
    """The environments of a seed that devices may share out, 1 where they may not.

    They may where an agent learns Q from what it does itself in environments in JAX.
    """
    policy = any(map(agents.is_policy, settings.agents))
    offline = settings.offline.dataset is not None
    if policy or offline or settings.environment.env == ENGINE:
        return 1
    return settings.loop.num_envs


class _LanguageAgent(NamedTuple):
    """An agent whose policy is a language model, and how it acts.

    Attributes:
      agent: the agent.
      actor: acts while it learns.
      evaluated: act in evaluations, by what stands before the metrics' names.
    """

    agent: agents.PolicyAgent
    actor: PolicyActor
    evaluated: dict[str, PolicyActor]


def _make_policy(
    name: str, settings: Settings, env: envs.TextEnvironment | EngineGames, known: Priors
) -> _LanguageAgent:
    policy = settings.policy
    # bfloat16 would round small updates away.
    lm = known.model.load_again(policy.model, jnp.float32)
    agent, model = build_policy(name, lm, env.num_actions, policy, settings.prior)
    count = functools.partial(count_tokens, lm.tokenizer)
    context = lm.config.max_position_embeddings
    build = make_builder(settings.prior, known.examples, lambda: lm.tokenizer)
    build_prompt = prompts.fitting(build, lambda prompt: prompts.room_for(prompt, context, count))
    has_words = {"has_words": env.has_words} if isinstance(env, EngineGames) else {}
    actor = PolicyActor(agent, model, env.text_state, build_prompt, **has_words)
    evaluated = {
        prefix: actor.greedy() if mode == _GREEDY else actor
        for prefix, mode in mode_prefixes(settings.run.eval_modes).items()
    }
    return _LanguageAgent(agent, actor, evaluated)


def unseen_params(environment: EnvironmentSettings, env_params: Any) -> Any:
    """The parameters under which an environment plays unseen games, which come after the others."""
    number = len(list_games(environment.games.unseen))
    return env_params.replace(games=len(env_params.games) + jnp.arange(number)) if number else None
