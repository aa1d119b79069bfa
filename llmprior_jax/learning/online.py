"""Learning online: agents that act in a batch of environments in JAX while they learn.

A whole segment of training (acting, stepping a batch of environments, replay, learning) is one
`lax.scan`; many seeds are one `vmap` over it. An environment that reaches a state that has not been
scored yet stalls for the rest of the segment (`play.stepping`), after which the host scores it.
Meanwhile its entries in replay are empty, of weight 0.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.replay import Record, make_replay
from llmprior_jax.learning.run import Run
from llmprior_jax.learning.ways import Ways, act_in_ways, begin_ways, go_on
from llmprior_jax.play.players import OverSeeds, Player
from llmprior_jax.play.stepping import (
    EnvsState,
    Missing,
    Share,
    find_in,
    locate,
    lookup_rows,
    own_keys,
    reset_envs,
    step_known,
)
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import LoopSettings, RunSettings


class LoopState(NamedTuple):
    """All that training needs to continue, for one seed (vmap for more).

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> run.state.key.shape  # a leading axis of seeds
      (2,)
    """

    key: jax.Array
    agent: AgentState
    replay: Any
    envs: EnvsState
    ways: Ways | None = None


class Loop(NamedTuple):
    """Training of one seed, as pure functions.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> loop = learning.make_loop(
      ...     env, params, agents.prior_alone(), settings.LoopSettings(), num_iterations=8
      ... )
      >>> loop._fields
      ('init', 'segment')

    Attributes:
      init: `(key, table) -> LoopState`.
      segment: `(state, table, iteration) -> (state, metrics, Missing)`, `num_iterations` steps of N
        environments, each followed by updates; `iteration` i32[] counts steps since the start.
        Metrics are means over the segment, with `committed`, the number of environment steps taken.
    """

    init: Callable[[jax.Array, PriorTable], LoopState]
    segment: Callable[[LoopState, PriorTable, jax.Array], tuple[LoopState, Metrics, Missing]]


def make_loop(
    env: TextEnvironment,
    env_params: Any,
    agent: Agent,
    settings: LoopSettings,
    num_iterations: int,
    share: Share = lambda envs: envs,
) -> Loop:
    """Builds the training loop of one agent in one environment; see `Loop`.

    Args:
      env: the environment.
      env_params: its parameters.
      agent: the agent.
      settings: sizes.
      num_iterations: steps of N environments in a segment.
      share: where the environments of the seed are stepped (`distributed.mesh`); by default where
        everything else is computed.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> sizes = settings.LoopSettings(num_envs=2)
      >>> loop = learning.make_loop(env, params, agents.dqn_prior(), sizes, num_iterations=8)
    """
    replay, explore = make_replay(agent, settings), agent.explore

    def init(key: jax.Array, table: PriorTable) -> LoopState:
        key, agent_key, envs_key = jax.random.split(key, 3)
        agent_state = agent.init(agent_key, tables.lookup(table, jnp.zeros((), jnp.int32)))
        ways = None
        if explore is not None:
            key, way_key = jax.random.split(key)
            ways = begin_ways(explore, agent_state, way_key, settings.num_envs)
        return LoopState(
            key=key,
            agent=agent_state,
            replay=replay.init(),
            envs=share(reset_envs(env, env_params, envs_key, settings.num_envs)),
            ways=ways,
        )

    def segment(
        state: LoopState, table: PriorTable, iteration: jax.Array
    ) -> tuple[LoopState, Metrics, Missing]:
        find = find_in(table)

        def one_step(carry: Any, iteration: jax.Array) -> tuple[Any, Metrics]:
            state, row, missing = carry
            key, act_key, learn_key = jax.random.split(state.key, 3)
            action = act_in_ways(
                agent,
                state.agent,
                state.ways,
                jax.random.split(act_key, settings.num_envs),
                lookup_rows(table, row),
            )
            choice = own_keys(state.envs, action)
            envs, next_row, step, missing = step_known(
                env, env_params, find, state.envs, row, choice, missing, share=share
            )
            replay_state = replay.add(
                state.replay,
                Record(
                    row=jnp.maximum(row, 0),
                    action=step.action,
                    reward=step.reward,
                    terminated=step.terminated,
                    next_row=jnp.maximum(step.reached_row, 0),
                    weight=step.taken.astype(jnp.float32),
                ),
            )
            agent_state, ways = state.agent, state.ways
            if explore is not None and ways is not None:
                key, way_key = jax.random.split(key)
                done = step.taken & step.done
                agent_state, ways = go_on(
                    explore, agent_state, way_key, ways, step.reward, step.taken, done
                )
            agent_state, metrics = replay.learn(
                agent_state, replay_state, learn_key, table, iteration
            )
            metrics = metrics | {"committed": jnp.sum(step.taken)}
            state = LoopState(key, agent_state, replay_state, envs, ways)
            return (state, next_row, missing), metrics

        row, missing = locate(find, state.envs, jnp.ones(settings.num_envs, bool))
        (state, _, missing), metrics = jax.lax.scan(
            one_step, (state, row, missing), iteration + jnp.arange(num_iterations)
        )
        committed = jnp.sum(metrics.pop("committed"))
        metrics = {name: jnp.nanmean(values) for name, values in metrics.items()}
        return state, metrics | {"committed": committed}, missing

    return Loop(init, segment)


class OnlineRun(Run):
    """A `Run` that learns from the environments it acts in: all seeds together.

    Args:
      make_loop: `num_iterations -> Loop`, which trains one seed so long in a segment.
      player: plays episodes with the agent.
      settings: seeds, steps, evaluations.
      learns: whether the agent learns at all.
      num_iterations: those of a segment; a last one may have fewer.
      num_envs: environments of each seed.
      over_seeds: maps functions of one seed over all.
    """

    def __init__(
        self,
        make_loop: Callable[[int], Loop],
        player: Player,
        settings: RunSettings,
        learns: bool,
        num_iterations: int,
        num_envs: int,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings, learns)
        self._num_iterations = num_iterations
        self._num_envs = num_envs

        # Each length is a program of its own, compiled when it is first needed.
        @functools.cache
        def segment(num_iterations: int) -> Callable[..., Any]:
            return over_seeds(make_loop(num_iterations).segment, (0, None, None))

        self._segment = segment
        init = over_seeds(make_loop(num_iterations).init, (0, None))
        self.state: LoopState = init(self.keys["train"], self.table)

    def train(self) -> dict[str, np.ndarray]:
        """Trains all seeds until each has taken the steps that lie between two evaluations.

        Returns:
          Their metrics [S], means over the jitted segments that it took.
        """
        due = self.due
        enough, iterations = self.steps + due, self._num_iterations
        if due < self._eval_every:
            iterations = min(iterations, -(-due // self._num_envs))
        collected: list[dict[str, np.ndarray]] = []
        while self.steps < enough:
            iteration = jnp.asarray(self.iteration, jnp.int32)
            segment = self._segment(iterations)
            self.state, metrics, missing = segment(self.state, self.table, iteration)
            metrics = fetch(metrics)
            self.count(metrics.pop("committed"))
            self.iteration += iterations
            self.scored.fill(missing)
            collected.append(metrics)
        self.segments += 1
        # Before an agent learns, its losses are NaN.
        return jax.tree.map(
            lambda *values: np.asarray(jnp.nanmean(jnp.stack(values), axis=0)), *collected
        )
