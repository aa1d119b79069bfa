"""Episodes that are each played in one way, by agents that explore so (`agents.Exploration`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.agents import Agent, AgentState, Exploration
from llmprior_jax.play.stepping import select
from llmprior_jax.types import ActionPrior


class Ways(NamedTuple):
    """How N environments are played.

    Attributes:
      way: i32[N].
      value: f32[N], the discounted return of the episode so far.
      discount: f32[N], of the next reward.
    """

    way: jax.Array
    value: jax.Array
    discount: jax.Array


def begin_ways(
    explore: Exploration, agent_state: AgentState, key: jax.Array, num_envs: int
) -> Ways:
    """Ways to play N episodes that begin now."""
    keys = jax.random.split(key, num_envs)
    way = jax.vmap(explore.begin, in_axes=(None, 0))(agent_state, keys)
    return Ways(way, jnp.zeros(num_envs), jnp.ones(num_envs))


def act_in_ways(
    agent: Agent,
    agent_state: AgentState,
    ways: Ways | None,
    keys: jax.Array,
    prior: ActionPrior,
) -> jax.Array:
    """What an agent does i32[N] in N environments while it learns.

    Args:
      agent: the agent.
      agent_state: its state.
      ways: how the environments are played; None for an agent that does not explore so.
      keys: key[N].
      prior: of the states that they are in.
    """
    if agent.explore is None or ways is None:
        return jax.vmap(agent.act, in_axes=(None, 0, 0))(agent_state, keys, prior)
    act = jax.vmap(agent.explore.act, in_axes=(None, 0, 0, 0))
    return act(agent_state, keys, prior, ways.way)


def go_on(
    explore: Exploration,
    agent_state: AgentState,
    key: jax.Array,
    ways: Ways,
    reward: jax.Array,
    taken: jax.Array,
    done: jax.Array,
) -> tuple[AgentState, Ways]:
    """Tells an agent of the episodes that have ended, and begins others in their place.

    Args:
      explore: how the agent explores.
      agent_state: the agent's state.
      key: PRNG key.
      ways: how the environments were played.
      reward: f32[N], of a step.
      taken: bool[N], whether there was a step; an episode that ends without one is not told of.
      done: bool[N], whether the episode is over.
    """
    value = ways.value + jnp.where(taken, ways.discount * reward, 0.0)
    discount = jnp.where(taken, ways.discount * explore.discount, ways.discount)
    agent_state = explore.end(agent_state, value, ways.way, taken & done)
    begun = begin_ways(explore, agent_state, key, done.shape[0])
    going_on = Ways(ways.way, value, discount)
    return agent_state, jax.tree.map(lambda new, old: select(done, new, old), begun, going_on)
