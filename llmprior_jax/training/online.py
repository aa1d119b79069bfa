"""Learning online: agents that act in a batch of environments in JAX while they learn."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import table as tables
from llmprior_jax.training.config import Config
from llmprior_jax.training.loop import LoopConfig, LoopState, Missing, make_loop
from llmprior_jax.training.runs import Decision, over_seeds, seed_keys
from llmprior_jax.training.scoring import TableFiller


class OnlineRun:
    """A `Run` that acts in environments in JAX: all seeds, and the table that they share."""

    def __init__(
        self,
        agent: Agent,
        config: Config,
        env: TextEnvironment,
        env_params: Any,
        filler: TableFiller,
    ):
        self.agent = agent
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
        self._num_steps = config.num_steps
        # Training, its evaluations, and evaluations afterwards draw from streams of their own.
        streams = jax.vmap(functools.partial(jax.random.split, num=3))(seed_keys(config))
        train_keys, self._eval_keys, self._fresh_keys = streams.T
        self._num_iterations = config.eval_every // config.loop.num_envs
        self._segment = over_seeds(
            loop.segment, (0, None, None), config.num_seeds, mesh=config.mesh
        )
        self._evaluate = over_seeds(loop.evaluate, (0, 0, None), config.num_seeds, mesh=config.mesh)
        self._committed = np.zeros(config.num_seeds, int)
        self.table = filler.load()
        self.segments = 0
        self.state: LoopState = over_seeds(
            loop.init, (0, None), config.num_seeds, mesh=config.mesh
        )(train_keys, self.table)

    @property
    def steps(self) -> int:
        """Environment steps that every seed has taken."""
        return int(self._committed.min())

    @property
    def num_steps(self) -> int:
        """Environment steps after which training is finished; 0 for agents that do not learn."""
        return 0 if self.agent.update is None else self._num_steps

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

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
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
            scene = self.env.scene(env_state)
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
                scene=scene,
            )

    def _fill(self, missing: Missing) -> bool:
        """Scores the states that were missing; says whether there were any."""
        is_missing = np.asarray(missing.is_missing)
        if not is_missing.any():
            return False
        self.table = self._filler.extend(self.table, np.asarray(missing.observation)[is_missing])
        return True
