"""Learning online: agents that act in a batch of environments in JAX while they learn."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.acting import ActingRun
from llmprior_jax.learning.loop import LoopState
from llmprior_jax.learning.run import seed_keys
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.training.config import Config


class OnlineRun(ActingRun):
    """A `Run` that learns from the environments it acts in: all seeds together.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> isinstance(run, training.OnlineRun), run.unit
      (True, 'environment steps')
    """

    def __init__(
        self,
        agent: Agent,
        config: Config,
        env: TextEnvironment,
        env_params: Any,
        filler: TableFiller,
        unseen_params: Any = None,
    ):
        # Training, its evaluations, and evaluations afterwards draw from streams of their own.
        streams = jax.vmap(functools.partial(jax.random.split, num=3))(seed_keys(config))
        train_keys, eval_keys, fresh_keys = streams.T
        super().__init__(
            agent, config, env, env_params, filler, eval_keys, fresh_keys, unseen_params
        )
        self._eval_every = config.eval_every
        self._iteration = 0
        self._segment = self._over_seeds(self.loop.segment, (0, None, None))
        self._committed = np.zeros(config.num_seeds, int)
        self.state: LoopState = self._over_seeds(self.loop.init, (0, None))(train_keys, self.table)

    @property
    def steps(self) -> int:
        """Environment steps that every seed has taken."""
        return int(self._committed.min())

    def train(self) -> dict[str, np.ndarray]:
        """Trains all seeds until each has taken the steps that lie between two evaluations.

        Returns:
          Their metrics [S], means over the jitted segments that it took.
        """
        enough = self.steps + self._eval_every
        collected = []
        while self.steps < enough:
            iteration = jnp.asarray(self._iteration, jnp.int32)
            self.state, metrics, missing = self._segment(self.state, self.table, iteration)
            metrics = fetch(metrics)
            self._committed = self._committed + metrics.pop("committed")
            self._iteration += self._num_iterations
            self.table, _ = self.filler.fill(self.table, missing)
            collected.append(metrics)
        self.segments += 1
        # Before an agent learns, its losses are NaN.
        return jax.tree.map(
            lambda *values: np.asarray(jnp.nanmean(jnp.stack(values), axis=0)), *collected
        )

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        return {
            "committed": self._committed.tolist(),
            "segments": self.segments,
            "iteration": self._iteration,
            "counts": self.filler.counts(),
            "table_size": int(self.table.size),
        }

    def restore(self, step: int, state: LoopState, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint; the table too, since a fuller one would stall less."""
        del step
        self.state = state
        self.segments, self._iteration = meta["segments"], meta["iteration"]
        self._committed = np.array(meta["committed"])
        self.table = self.filler.load(meta["table_size"])
        self.filler.restore_counts(meta["counts"])
