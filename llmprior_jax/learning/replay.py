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
from llmprior_jax.play.stepping import lookup_rows
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import LoopSettings


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
      learn: `(agent_state, replay_state, key, table, iteration) -> (agent_state, metrics)`, some
        updates, each from a batch of its own; metrics are means over them. In the first iterations
        nothing is learned, and metrics are NaN.
    """

    init: Callable[[], Any]
    add: Callable[[Any, Record], Any]
    learn: Callable[[AgentState, Any, jax.Array, PriorTable, jax.Array], tuple[AgentState, Metrics]]


def make_replay(agent: Agent, settings: LoopSettings) -> Replay:
    """Builds the replay of one agent.

    Args:
      agent: the agent that learns from it; one that does not learn stays as it is.
      settings: sizes.
    """
    update = agent.update or _learn_nothing
    buffer = flashbax.make_item_buffer(
        max_length=settings.replay_capacity,
        min_length=1,
        sample_batch_size=settings.batch_size,
        add_batches=True,
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

    def update_some(
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
            update_once, agent_state, jax.random.split(key, settings.updates_per_step)
        )
        return agent_state, jax.tree.map(jnp.mean, metrics)

    def learn(
        agent_state: AgentState,
        replay_state: Any,
        key: jax.Array,
        table: PriorTable,
        iteration: jax.Array,
    ) -> tuple[AgentState, Metrics]:
        shapes = jax.eval_shape(update_some, agent_state, replay_state, key, table)[1]
        no_metrics = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)
        return jax.lax.cond(
            iteration >= settings.warmup_steps,
            lambda: update_some(agent_state, replay_state, key, table),
            lambda: (agent_state, no_metrics),
        )

    return Replay(init, buffer.add, learn)


def _learn_nothing(
    state: AgentState, key: jax.Array, transitions: Transitions
) -> tuple[AgentState, Metrics]:
    """The update of agents that do not learn."""
    del key, transitions
    return state, {}
