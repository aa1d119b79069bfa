"""One training loop for every environment and every agent, as pure jitted functions.

A whole segment of training (acting, stepping a batch of environments, replay, learning) is one
`lax.scan`; many seeds are one `vmap` over it. The language model stays outside: the prior of a
state is a row of the `PriorTable`. An environment that reaches a state without a row stalls for the
rest of the segment, before the step is committed and with its action and random key kept, so that
the very same step is taken once the host has scored the state, and new states are met as often as
known ones. (Meanwhile its entries in replay are empty, of weight 0.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.replay import Record, lookup_rows, make_replay
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable


class LoopConfig(NamedTuple):
    """Sizes of the loop.

    Examples:
      >>> training.LoopConfig(num_envs=4).batch_size
      32

    Attributes:
      num_envs: environments stepped side by side (N), per seed.
      replay_capacity: transitions kept, per seed.
      warmup_steps: iterations before the first update; each adds N transitions.
      batch_size: transitions per update (B).
      updates_per_step: updates after each step of the N environments.
    """

    num_envs: int = 8
    replay_capacity: int = 20_000
    warmup_steps: int = 16
    batch_size: int = 32
    updates_per_step: int = 1


class EnvsState(NamedTuple):
    """N environments.

    Attributes:
      state: their states.
      observation: [N, *O].
      key: [N], randomness of their next steps.
      action: i32[N], the next action of those that stalled before it was taken, and -1.
    """

    state: Any
    observation: jax.Array
    key: jax.Array
    action: jax.Array


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


class Missing(NamedTuple):
    """States without a row: `observation` [N, *O] counts where `is_missing` bool[N]."""

    observation: jax.Array
    is_missing: jax.Array


class Episodes(NamedTuple):
    """E evaluated episodes of at most T steps.

    Examples:
      >>> episodes = training.Episodes(jnp.array([True]), jnp.ones(1), jnp.array([6]))
      >>> float(episodes.success.mean())
      1.0

    Attributes:
      success: bool[E].
      returns: f32[E], undiscounted.
      length: i32[E].
      start: [E, *O], their first observations; None where that was not recorded.
      actions: i32[E, T], what was done, -1 after the end; None where that was not recorded.
    """

    success: jax.Array
    returns: jax.Array
    length: jax.Array
    start: jax.Array | None = None
    actions: jax.Array | None = None


class Loop(NamedTuple):
    """Training and evaluation of one seed, as pure functions.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> config = training.LoopConfig(num_envs=2)
      >>> loop = training.make_loop(env, params, agents.prior_alone(), config, 8, 4)
      >>> loop._fields
      ('init', 'segment', 'evaluate')

    Attributes:
      init: `(key, table) -> LoopState`.
      segment: `(state, table, iteration) -> (state, metrics, Missing)`, `num_iterations` steps of N
        environments, each followed by updates; `iteration` i32[] counts steps since the start.
        Metrics are means over the segment, with `committed`, the number of environment steps taken.
      evaluate: `(agent_state, key, table) -> (Episodes, Missing)`; the episodes count only when
        nothing is missing.
    """

    init: Callable[[jax.Array, PriorTable], LoopState]
    segment: Callable[[LoopState, PriorTable, jax.Array], tuple[LoopState, Metrics, Missing]]
    evaluate: Callable[[AgentState, jax.Array, PriorTable], tuple[Episodes, Missing]]


def make_loop(
    env: TextEnvironment,
    env_params: Any,
    agent: Agent,
    config: LoopConfig,
    num_iterations: int,
    num_eval_episodes: int,
    share: Callable[[Any], Any] = lambda envs: envs,
) -> Loop:
    """Builds the loop of one agent in one environment; see `Loop`.

    Args:
      env: the environment.
      env_params: its parameters.
      agent: the agent.
      config: sizes.
      num_iterations: steps of N environments in a segment.
      num_eval_episodes: E.
      share: where the environments of the seed are stepped (`mesh.share_environments`); by default
        where everything else is computed.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> config = training.LoopConfig(num_envs=2)
      >>> loop = training.make_loop(
      ...     env, params, agents.dqn_prior(), config, num_iterations=8, num_eval_episodes=4
      ... )
    """
    replay = make_replay(agent, config.replay_capacity, config.batch_size, config.updates_per_step)

    def init(key: jax.Array, table: PriorTable) -> LoopState:
        key, agent_key, envs_key = jax.random.split(key, 3)
        return LoopState(
            key=key,
            agent=agent.init(agent_key, tables.lookup(table, jnp.zeros((), jnp.int32))),
            replay=replay.init(),
            envs=share(reset_envs(env, env_params, envs_key, config.num_envs)),
        )

    def segment(
        state: LoopState, table: PriorTable, iteration: jax.Array
    ) -> tuple[LoopState, Metrics, Missing]:
        find = jax.vmap(tables.find, in_axes=(None, 0))

        def one_step(carry: Any, iteration: jax.Array) -> tuple[Any, Metrics]:
            state, row, missing = carry
            key, act_key, learn_key = jax.random.split(state.key, 3)
            ready = row >= 0
            drawn = jax.vmap(agent.act, in_axes=(None, 0, 0))(
                state.agent, jax.random.split(act_key, config.num_envs), lookup_rows(table, row)
            )
            actions = jnp.where(state.envs.action >= 0, state.envs.action, drawn)
            next_envs, step = step_envs(env, env_params, share(state.envs), actions)
            next_row, reset_row = find(table, step.reached), find(table, next_envs.observation)
            commit = ready & (next_row >= 0) & (reset_row >= 0)
            unknown = select(next_row < 0, step.reached, next_envs.observation)
            missing = Missing(
                select(ready & ~commit, unknown, missing.observation),
                missing.is_missing | (ready & ~commit),
            )
            replay_state = replay.add(
                state.replay,
                Record(
                    row=jnp.maximum(row, 0),
                    action=actions,
                    reward=step.reward,
                    terminated=step.terminated,
                    next_row=jnp.maximum(next_row, 0),
                    weight=commit.astype(jnp.float32),
                ),
            )
            agent_state, metrics = jax.lax.cond(
                iteration >= config.warmup_steps,
                lambda: replay.learn(state.agent, replay_state, learn_key, table),
                lambda: (state.agent, no_metrics),
            )
            stalled = state.envs._replace(action=jnp.where(ready, actions, state.envs.action))
            envs = jax.tree.map(lambda new, old: select(commit, new, old), next_envs, stalled)
            # A stalled environment has no row until the next segment begins.
            row = jnp.where(commit, reset_row, -1)
            metrics = metrics | {"committed": jnp.sum(commit)}
            return (LoopState(key, agent_state, replay_state, envs), row, missing), metrics

        no_metrics = jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype),
            jax.eval_shape(replay.learn, state.agent, state.replay, state.key, table)[1],
        )
        row = find(table, state.envs.observation)
        missing = Missing(state.envs.observation, row < 0)
        (state, _, missing), metrics = jax.lax.scan(
            one_step, (state, row, missing), iteration + jnp.arange(num_iterations)
        )
        committed = jnp.sum(metrics.pop("committed"))
        metrics = {name: jnp.nanmean(values) for name, values in metrics.items()}
        return state, metrics | {"committed": committed}, missing

    def evaluate(agent_state: AgentState, key: jax.Array, table: PriorTable):
        envs_key, act_key = jax.random.split(key)
        envs = share(reset_envs(env, env_params, envs_key, num_eval_episodes))
        zeros = jnp.zeros(num_eval_episodes)
        find = jax.vmap(tables.find, in_axes=(None, 0))

        def one_step(carry: Any) -> Any:
            envs, key, running, episodes, missing = carry
            key, act_key = jax.random.split(key)
            row = find(table, envs.observation)
            missing = Missing(
                select(running & (row < 0), envs.observation, missing.observation),
                missing.is_missing | (running & (row < 0)),
            )
            actions = jax.vmap(agent.act, in_axes=(None, 0, 0))(
                agent_state, jax.random.split(act_key, num_eval_episodes), lookup_rows(table, row)
            )
            envs, step = step_envs(env, env_params, share(envs), actions)
            episodes = Episodes(
                success=episodes.success | (running & step.success),
                returns=episodes.returns + running * step.reward,
                length=episodes.length + running,
                start=episodes.start,
                actions=episodes.actions.at[jnp.arange(num_eval_episodes), episodes.length].set(
                    jnp.where(running, actions, -1), mode="drop"
                ),
            )
            running = running & ~step.done & ~missing.is_missing
            return envs, key, running, episodes, missing

        episodes = Episodes(
            success=zeros.astype(bool),
            returns=zeros,
            length=zeros.astype(jnp.int32),
            start=envs.observation,
            actions=jnp.full((num_eval_episodes, env_params.max_steps_in_episode), -1, jnp.int32),
        )
        missing = Missing(envs.observation, zeros.astype(bool))
        carry = (envs, act_key, jnp.ones(num_eval_episodes, bool), episodes, missing)
        _, _, _, episodes, missing = jax.lax.while_loop(
            lambda carry: jnp.any(carry[2]), one_step, carry
        )
        return episodes, missing

    return Loop(init, segment, evaluate)


class Step(NamedTuple):
    """What one step of N environments gave; `reached` is the state before any reset."""

    reached: jax.Array
    reward: jax.Array
    terminated: jax.Array
    done: jax.Array
    success: jax.Array


def reset_envs(env: TextEnvironment, env_params: Any, key: jax.Array, num_envs: int) -> EnvsState:
    """Environments at the beginning of an episode."""
    reset_key, step_key = jax.random.split(key)
    observation, state = jax.vmap(env.reset, in_axes=(0, None))(
        jax.random.split(reset_key, num_envs), env_params
    )
    keys = jax.random.split(step_key, num_envs)
    return EnvsState(state, observation, keys, jnp.full(num_envs, -1, jnp.int32))


def step_envs(
    env: TextEnvironment, env_params: Any, envs: EnvsState, actions: jax.Array
) -> tuple[EnvsState, Step]:
    """A step of each environment, i32[E] actions, and what it led to."""
    keys = jax.vmap(jax.random.split)(envs.key)
    observation, state, reward, terminated, truncated, info = jax.vmap(
        env.step, in_axes=(0, 0, 0, None)
    )(keys[:, 0], envs.state, actions, env_params)
    step = Step(
        reached=info["final_observation"],
        reward=reward.astype(jnp.float32),
        terminated=terminated,
        done=terminated | truncated,
        success=info["success"],
    )
    return EnvsState(state, observation, keys[:, 1], jnp.full_like(actions, -1)), step


def select(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`where` over a leading axis, for leaves of any rank and for typed keys."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - 1)), new, old)
