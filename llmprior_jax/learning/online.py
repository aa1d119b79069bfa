"""Learning online: agents that act in a batch of environments in JAX while they learn.

A whole segment of training (acting, stepping a batch of environments, replay, learning) is one
loop within jit; many seeds are one `vmap` over it. A seed that would reach a state that has not
been scored yet stops before that step, and goes on with the very same step once the host has scored
the state. So what a seed does and learns never depends on when its states became known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.replay import Record, ReplayState, look_up, make_replay
from llmprior_jax.learning.run import Run
from llmprior_jax.learning.ways import Ways, act_in_ways, begin_ways, go_on
from llmprior_jax.play.players import OverSeeds, Player
from llmprior_jax.play.search import act_by_search
from llmprior_jax.play.stepping import (
    EnvsState,
    Missing,
    Place,
    Share,
    find_in,
    lookup_rows,
    own_keys,
    reset_envs,
    select,
    step_together,
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

    Attributes:
      key: randomness of what follows.
      agent: the agent's state.
      replay: the transitions that it learns from.
      envs: the environments.
      iteration: i32[], iterations so far: steps of each environment.
      ways: how the environments' episodes are played, for agents that explore by episode.
      candidates: i32[N, K], those of the states that environments are in, for agents that keep any.
    """

    key: jax.Array
    agent: AgentState
    replay: ReplayState
    envs: EnvsState
    iteration: jax.Array
    ways: Ways | None = None
    candidates: jax.Array | None = None


class Loop(NamedTuple):
    """Training of one seed, as pure functions.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> loop = learning.make_loop(env, params, agents.prior_alone(), settings.LoopSettings())
      >>> loop._fields
      ('init', 'segment')

    Attributes:
      init: `(key, table) -> LoopState`.
      segment: `(state, table, until) -> (state, metrics, Missing)`, iterates until `until` i32[]
        iterations were done, or up to a step that meets states without a row, which are then
        missing. An iteration is a step of N environments, followed by updates. Metrics are means
        over the iterations in which something was learned, whose number is `learned`.
    """

    init: Callable[[jax.Array, PriorTable], LoopState]
    segment: Callable[[LoopState, PriorTable, jax.Array], tuple[LoopState, Metrics, Missing]]


def make_loop(
    env: TextEnvironment,
    env_params: Any,
    agent: Agent,
    settings: LoopSettings,
    share: Share = lambda envs: envs,
    axis_name: str | None = None,
) -> Loop:
    """Builds the training loop of one agent in one environment; see `Loop`.

    Args:
      env: the environment.
      env_params: its parameters.
      agent: the agent.
      settings: sizes.
      share: where the environments of the seed are stepped (`distributed.mesh`); by default where
        everything else is computed.
      axis_name: of the `vmap` over seeds, if there is one (`distributed.seeds.SEEDS` within
        `over_seeds`, where seeds are not taken one by one). All then go through the same loop,
        until none can go on, which is faster: nothing that a seed keeps is copied to hold it back.
        A loop with a name works within such a `vmap` alone.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> sizes = settings.LoopSettings(num_envs=2)
      >>> loop = learning.make_loop(env, params, agents.dqn_prior(), sizes)
    """
    replay = make_replay(agent, settings, axis_name)
    explore, num_envs = agent.explore, settings.num_envs

    def init(key: jax.Array, table: PriorTable) -> LoopState:
        key, agent_key, envs_key, way_key = jax.random.split(key, 4)
        agent_state = agent.init(agent_key, tables.lookup(table, jnp.zeros((), jnp.int32)))
        kept = agent.candidates
        return LoopState(
            key=key,
            agent=agent_state,
            replay=replay.init(),
            envs=share(reset_envs(env, env_params, envs_key, num_envs)),
            iteration=jnp.int32(0),
            ways=explore and begin_ways(explore, agent_state, way_key, num_envs),
            # The first ones are drawn before the first step, when the states are known.
            candidates=kept and jnp.zeros((num_envs, kept.number), jnp.int32),
        )

    def visit(
        agent_state: AgentState, key: jax.Array, table: PriorTable, row: jax.Array
    ) -> jax.Array | None:
        """The candidates i32[N, K] of a visit to the states of some rows."""
        if agent.candidates is None:
            return None
        keys, prior = jax.random.split(key, num_envs), lookup_rows(table, row)
        return jax.vmap(agent.candidates.draw, in_axes=(None, 0, 0))(agent_state, keys, prior)

    @jax.jit  # Traced once, for its shapes and for the loop.
    def iterate(
        state: LoopState, table: PriorTable, row: jax.Array, acting: jax.Array
    ) -> tuple[LoopState, jax.Array, Missing, Metrics]:
        """One iteration; where nobody acts, or it meets a state without a row, nothing happens."""
        key, act_key, way_key, learn_key, reached_key, begun_key = jax.random.split(state.key, 6)
        candidates = state.candidates
        act_keys = jax.random.split(act_key, num_envs)
        if agent.search is None:
            prior = look_up(table, row, candidates)
            action = act_in_ways(agent, state.agent, state.ways, act_keys, prior)
        else:
            places = Place(state.envs.state, state.envs.observation)
            action = act_by_search(env, env_params, agent, state.agent, table, places, act_keys)
        envs, next_row, step, missing = step_together(
            env,
            env_params,
            find_in(table),
            state.envs,
            row,
            own_keys(state.envs, action),
            acting=acting,
            share=share,
        )
        next_candidates = visit(state.agent, reached_key, table, step.reached_row)
        begun = visit(state.agent, begun_key, table, next_row)
        transition = Record(
            row=row,
            action=step.action,
            reward=step.reward,
            terminated=step.terminated,
            next_row=step.reached_row,
            candidates=candidates,
            next_candidates=next_candidates,
        )
        replay_state = replay.add(state.replay, transition, step.taken)
        agent_state, ways = state.agent, state.ways
        if explore is not None and ways is not None:
            agent_state, ways = go_on(
                explore, agent_state, way_key, ways, step.reward, step.taken, step.done
            )
        agent_state, metrics = replay.learn(agent_state, replay_state, learn_key, table)
        after = LoopState(
            key,
            agent_state,
            replay_state,
            envs,
            state.iteration + 1,
            ways,
            _where(step.done, begun, next_candidates),
        )
        # The replay has written nothing where nothing was taken, and is not gone through again.
        taken = step.taken[0]
        whole = after._replace(
            **{
                name: jax.tree.map(lambda new, old: jnp.where(taken, new, old), new, old)
                for name, new, old in zip(LoopState._fields, after, state, strict=True)
                if name != "replay"
            }
        )
        return whole, next_row, missing, metrics

    def segment(
        state: LoopState, table: PriorTable, until: jax.Array
    ) -> tuple[LoopState, Metrics, Missing]:
        def goes_on(carry: _Carry) -> jax.Array:
            state, _, missing, *_ = carry
            going = (state.iteration < until) & ~jnp.any(missing.is_missing)
            return going if axis_name is None else jax.lax.psum(going, axis_name) > 0

        def go_on(carry: _Carry) -> _Carry:
            state, row, _, sums, learned = carry
            acting = state.iteration < until
            after, row, missing, metrics = iterate(state, table, row, acting)
            counts = (after.iteration > state.iteration) & after.replay.due
            sums = {
                name: total + jnp.where(counts, metrics[name], 0.0) for name, total in sums.items()
            }
            return after, row, missing, sums, learned + counts

        row = find_in(table)(state.envs.observation)
        first = visit(state.agent, jax.random.fold_in(state.key, 0), table, row)
        state = state._replace(candidates=_where(state.iteration == 0, first, state.candidates))
        _, _, nothing, metrics = jax.eval_shape(iterate, state, table, row, jnp.zeros((), bool))
        carry = (
            state,
            row,
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing),
            {name: jnp.zeros((), jnp.float32) for name in metrics},
            jnp.int32(0),
        )
        state, _, missing, sums, learned = jax.lax.while_loop(goes_on, go_on, carry)
        means = {name: total / learned for name, total in sums.items()}
        return state, means | {"learned": learned}, missing

    return Loop(init, segment)


_Carry = tuple[LoopState, jax.Array, Missing, Metrics, jax.Array]


def _where(condition: jax.Array, new: jax.Array | None, old: jax.Array | None) -> jax.Array | None:
    """`select`, of candidates, where there are any."""
    if new is None or old is None:
        return None
    return select(jnp.broadcast_to(condition, new.shape[:1]), new, old)


class OnlineRun(Run):
    """A `Run` that learns from the environments it acts in: all seeds together.

    Args:
      loop: trains one seed.
      player: plays episodes with the agent.
      settings: seeds, steps, evaluations.
      learns: whether the agent learns at all.
      num_envs: environments of each seed.
      over_seeds: maps functions of one seed over all.
    """

    def __init__(
        self,
        loop: Loop,
        player: Player,
        settings: RunSettings,
        learns: bool,
        num_envs: int,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings, learns)
        self._num_envs = num_envs
        self._segment = over_seeds(loop.segment, (0, None, None))
        self.state: LoopState = over_seeds(loop.init, (0, None))(self.keys["train"], self.table)

    def train(self) -> dict[str, np.ndarray]:
        """Trains all seeds until each has taken the steps that lie between two evaluations.

        Returns:
          Their metrics [S], means over the iterations in which something was learned.
        """
        until = self.iteration + self.due // self._num_envs
        sums: dict[str, np.ndarray] = {}
        learned = np.zeros(len(self._taken), int)
        is_stalled = True
        while is_stalled:
            self.state, metrics, missing = self._segment(
                self.state, self.table, jnp.asarray(until, jnp.int32)
            )
            metrics = fetch(metrics)
            count = metrics.pop("learned")
            for name, means in metrics.items():
                sums[name] = sums.get(name, 0.0) + np.where(count > 0, means * count, 0.0)
            learned += count
            is_stalled = self.scored.fill(missing)
        self.count((until - self.iteration) * self._num_envs)
        self.iteration = until
        self.segments += 1
        # Before an agent learns, its losses are NaN.
        with np.errstate(invalid="ignore"):
            return {name: total / learned for name, total in sums.items()}
