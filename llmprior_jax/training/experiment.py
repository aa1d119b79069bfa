"""An experiment: agents trained one after another on one environment, in one work directory.

The work directory has the configuration, the priors of all states that were met, the summary and
learning curves, and a directory per agent with its metrics and checkpoints. Run again, it goes on
where it stopped; killed at any moment and run again, it ends with the same parameters.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from llmprior_jax import agents, envs
from llmprior_jax.priors import (
    PriorStore,
    Proposer,
    Queries,
    Sampling,
    Scorer,
    check_options,
    prompts,
)
from llmprior_jax.priors.generation import check_sampling
from llmprior_jax.priors.prompts import Example
from llmprior_jax.priors.proposals import check_estimate
from llmprior_jax.training import datasets, examples, policy, provenance
from llmprior_jax.training import summary as summaries
from llmprior_jax.training.candidates import (
    PROPOSERS,
    Admissible,
    Candidates,
    Proposed,
    from_language_model,
    from_vocabulary,
)
from llmprior_jax.training.checkpoints import Checkpoints
from llmprior_jax.training.config import (
    CONFIG_FILE,
    Config,
    check_workdir,
    claim_workdir,
    read_config,
)
from llmprior_jax.training.datasets import Dataset
from llmprior_jax.training.files import write_atomically
from llmprior_jax.training.games import list_games
from llmprior_jax.training.host import HostRun
from llmprior_jax.training.host_games import HostGames, open_games
from llmprior_jax.training.mesh import explain_out_of_memory, make_mesh
from llmprior_jax.training.metrics import MetricsWriter, read_metrics
from llmprior_jax.training.offline import OfflineRun
from llmprior_jax.training.online import OnlineRun
from llmprior_jax.training.policy import PolicyRun
from llmprior_jax.training.runs import Run
from llmprior_jax.training.scoring import TableFiller, first_observations
from llmprior_jax.types import TextState

_PRIOR_TABLE = "prior_table"
_QUERIES = "prior_queries.jsonl"
_METHODS = ("score", "propose")
SUMMARY_FILE = "summary.json"
_CURVES = "learning_curves.png"


class InterruptedRunError(RuntimeError):
    """Training was asked to stop; the work directory holds all that was learned until then."""


def run(
    config: Config,
    workdir: str | pathlib.Path,
    resume: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains and evaluates the agents of a configuration.

    Args:
      config: see `default_config`.
      workdir: directory of the run; made if need be.
      resume: go on from what the directory holds; otherwise start again in it, losing its results.
      should_stop: asked after every segment; once it says yes, a checkpoint is written and training
        ends with `InterruptedRunError`.

    Returns:
      For each agent what `summary.summarize` gives. The same is in `summary.json`; learning curves
      are in `learning_curves.png`.

    Raises:
      ValueError: the configuration is invalid, or the directory belongs to another one.
      RestoreError: the directory has checkpoints, and none can be read.
      InterruptedRunError: `should_stop` said so.
      OutOfMemoryError: a device had too little memory.
    """
    workdir = pathlib.Path(workdir)
    check_config(config)
    env, env_params = make_environment(config)
    dataset = read_dataset(config)
    shown = make_examples(config, workdir if resume else None)
    filler = make_filler(config, env, env_params, workdir, shown=shown)
    # All that can be wrong with what was given shows before anything is written or removed.
    if resume:
        check_workdir(workdir, config)
    if not resume or not filler.has_table:
        filler.load_model()
    if not resume:
        _clear(workdir)
    claim_workdir(workdir, config)
    if shown:
        examples.write(workdir, shown)
    provenance.record(workdir)

    records = {}
    try:
        with explain_out_of_memory(config, workdir):
            for name in config.agents:
                run = make_run(name, config, env, env_params, filler, dataset)
                _train(name, run, filler, config.checkpoint, workdir / name, should_stop)
                records[name] = read_metrics(workdir / name)
    finally:
        _report(filler.queries, workdir)
        filler.close()
    summary = {name: summaries.summarize(records[name]) for name in config.agents}
    write_atomically(workdir / SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    unit = "environment steps" if dataset is None else "updates"
    summaries.plot(records, workdir / _CURVES, unit)
    return summary


def restore(workdir: str | pathlib.Path, name: str, eval_episodes: int) -> Run:
    """Restores an agent of a finished or interrupted run, to evaluate it.

    Args:
      workdir: directory of the run.
      name: one of the run's agents.
      eval_episodes: episodes per seed that `Run.evaluate` will take.

    Raises:
      FileNotFoundError: the directory holds no run, or no checkpoint of the agent.
      ValueError: the run has no such agent.
      RestoreError: the agent has checkpoints, and none can be read.
    """
    workdir = pathlib.Path(workdir)
    config = read_config(workdir)
    if name not in config.agents:
        raise ValueError(f"{workdir} has no agent {name!r}; it has {', '.join(config.agents)}")
    config.eval_episodes = eval_episodes
    env, env_params = make_environment(config)
    filler = make_filler(config, env, env_params, workdir, read_only=True)
    run = make_run(name, config, env, env_params, filler, read_dataset(config))
    directory = workdir / name / "checkpoints"
    if not directory.exists():
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    with Checkpoints(directory, config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state, set_aside=False)
    if restored is None:
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    run.restore(*restored)
    return run


def check_config(config: Config) -> None:
    """Raises a ValueError that names the field if a value is out of its range."""
    positive = {
        name: config[name] for name in ("num_seeds", "num_steps", "eval_every", "eval_episodes")
    }
    positive |= {f"loop.{name}": value for name, value in config.loop.items()}
    positive |= {f"checkpoint.{name}": value for name, value in config.checkpoint.items()}
    positive |= {
        f"engine.{name}": config.engine[name] for name in ("num_actions", "max_steps", "timeout")
    }
    positive |= {"prior.num_features": config.prior.num_features}
    positive |= {"agent.hidden_sizes": min(config.agent.hidden_sizes, default=1)}
    for name, value in positive.items():
        if value < (0 if name == "loop.warmup_steps" else 1):
            raise ValueError(f"config.{name} is {value}; use a larger number")
    if config.history < 0:
        raise ValueError(f"config.history is {config.history}; use a number of pairs >= 0")
    if config.agent.num_candidates < 0:
        raise ValueError(
            f"config.agent.num_candidates is {config.agent.num_candidates}; use a number >= 1, "
            "or 0 for the exact posterior"
        )
    datasets.check_unit(config.offline.unit)
    if config.loop.replay_capacity < max(config.loop.num_envs, config.loop.batch_size):
        raise ValueError(
            f"config.loop.replay_capacity is {config.loop.replay_capacity}; it must hold at least "
            "config.loop.num_envs and config.loop.batch_size transitions"
        )
    check_options(config.prior.normalization, config.prior.temperature)
    _check_asking(config.prior)
    make_mesh(config.mesh, config.num_seeds)
    if config.freeform.source not in PROPOSERS:
        raise ValueError(
            f"config.freeform.source is {config.freeform.source!r}; use one of "
            f"{', '.join(PROPOSERS)}"
        )
    if config.freeform.k:
        check_sampling(config.freeform.k, freeform_sampling(config))
        if config.env != "engine":
            raise ValueError(
                f"config.freeform.k is {config.freeform.k}, but the actions of {config.env} are "
                "listed; proposals are for config.env = 'engine'"
            )
    if config.segment_steps < 0:
        raise ValueError(
            f"config.segment_steps is {config.segment_steps}; use a number >= 1, or 0 for all "
            "steps between two evaluations"
        )
    for name in ("eval_every", "segment_steps"):
        if not config.offline.dataset and config[name] % config.loop.num_envs:
            raise ValueError(
                f"config.{name} is {config[name]}, which {config.loop.num_envs} environments "
                "(config.loop.num_envs) cannot divide among them; use a multiple"
            )
    policies = [name for name in config.agents if name in agents.POLICY_AGENTS]
    if config.env == "engine" and (policies or config.offline.dataset):
        what = "a dataset is" if config.offline.dataset else f"{policies[0]} is"
        raise ValueError(
            f"{config.env} is played by engines on the host, where agents learn Q online; {what} "
            "for environments in JAX"
        )
    if policies and config.offline.dataset:
        raise ValueError(f"{policies[0]} learns online only; leave config.offline.dataset out")
    # The learner's parameters are checked even where only agents without any run.
    for name in ("dqn_prior", "cql_prior", *config.agents):
        if name in agents.POLICY_AGENTS:
            policy.check_config(config)
        else:
            make_agent(name, config)
    if len(set(config.agents)) != len(config.agents) or not config.agents:
        raise ValueError(f"config.agents is {config.agents}; name one or more agents, each once")


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
    env,
    env_params,
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


def _check_asking(prior: Config) -> None:
    if prior.method not in _METHODS:
        raise ValueError(
            f"config.prior.method is {prior.method!r}; there are {' and '.join(_METHODS)}"
        )
    if prior.prompt == prompts.FEW_SHOT:
        if not prior.examples.workdir or prior.examples.count < 1:
            raise ValueError(
                "config.prior.prompt is 'few_shot', which shows successful episodes; name a run to "
                "take them from (config.prior.examples.workdir) and how many (count)"
            )
        builder = functools.partial(prompts.few_shot, examples=())
    else:
        builder = prompts.make(prior.prompt)
    thinks = builder(TextState("", "")).after_thought is not None
    if thinks and prior.method == "score":
        raise ValueError(
            f"config.prior.prompt is {prior.prompt!r}, which samples a thought before the action; "
            "set config.prior.method to 'propose'"
        )
    propose = prior.propose
    check_sampling(propose.k, Sampling(propose.max_new_tokens, propose.temperature, propose.top_p))
    check_estimate(propose.no_match, propose.pseudo_count)


def make_agent(name: str, config: Config) -> agents.Agent:
    """The agent `name` with the parameters of `config.agent`, and the prior of `config.prior`."""
    parameters = config.agent.to_dict()
    for optional in ("num_candidates", "penalty_temperature"):
        parameters[optional] = parameters[optional] or None
    agent, share = agents.make(name, **parameters), config.prior.uniform_share
    if not 0 <= share <= 1:
        raise ValueError(f"config.prior.uniform_share is {share}; use a number from 0 to 1")
    # What is put around an agent last is done to the prior first: reversed, then mixed.
    if share:
        mix = functools.partial(agents.robust.mixed_with_uniform, share=share)
        agent = agents.with_prior(agent, mix)
    return (
        agents.with_prior(agent, agents.robust.reversed_order) if config.prior.reversed else agent
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
    env,
    env_params,
    workdir: pathlib.Path,
    read_only: bool = False,
    shown: Sequence[Example] | None = None,
) -> TableFiller:
    """The source of priors of a run; a reader's leaves the run's rows as they are.

    The examples that prompts show are those of the directory, unless they are given.
    """
    if shown is None:
        shown = make_examples(config, workdir)

    def first() -> np.ndarray:
        if isinstance(env, HostGames):
            return env.first_observations(make_candidates(config, filler))
        return first_observations(env, env_params)

    filler = TableFiller(
        env,
        first,
        make_scorer(config),
        config.prior.num_features,
        workdir / _PRIOR_TABLE,
        read_only,
        prompts.make(config.prior.prompt, shown),
    )
    return filler


def make_examples(config: Config, workdir: pathlib.Path | None) -> list[Example]:
    """The episodes that a run's prompts show: those in its directory, or else new ones.

    Raises:
      FileNotFoundError, ValueError, RestoreError: the agent that is to show how cannot be restored.
      ValueError: it does not succeed often enough.
    """
    if config.prior.prompt != prompts.FEW_SHOT:
        return []
    kept = None if workdir is None else examples.read(workdir)
    if kept is not None:
        return kept
    source = config.prior.examples
    run = restore(source.workdir, source.agent, eval_episodes=1)
    return examples.collect(run, source.count, jax.random.key(config.seed))


def make_scorer(config: Config) -> Scorer:
    """The language model of a configuration, with the store of what it said.

    Raises:
      StoreError: the store cannot be used.
    """
    prior = config.prior
    store = PriorStore(prior.store) if prior.store else None
    if prior.method == "score":
        mesh = make_mesh(config.mesh, config.num_seeds)
        return Scorer(
            prior.model, prior.normalization, prior.temperature, store, mesh, prior.features
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
        prior.features,
    )


def _clear(workdir: pathlib.Path) -> None:
    """Removes the run that a directory holds, and nothing else that may lie there."""
    try:
        config = read_config(workdir)
    except FileNotFoundError:
        return
    for name in config.agents:
        shutil.rmtree(workdir / name, ignore_errors=True)
    shutil.rmtree(workdir / _PRIOR_TABLE, ignore_errors=True)
    for name in (_QUERIES, SUMMARY_FILE, _CURVES, provenance.FILE, examples.FILE, CONFIG_FILE):
        (workdir / name).unlink(missing_ok=True)


def _report(queries: Queries, workdir: pathlib.Path) -> None:
    """Says how much the language model was asked, and adds it to the run's record."""
    tqdm.tqdm.write(
        f"prior: {queries.made:,} language-model queries made ({queries.per_second:,.0f}/s), "
        f"{queries.saved:,} saved by the store"
        + (f", {queries.not_kept:,} not kept" if queries.not_kept else "")
    )
    record = queries._asdict() | {"per_second": queries.per_second}
    with (workdir / _QUERIES).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _train(
    name: str,
    run: Run,
    filler: TableFiller,
    checkpoint: Config,
    directory: pathlib.Path,
    should_stop: Callable[[], bool],
) -> None:
    """Trains one agent to the end, or goes on with it."""
    with Checkpoints(directory / "checkpoints", checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state)
        if restored is not None:
            run.restore(*restored)
            done = run.steps >= run.num_steps
            how = "is finished, at" if done else "resumes from"
            tqdm.tqdm.write(f"{name}: {how} environment step {run.steps:,}")
        with (
            MetricsWriter(
                directory, -1 if restored is None else run.segments, run.steps
            ) as metrics,
            tqdm.tqdm(
                total=run.num_steps, initial=run.steps, desc=name, unit="step", disable=None
            ) as bar,
        ):
            if restored is None:
                metrics.write(run.segments, run.steps, **run.evaluate())
                checkpoints.save(0, run.state, run.meta())
                # Until then a restart would begin with a fuller table, and so stall less.
                checkpoints.wait()
            while run.steps < run.num_steps:
                before = run.steps
                values = run.train() | run.evaluate() | filler.metrics()
                metrics.write(run.segments, run.steps, **values)
                done, stop = run.steps >= run.num_steps, should_stop()
                if run.segments % checkpoint.every == 0 or done or stop:
                    checkpoints.save(run.segments, run.state, run.meta())
                bar.update(run.steps - before)
                bar.set_postfix(success=f"{np.mean(values['success_rate']):.2f}")
                if stop and not done:
                    raise InterruptedRunError(
                        f"stopped at step {run.steps:,} of {run.num_steps:,} of {name}; the same "
                        "command goes on from there"
                    )
