"""Replay of transitions whose states are rows of the table of priors, and learning from it.

An entry is a few numbers, whatever the size of a state: what an agent sees of it, its prior and its
features, lies in the table. The buffer is flashbax's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flashbax
import jax
import jax.numpy as jnp

from llmprior_jax.agents import Agent, AgentState, Transitions
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior


class Record(NamedTuple):
    """A replay entry, or a batch of them; `weight` 0 marks those that hold no transition."""

    row: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_row: jax.Array
    weight: jax.Array


class Replay(NamedTuple):
    """The replay of one agent, as pure functions of one seed.

    Attributes:
      init: `() -> replay_state`.
      add: `(replay_state, record [N]) -> replay_state`.
      learn: `(agent_state, replay_state, key, table) -> (agent_state, metrics)`, some updates, each
        from a batch of its own; metrics are means over them.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Record], Any]
    learn: Callable[[AgentState, Any, jax.Array, PriorTable], tuple[AgentState, Metrics]]


def make_replay(agent: Agent, capacity: int, batch_size: int, num_updates: int) -> Replay:
    """Builds the replay of one agent.

    Args:
      agent: the agent that learns from it; one that does not learn stays as it is.
      capacity: transitions kept.
      batch_size: transitions per update (B).
      num_updates: updates per call of `learn`.
    """
    update = agent.update or _learn_nothing
    buffer = flashbax.make_item_buffer(
        max_length=capacity, min_length=1, sample_batch_size=batch_size, add_batches=True
    )

    def init() -> Any:
        return buffer.init(
            Record(
                row=jnp.zeros((), jnp.int32),
                action=jnp.zeros((), jnp.int32),
                reward=jnp.zeros((), jnp.float32),
                terminated=jnp.zeros((), bool),
                next_row=jnp.zeros((), jnp.int32),
                weight=jnp.zeros((), jnp.float32),
            )
        )

    def learn(
        agent_state: AgentState, replay_state: Any, key: jax.Array, table: PriorTable
    ) -> tuple[AgentState, Metrics]:
        def update_once(agent_state: AgentState, key: jax.Array) -> tuple[AgentState, Metrics]:
            sample_key, update_key = jax.random.split(key)
            record = buffer.sample(replay_state, sample_key).experience
            transitions = Transitions(
                prior=lookup_rows(table, record.row),
                action=record.action,
                reward=record.reward,
                terminated=record.terminated,
                next_prior=lookup_rows(table, record.next_row),
                weight=record.weight,
            )
            return update(agent_state, update_key, transitions)

        agent_state, metrics = jax.lax.scan(
            update_once, agent_state, jax.random.split(key, num_updates)
        )
        return agent_state, jax.tree.map(jnp.mean, metrics)

    return Replay(init, buffer.add, learn)


def lookup_rows(table: PriorTable, row: jax.Array) -> ActionPrior:
    """Priors of rows i32[B]; rows of -1 read row 0, whose use the caller must mask."""
    return jax.vmap(tables.lookup, in_axes=(None, 0))(table, jnp.maximum(row, 0))


def _learn_nothing(
    state: AgentState, key: jax.Array, transitions: Transitions
) -> tuple[AgentState, Metrics]:
    """The update of agents that do not learn."""
    del key, transitions
    return state, {}
