"""What runs share whose agents act in an environment in JAX: priors, evaluation, one episode."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from llmprior_jax.agents import Agent
from llmprior_jax.distributed.mesh import make_mesh, share_environments, shared_environments
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.loop import Episodes, Loop, LoopConfig, make_loop
from llmprior_jax.learning.run import Decision, fold_in, over_seeds, step_unit
from llmprior_jax.play.episodes import Choice, means, play
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import table as tables
from llmprior_jax.training.config import Config


class ActingRun:
    """The part of a `Run` that is the same however its agent learns; a base class.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> isinstance(run, training.ActingRun), run.env.name
      (True, 'FrozenLake-4x4')

    Attributes:
      agent: the agent.
      env: the environment.
      env_params: its parameters.
      loop: training online and evaluation of one seed.
      filler: the source of priors.
      table: priors of the states met so far, which all seeds share.
      segments: segments trained so far.
      unit: what a step is.
      evaluated: the episodes [S, E, ...] of the last evaluation, those in unseen games under
        "unseen_" and the others under "".
      state: what training needs to continue; `state.agent` is the agent's state, with a leading
        axis of seeds. Subclasses set it.
    """

    state: Any

    def __init__(
        self,
        agent: Agent,
        config: Config,
        env: TextEnvironment,
        env_params: Any,
        filler: TableFiller,
        eval_keys: jax.Array,
        fresh_keys: jax.Array,
        unseen_params: Any,
    ):
        """Loads the table.

        Args:
          agent: what learns.
          config: see `default_config`.
          env: the environment.
          env_params: its parameters.
          filler: gives the priors of its states.
          eval_keys: [S], for evaluation and nothing else.
          fresh_keys: [S], for other episodes than those by which training was watched.
          unseen_params: parameters under which the agent is also evaluated and never trained, or
            None.
        """
        self.agent = agent
        self.env, self.env_params = env, env_params
        self._num_iterations = (config.segment_steps or config.eval_every) // config.loop.num_envs
        self._has_history = config.history > 0

        def loop_under(params: Any) -> Loop:
            sizes = LoopConfig(**config.loop)
            return make_loop(
                env, params, agent, sizes, self._num_iterations, config.eval_episodes, share
            )

        mesh = make_mesh(config.mesh, config.num_seeds, shared_environments(config))
        share = share_environments(mesh, config.num_seeds)
        self._over_seeds = functools.partial(
            over_seeds,
            num_seeds=config.num_seeds,
            mesh=config.mesh,
            num_envs=shared_environments(config),
        )
        self.loop = loop_under(env_params)
        evaluations = {"": self.loop.evaluate}
        if unseen_params is not None:
            evaluations["unseen_"] = loop_under(unseen_params).evaluate
        self.table = filler.load()
        self.segments = 0
        self.unit = step_unit(config)
        self.filler = filler
        self._num_steps = config.num_steps
        self._eval_keys, self._fresh_keys = eval_keys, fresh_keys
        self._evaluate = {
            name: self._over_seeds(evaluate, (0, 0, None)) for name, evaluate in evaluations.items()
        }
        self.evaluated: dict[str, Episodes] = {}

    @property
    def num_steps(self) -> int:
        """Steps after which training is finished; 0 for agents that do not learn."""
        return 0 if self.agent.update is None else self._num_steps

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Success rate, return and length of episodes of all seeds [S], in unseen games, too.

        With a history, also how many prompts have so far been scored without the oldest part of it,
        which was too long for the language model's context.

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        keys = fold_in(self._fresh_keys if fresh else self._eval_keys, self.segments)
        results = {}
        for name, evaluate in self._evaluate.items():
            while True:
                episodes, missing = evaluate(self.state.agent, keys, self.table)
                self.table, incomplete = self.filler.fill(self.table, missing)
                if not incomplete:
                    break
            self.evaluated[name] = episodes = fetch(episodes)
            results |= means(name, episodes.success, episodes.returns, episodes.length)
        if self._has_history:
            results["prompts_cut"] = np.full(len(keys), self.filler.prompts_cut)
        return results

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the agent of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the agent.
        """
        state = jax.tree.map(lambda leaf: leaf[seed], fetch(self.state.agent))
        policy, act = jax.jit(self.agent.policy), jax.jit(self.agent.act)

        def choose(observation: jax.Array, key: jax.Array) -> Choice:
            self.table = self.filler.extend(self.table, np.asarray(observation)[None])
            prior = tables.lookup(self.table, tables.find(self.table, observation))
            view = policy(state, prior)
            return Choice(
                prior=np.exp(prior.log_probs),
                q_values=np.asarray(view.q_values),
                posterior=np.exp(view.log_probs),
                action=act(state, key, prior),
            )

        return play(self.env, self.env_params, key, choose)
