"""What a configuration describes, made: the environment, agents, the source of priors, runs."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import agents, envs
from llmprior_jax.distributed.mesh import make_mesh, shared_environments
from llmprior_jax.envs.engines.games import list_games
from llmprior_jax.learning.offline import OfflineRun
from llmprior_jax.learning.on_engines import HostRun
from llmprior_jax.learning.online import OnlineRun
from llmprior_jax.learning.policy_gradient import PolicyRun
from llmprior_jax.learning.run import Run
from llmprior_jax.play import datasets
from llmprior_jax.play.candidates import (
    Admissible,
    Candidates,
    Proposed,
    from_language_model,
    from_vocabulary,
)
from llmprior_jax.play.datasets import Dataset
from llmprior_jax.play.engine_games import HostGames, open_games
from llmprior_jax.play.scored_states import TableFiller, first_observations
from llmprior_jax.priors import Imitator, Proposer, Sampling, Scorer, prompts
from llmprior_jax.priors.prompts import Example
from llmprior_jax.priors.shared_store import SharedStore
from llmprior_jax.training.config import Config

METHODS = ("score", "propose", "imitate")


def make_environment(config: Config) -> tuple[envs.TextEnvironment | HostGames, Any]:
    """The environment that agents are trained in, and its parameters (None for engines).

    Raises:
      ValueError: there are no such games, or unseen ones only.
    """
    games, unseen = list_games(config.games.train), list_games(config.games.unseen)
    if unseen and not games:
        raise ValueError("config.games.unseen has games, and config.games.train has none to learn")
    if config.env == "engine":
        return open_games(config, games, unseen), None
    every = list_games((*games, *unseen))
    env_params: Any
    env, env_params = envs.make(config.env, **({"games": every} if every else {}))
    if unseen:
        env_params = env_params.replace(games=jnp.arange(len(games)))
    return envs.with_history(env, config.history) if config.history else env, env_params


def read_dataset(config: Config) -> Dataset | None:
    """The dataset of a configuration, checked; None for learning online.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file breaks the format, or has fewer transitions than the subset needs.
    """
    if not config.offline.dataset:
        return None
    dataset = datasets.read(config.offline.dataset, config.history)
    datasets.check_size(dataset, config.offline.size, config.offline.unit)
    return dataset


def unseen_params(config: Config, env_params: Any) -> Any:
    """The parameters under which an environment plays unseen games, which come after the others."""
    number = len(list_games(config.games.unseen))
    return env_params.replace(games=len(env_params.games) + jnp.arange(number)) if number else None


def make_run(
    name: str,
    config: Config,
    env: envs.TextEnvironment | HostGames,
    env_params: Any,
    filler: TableFiller,
    dataset: Dataset | None = None,
) -> Run:
    """What trains the agent `name`: from a dataset, on the host if engines play, or in JAX."""
    if isinstance(env, HostGames):
        agent = make_agent(name, config)
        return HostRun(agent, config, env, filler, make_candidates(config, filler))
    unseen = unseen_params(config, env_params)
    if name in agents.POLICY_AGENTS:
        return PolicyRun(name, config, env, env_params, filler, unseen)
    agent = make_agent(name, config)
    if dataset is None or agent.update is None:
        return OnlineRun(agent, config, env, env_params, filler, unseen)
    return OfflineRun(agent, config, env, env_params, filler, dataset, unseen)


def make_agent(name: str, config: Config) -> agents.Agent:
    """The agent `name` with the parameters of `config.agent`, and the prior of `config.prior`.

    Examples:
      >>> agent = training.make_agent("dqn_prior", training.default_config())
      >>> agent.update is not None
      True
    """
    parameters = config.agent.to_dict()
    for optional in ("num_candidates", "penalty_temperature"):
        parameters[optional] = parameters[optional] or None
    parameters["alpha"] = agents.temperature.choose(
        parameters["alpha"],
        initial=parameters.pop("alpha_from"),
        num_updates=parameters.pop("alpha_updates"),
        target_kl=parameters.pop("target_kl"),
    )
    agent, share = agents.make(name, **parameters), config.prior.uniform_share
    if not 0 <= share <= 1:
        raise ValueError(f"config.prior.uniform_share is {share}; use a number from 0 to 1")
    # What is put around an agent last is done to the prior first: reversed, then mixed.
    if share:
        mix = functools.partial(agents.prior_transforms.mixed_with_uniform, share=share)
        agent = agents.with_prior(agent, mix)
    return (
        agents.with_prior(agent, agents.prior_transforms.reversed_order)
        if config.prior.reversed
        else agent
    )


def make_candidates(config: Config, filler: TableFiller) -> Candidates:
    """Where the actions of games on engines come from, as one run learns of them."""
    options = config.freeform
    if not options.k:
        return Admissible()
    if options.source == "vocabulary":
        propose = from_vocabulary(options.verbs, options.k, config.seed)
    else:
        propose = from_language_model(
            lambda: filler.language_model,
            options.k,
            freeform_sampling(config),
            config.seed,
            filler.build_prompt,
        )
    return Proposed(propose, config.engine.num_actions)


def freeform_sampling(config: Config) -> Sampling:
    """How the language model's proposals are drawn."""
    options = config.freeform
    return Sampling(options.max_new_tokens, options.temperature, options.top_p, tuple(options.stop))


def make_filler(
    config: Config,
    env: envs.TextEnvironment | HostGames,
    env_params: Any,
    directory: pathlib.Path,
    read_only: bool = False,
    shown: Sequence[Example] = (),
) -> TableFiller:
    """The source of priors of a run.

    Args:
      config: see `default_config`.
      env: the environment.
      env_params: its parameters.
      directory: holds the rows of the table.
      read_only: leave the directory as it is.
      shown: the examples that the prompt "few_shot" shows.
    """

    def first() -> np.ndarray:
        if isinstance(env, HostGames):
            return env.first_observations(make_candidates(config, filler))
        return first_observations(env, env_params)

    imitator = make_imitator(config)
    filler = TableFiller(
        env,
        first,
        make_scorer(config),
        config.prior.num_features,
        directory,
        read_only,
        prompts.make(config.prior.prompt, shown),
        imitator,
    )
    return filler


def make_imitator(config: Config) -> Imitator | None:
    """The prior that demonstrations show; None where nothing is to be imitated.

    Raises:
      FileNotFoundError, ValueError: see `datasets.read`.
    """
    if config.prior.method != "imitate":
        return None
    shown = datasets.count_actions(datasets.read(config.prior.demonstrations, config.history))
    asked: dict[str, dict[str, int]] = {}
    for state, counts in shown.items():
        prompt = prompts.plain(state)
        as_asked = dict(zip(state.actions, prompt.actions, strict=True))
        # States that differ in their actions alone have one prompt.
        of_prompt = asked.setdefault(prompt.text, {})
        for action, count in counts.items():
            of_prompt[as_asked[action]] = of_prompt.get(as_asked[action], 0) + count
    return Imitator(asked, config.prior.temperature)


def make_scorer(config: Config) -> Scorer:
    """The language model of a configuration, with the store of what it said.

    Raises:
      StoreError: the store cannot be used.
    """
    prior = config.prior
    quantize = prior.quantize or None
    store = SharedStore(prior.store) if prior.store else None
    mesh = make_mesh(config.mesh, config.num_seeds, shared_environments(config))
    if not config.mesh and jax.default_backend() == "cpu" and jax.process_count() == 1:
        mesh = None  # One device of a CPU computes on all of its cores.
    if prior.method != "propose":
        return Scorer(
            prior.model,
            prior.normalization,
            prior.temperature,
            store,
            mesh,
            prior.features,
            quantize,
        )
    propose = prior.propose
    sampling = Sampling(propose.max_new_tokens, propose.temperature, propose.top_p)
    return Proposer(
        prior.model,
        propose.k,
        sampling,
        propose.no_match,
        propose.pseudo_count,
        config.seed,
        store,
        mesh,
        prior.features,
        quantize,
    )
