"""An experiment: agents trained one after another on one environment, in one work directory.

The work directory has the configuration, the priors of all states that were met, the summary and
learning curves, and a directory per agent with its metrics and checkpoints. Run again, it goes on
where it stopped; killed at any moment and run again, it ends with the same parameters.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from llmprior_jax import agents, envs
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import check_options
from llmprior_jax.priors import table as tables
from llmprior_jax.training import summary as summaries
from llmprior_jax.training.checkpoints import Checkpoints
from llmprior_jax.training.config import (
    CONFIG_FILE,
    Config,
    check_workdir,
    claim_workdir,
    read_config,
)
from llmprior_jax.training.files import write_atomically
from llmprior_jax.training.loop import LoopConfig, LoopState, Missing, make_loop
from llmprior_jax.training.metrics import MetricsWriter, read_metrics
from llmprior_jax.training.scoring import TableFiller
from llmprior_jax.types import TextState

_PRIOR_TABLE = "prior_table.safetensors"
_SUMMARY = "summary.json"
_CURVES = "learning_curves.png"


def run(config: Config, workdir: str | pathlib.Path, resume: bool = True) -> dict[str, Any]:
    """Trains and evaluates the agents of a configuration.

    Args:
      config: see `default_config`.
      workdir: directory of the run; made if need be.
      resume: go on from what the directory holds; otherwise start again in it, losing its results.

    Returns:
      For each agent what `summary.summarize` gives. The same is in `summary.json`; learning curves
      are in `learning_curves.png`.

    Raises:
      ValueError: the configuration is invalid, or the directory belongs to another one.
      RestoreError: the directory has checkpoints, and none can be read.
    """
    workdir = pathlib.Path(workdir)
    check_config(config)
    env, env_params = envs.make(config.env)
    filler = make_filler(config, env, env_params, workdir)
    # All that can be wrong with what was given shows before anything is written or removed.
    if resume:
        check_workdir(workdir, config)
    if not resume or not filler.has_table:
        filler.load_model()
    if not resume:
        _clear(workdir)
    claim_workdir(workdir, config)

    records = {}
    for name in config.agents:
        _run_agent(name, config, env, env_params, filler, workdir / name)
        records[name] = read_metrics(workdir / name)
    summary = {name: summaries.summarize(records[name]) for name in config.agents}
    write_atomically(workdir / _SUMMARY, json.dumps(summary, indent=2) + "\n")
    summaries.plot(records, workdir / _CURVES)
    return summary


def restore(workdir: str | pathlib.Path, name: str, eval_episodes: int) -> "AgentRun":
    """Restores an agent of a finished or interrupted run, to evaluate it.

    Args:
      workdir: directory of the run.
      name: one of the run's agents.
      eval_episodes: episodes per seed that `AgentRun.evaluate` will take.

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
    env, env_params = envs.make(config.env)
    run = AgentRun(
        name, config, env, env_params, make_filler(config, env, env_params, workdir, read_only=True)
    )
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
    positive |= {"prior.num_features": config.prior.num_features}
    positive |= {"agent.hidden_sizes": min(config.agent.hidden_sizes, default=1)}
    for name, value in positive.items():
        if value < (0 if name == "loop.warmup_steps" else 1):
            raise ValueError(f"config.{name} is {value}; use a larger number")
    if config.agent.num_candidates < 0:
        raise ValueError(
            f"config.agent.num_candidates is {config.agent.num_candidates}; use a number >= 1, "
            "or 0 for the exact posterior"
        )
    if config.loop.replay_capacity < max(config.loop.num_envs, config.loop.batch_size):
        raise ValueError(
            f"config.loop.replay_capacity is {config.loop.replay_capacity}; it must hold at least "
            "config.loop.num_envs and config.loop.batch_size transitions"
        )
    check_options(config.prior.normalization, config.prior.temperature)
    if config.eval_every % config.loop.num_envs:
        raise ValueError(
            f"config.eval_every is {config.eval_every}, which {config.loop.num_envs} environments "
            f"(config.loop.num_envs) cannot divide among them; use a multiple"
        )
    # The learner's parameters are checked even where only agents without any run.
    for name in ("dqn_prior", *config.agents):
        make_agent(name, config)
    if len(set(config.agents)) != len(config.agents) or not config.agents:
        raise ValueError(f"config.agents is {config.agents}; name one or more agents, each once")


def make_agent(name: str, config: Config) -> agents.Agent:
    """The agent `name` with the parameters of `config.agent`."""
    parameters = config.agent.to_dict()
    parameters["num_candidates"] = parameters["num_candidates"] or None
    return agents.make(name, **parameters)


def make_filler(
    config: Config, env, env_params, workdir: pathlib.Path, read_only: bool = False
) -> TableFiller:
    """The source of priors of a run; a reader's leaves the run's file as it is."""
    return TableFiller(
        env,
        env_params,
        config.prior.model,
        config.prior.normalization,
        config.prior.temperature,
        config.prior.num_features,
        workdir / _PRIOR_TABLE,
        read_only,
    )


def seed_keys(config: Config) -> jax.Array:
    """One key per seed; seed i has the same one however many there are."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
        jax.random.key(config.seed), jnp.arange(config.num_seeds)
    )


def over_seeds(
    function: Callable[..., Any], in_axes: tuple[int | None, ...], num_seeds: int
) -> Callable[..., Any]:
    """Maps a function of one seed over all seeds, and jits it.

    The seeds are shared out evenly among the devices, which need nothing of one another: each runs
    its part of the batch on its own.

    Args:
      function: takes and returns pytrees of arrays.
      in_axes: for each argument, 0 if it has a leading axis of seeds, None if all seeds share it.
      num_seeds: S. As many devices take part as divide it.
    """
    num_devices = max(n for n in range(1, jax.device_count() + 1) if num_seeds % n == 0)
    devices = jax.devices()[:num_devices]
    mesh = jax.sharding.Mesh(np.array(devices), ("seed",))
    by_seed, shared = jax.sharding.PartitionSpec("seed"), jax.sharding.PartitionSpec()
    return jax.jit(
        jax.shard_map(
            jax.vmap(function, in_axes=in_axes),
            mesh=mesh,
            in_specs=tuple(shared if axis is None else by_seed for axis in in_axes),
            out_specs=by_seed,
            check_vma=False,
        )
    )


def _clear(workdir: pathlib.Path) -> None:
    """Removes the run that a directory holds, and nothing else that may lie there."""
    try:
        config = read_config(workdir)
    except FileNotFoundError:
        return
    for name in config.agents:
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in (_PRIOR_TABLE, _SUMMARY, _CURVES, CONFIG_FILE):
        (workdir / name).unlink(missing_ok=True)


def _run_agent(name, config, env, env_params, filler, directory) -> None:
    """Trains one agent to the end, or goes on with it."""
    run = AgentRun(name, config, env, env_params, filler)
    num_steps = 0 if run.agent.update is None else config.num_steps
    with Checkpoints(directory / "checkpoints", config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state)
        if restored is not None:
            run.restore(*restored)
            done = run.steps >= num_steps
            how = "is finished, at" if done else "resumes from"
            tqdm.tqdm.write(f"{name}: {how} environment step {run.steps:,}")
        with (
            MetricsWriter(
                directory, -1 if restored is None else run.segments, run.steps
            ) as metrics,
            tqdm.tqdm(
                total=num_steps, initial=run.steps, desc=name, unit="step", disable=None
            ) as bar,
        ):
            if restored is None:
                metrics.write(run.segments, run.steps, **run.evaluate())
                checkpoints.save(0, run.state, run.meta())
                # Until then a restart would begin with a fuller table, and so stall less.
                checkpoints.wait()
            while run.steps < num_steps:
                before = run.steps
                values = run.train() | run.evaluate()
                metrics.write(run.segments, run.steps, **values)
                if run.segments % config.checkpoint.every == 0 or run.steps >= num_steps:
                    checkpoints.save(run.segments, run.state, run.meta())
                bar.update(run.steps - before)
                bar.set_postfix(success=f"{np.mean(values['success_rate']):.2f}")


class AgentRun:
    """The host's side of training one agent: all seeds, and the table that they share."""

    def __init__(
        self, name: str, config: Config, env: TextEnvironment, env_params, filler: TableFiller
    ):
        self.agent = make_agent(name, config)
        self.env, self.env_params = env, env_params
        loop = make_loop(
            env,
            env_params,
            self.agent,
            LoopConfig(**config.loop),
            config.eval_every // config.loop.num_envs,
            config.eval_episodes,
        )
        self._filler = filler
        # Training, its evaluations, and evaluations afterwards draw from streams of their own.
        streams = jax.vmap(functools.partial(jax.random.split, num=3))(seed_keys(config))
        train_keys, self._eval_keys, self._fresh_keys = streams.T
        self._num_iterations = config.eval_every // config.loop.num_envs
        self._segment = over_seeds(loop.segment, (0, None, None), config.num_seeds)
        self._evaluate = over_seeds(loop.evaluate, (0, 0, None), config.num_seeds)
        self._committed = np.zeros(config.num_seeds, int)
        self.table = filler.load()
        self.segments = 0
        self.state: LoopState = over_seeds(loop.init, (0, None), config.num_seeds)(
            train_keys, self.table
        )

    @property
    def steps(self) -> int:
        """Environment steps that every seed has taken."""
        return int(self._committed.min())

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S]."""
        iteration = jnp.asarray(self.segments * self._num_iterations, jnp.int32)
        self.state, metrics, missing = self._segment(self.state, self.table, iteration)
        metrics = jax.device_get(metrics)
        self._committed = self._committed + metrics.pop("committed")
        self.segments += 1
        self._fill(missing)
        return metrics

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Success rate, return and length of episodes of all seeds [S].

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        keys = self._fresh_keys if fresh else self._eval_keys
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, self.segments)
        episodes, missing = self._evaluate(self.state.agent, keys, self.table)
        while self._fill(missing):
            episodes, missing = self._evaluate(self.state.agent, keys, self.table)
        return {
            "success_rate": np.mean(episodes.success, axis=1),
            "return": np.mean(episodes.returns, axis=1),
            "episode_length": np.mean(episodes.length, axis=1),
        }

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        return {
            "committed": self._committed.tolist(),
            "segments": self.segments,
            "table_size": int(self.table.size),
        }

    def restore(self, step: int, state: LoopState, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint; the table too, since a fuller one would stall less."""
        del step
        self.state = state
        self.segments = meta["segments"]
        self._committed = np.array(meta["committed"])
        self.table = self._filler.load(meta["table_size"])

    def play(self, seed: int, key: jax.Array) -> Iterator["Decision"]:
        """Plays one episode with the agent of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the agent.
        """
        state = jax.tree.map(lambda leaf: leaf[seed], jax.device_get(self.state.agent))
        policy, act, step = jax.jit(self.agent.policy), jax.jit(self.agent.act), self.env.step
        key, reset_key = jax.random.split(key)
        observation, env_state = self.env.reset(reset_key, self.env_params)
        done = False
        while not done:
            key, act_key, step_key = jax.random.split(key, 3)
            self.table = self._filler.extend(self.table, np.asarray(observation)[None])
            prior = tables.lookup(self.table, tables.find(self.table, observation))
            action = act(state, act_key, prior)
            text = self.env.text_state(np.asarray(observation))
            view = policy(state, prior)
            observation, env_state, reward, terminated, truncated, info = step(
                step_key, env_state, action, self.env_params
            )
            done = bool(terminated | truncated)
            yield Decision(
                text=text,
                prior=np.exp(prior.log_probs),
                q_values=np.asarray(view.q_values),
                posterior=np.exp(view.log_probs),
                action=int(action),
                reward=float(reward),
                success=bool(info["success"]),
                truncated=bool(truncated),
            )

    def _fill(self, missing: Missing) -> bool:
        """Scores the states that were missing; says whether there were any."""
        is_missing = np.asarray(missing.is_missing)
        if not is_missing.any():
            return False
        self.table = self._filler.extend(self.table, np.asarray(missing.observation)[is_missing])
        return True


class Decision(NamedTuple):
    """One step of an episode, for people: what was seen, weighed, done and gained.

    Attributes:
      text: the state.
      prior: f32[A], probabilities that the language model gives the actions.
      q_values: f32[A].
      posterior: f32[A], probabilities that the agent acts by.
      action: what it did.
      reward: what it got for it.
      success: whether this solved the task.
      truncated: whether the time limit ended the episode here.
    """

    text: TextState
    prior: np.ndarray
    q_values: np.ndarray
    posterior: np.ndarray
    action: int
    reward: float
    success: bool
    truncated: bool
