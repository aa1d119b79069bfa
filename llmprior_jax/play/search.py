"""Acting by search: the environment itself is the model, and the table of priors guides it.

The tree grows from the true state of an environment (`agents.with_search`). Where the table has a
state of the tree, the agent sees its prior and its features. Where it has not, the language model
is not asked: the prior is uniform over the admissible actions there, and never that of another
state. So where states cannot be listed, what is found depends on which are known by then.

The steps of a tree have random keys of their own, and not those of the environment: the agent does
not foresee its luck.
"""

from typing import Any

import jax
import jax.numpy as jnp

from llmprior_jax.agents import Agent, AgentState, Policy
from llmprior_jax.agents.agent import uniform_log_probs
from llmprior_jax.agents.search_prior import Sight, World, search
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.actors import ValueActor
from llmprior_jax.play.rollouts import Standing
from llmprior_jax.play.stepping import Place
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable


def make_world(
    env: TextEnvironment, env_params: Any, agent: Agent, agent_state: AgentState, table: PriorTable
) -> World:
    """The environment as an agent that searches sees it; its states are `Place`s."""
    assert agent.search is not None

    def step(key: jax.Array, place: Place, action: jax.Array) -> tuple[Place, jax.Array, jax.Array]:
        # `env.step` would begin another episode where this one ends.
        observation, state, reward, terminated, _ = env.step_env(
            key, place.state, action, env_params
        )
        return Place(state, observation), jnp.float32(reward), jnp.asarray(terminated, bool)

    def see(place: Place) -> Sight:
        row = tables.find(table, place.observation)
        is_known = row >= 0
        prior = tables.lookup(table, jnp.maximum(row, 0))
        policy = agent.policy(agent_state, prior)
        if agent.alpha is None:
            known = policy.log_probs
        else:
            known = prior.log_probs if policy.prior is None else policy.prior
        mask = env.action_mask(place.state, env_params)
        unknown = uniform_log_probs(jnp.where(mask, 0.0, -jnp.inf))
        return Sight(jnp.where(is_known, known, unknown), policy.q_values, is_known)

    has_values = agent.alpha is not None
    alpha = jnp.float32(agent.search.alpha) if agent.alpha is None else agent.alpha(agent_state)
    return World(step, see, alpha, has_values)


def act_by_search(
    env: TextEnvironment,
    env_params: Any,
    agent: Agent,
    agent_state: AgentState,
    table: PriorTable,
    places: Place,
    keys: jax.Array,
) -> jax.Array:
    """What an agent that searches does i32[N] in N places, with a key[N] for each."""
    how = agent.search
    assert how is not None
    world = make_world(env, env_params, agent, agent_state, table)
    return jax.vmap(lambda key, place: search(key, how, world, place).action)(keys, places)


class SearchActor(ValueActor):
    """Acts by searching from the state that an environment is in.

    Args:
      agent: the agent, which says how (`Agent.search`).
      env: the environment.
      env_params: its parameters.
    """

    def __init__(self, agent: Agent, env: TextEnvironment, env_params: Any):
        super().__init__(agent)
        self._env, self._env_params = env, env_params

    def decide(
        self, state: AgentState, shared: Any, table: PriorTable, place: Place, key: jax.Array
    ) -> tuple[Policy, jax.Array]:
        """See `AgentActor`; the policy and the values are the searched ones."""
        policy = self.policy(state, shared, table, tables.find(table, place.observation))
        how = self._agent.search
        assert how is not None
        world = make_world(self._env, self._env_params, self._agent, state, table)
        found = search(key, how, world, place)
        return policy._replace(log_probs=found.log_probs, q_values=found.q_values), found.action

    def by_prior(self, state: AgentState) -> Any:
        """See `AgentActor`.

        Raises:
          ValueError: always.
        """
        raise ValueError(
            "an agent that searches needs the state of the environment; here one is needed that "
            "acts by a prior, such as dqn_prior, or one without search"
        )

    def _acted(
        self, state: AgentState, keys: jax.Array, standing: Standing, table: Any
    ) -> jax.Array:
        places = Place(standing.envs.state, standing.envs.observation)
        return act_by_search(self._env, self._env_params, self._agent, state, table, places, keys)
