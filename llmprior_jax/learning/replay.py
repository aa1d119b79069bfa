"""Replay of transitions whose states are rows of the table of priors, and learning from it.

An entry is a few numbers, whatever the size of a state: what an agent sees of it, its prior and its
features, lies in the table. Only steps that were taken become entries, and how often an agent
learns follows from their number alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.agents import Agent, AgentState, Transitions
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.play.stepping import lookup_rows
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import LoopSettings
from llmprior_jax.types import ActionPrior


class Record(NamedTuple):
    """A transition, or a batch of them.

    Attributes:
      row: i32[], the state acted in.
      action: i32[].
      reward: f32[].
      terminated: bool[].
      next_row: i32[], the state reached.
      candidates: i32[K], those drawn when the state was visited; None for an agent that keeps none.
      next_candidates: i32[K], those drawn when the next state was reached, likewise.
    """

    row: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_row: jax.Array
    candidates: jax.Array | None = None
    next_candidates: jax.Array | None = None


class ReplayState(NamedTuple):
    """The last C transitions.

    Attributes:
      entries: [C, ...]; the next one goes to `added % C`.
      added: i32[], transitions added so far.
      due: bool[], whether the last ones added make it time to learn.
    """

    entries: Record
    added: jax.Array
    due: jax.Array


class Replay(NamedTuple):
    """The replay of one agent, as pure functions of one seed.

    Attributes:
      init: `() -> replay_state`.
      add: `(replay_state, record [N], taken bool[N]) -> replay_state`, adds those that were taken.
      learn: `(agent_state, replay_state, key, table) -> (agent_state, metrics)`, some updates, each
        from a batch of its own, whenever another N transitions were added; metrics are means over
        them. In the first iterations nothing is learned, and metrics are NaN.
    """

    init: Callable[[], ReplayState]
    add: Callable[[ReplayState, Record, jax.Array], ReplayState]
    learn: Callable[[AgentState, ReplayState, jax.Array, PriorTable], tuple[AgentState, Metrics]]


def make_replay(agent: Agent, settings: LoopSettings, axis_name: str | None = None) -> Replay:
    """Builds the replay of one agent.

    Args:
      agent: the agent that learns from it; one that does not learn stays as it is.
      settings: sizes.
      axis_name: of the `vmap` over seeds, if there is one. Then no update is computed where no seed
        has anything to learn from; without the name, it would be, and dropped.

    Raises:
      ValueError: the replay has no room for the transitions of one step.
    """
    update = agent.update or _learn_nothing
    capacity, num_envs = settings.replay_capacity, settings.num_envs
    if capacity < num_envs:
        raise ValueError(
            f"replay_capacity is {capacity}, and {num_envs} environments (num_envs) add as many "
            "transitions at once; make room for these"
        )

    def init() -> ReplayState:
        whole, real = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, jnp.float32)
        of_agent = agent.candidates
        candidates = None
        if of_agent is not None:
            candidates = jnp.zeros((capacity, of_agent.number), jnp.int32)
        entries = Record(whole, whole, real, whole.astype(bool), whole, candidates, candidates)
        return ReplayState(entries, jnp.int32(0), jnp.zeros((), bool))

    def add(state: ReplayState, record: Record, taken: jax.Array) -> ReplayState:
        place = (state.added + jnp.cumsum(taken) - 1) % capacity
        # What was not taken is written nowhere.
        place = jnp.where(taken, place, capacity)
        added = state.added + jnp.sum(taken)
        return ReplayState(
            entries=jax.tree.map(
                lambda leaf, new: leaf.at[place].set(new, mode="drop"), state.entries, record
            ),
            added=added,
            due=added // num_envs > jnp.maximum(state.added // num_envs, settings.warmup_steps),
        )

    def sample(state: ReplayState, key: jax.Array, table: PriorTable) -> Transitions:
        size = jnp.minimum(state.added, capacity)
        drawn = jax.random.randint(key, (settings.batch_size,), 0, size)
        record = jax.tree.map(lambda leaf: leaf[drawn], state.entries)
        return Transitions(
            prior=look_up(table, record.row, record.candidates),
            action=record.action,
            reward=record.reward,
            terminated=record.terminated,
            next_prior=look_up(table, record.next_row, record.next_candidates),
            weight=jnp.ones(settings.batch_size),
        )

    @jax.jit  # Traced once, for its shapes and for either branch.
    def update_some(
        agent_state: AgentState, state: ReplayState, key: jax.Array, table: PriorTable
    ) -> tuple[AgentState, Metrics]:
        def update_once(agent_state: AgentState, key: jax.Array) -> tuple[AgentState, Metrics]:
            sample_key, update_key = jax.random.split(key)
            return update(agent_state, update_key, sample(state, sample_key, table))

        agent_state, metrics = jax.lax.scan(
            update_once, agent_state, jax.random.split(key, settings.updates_per_step)
        )
        return agent_state, jax.tree.map(jnp.mean, metrics)

    def learn(
        agent_state: AgentState, state: ReplayState, key: jax.Array, table: PriorTable
    ) -> tuple[AgentState, Metrics]:
        shapes = jax.eval_shape(update_some, agent_state, state, key, table)[1]
        no_metrics = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)

        def learn_nothing() -> tuple[AgentState, Metrics]:
            return agent_state, no_metrics

        def learn_if_due() -> tuple[AgentState, Metrics]:
            return jax.lax.cond(
                state.due, lambda: update_some(agent_state, state, key, table), learn_nothing
            )

        if axis_name is None:
            return learn_if_due()
        # Within a `vmap` a condition of one seed is computed both ways, one of all seeds is not.
        return jax.lax.cond(jax.lax.psum(state.due, axis_name) > 0, learn_if_due, learn_nothing)

    return Replay(init, add, learn)


def look_up(table: PriorTable, row: jax.Array, candidates: jax.Array | None) -> ActionPrior:
    """The priors [B] of rows i32[B], with the candidates i32[B, K] that were drawn from them."""
    return lookup_rows(table, row)._replace(candidates=candidates)


def _learn_nothing(
    state: AgentState, key: jax.Array, transitions: Transitions
) -> tuple[AgentState, Metrics]:
    """The update of agents that do not learn."""
    del key, transitions
    return state, {}
