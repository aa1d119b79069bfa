"""One step of a batch of environments whose states may not have been scored yet.

The language model stays outside of jit: the prior of a state is a row of the `PriorTable`. Where a
step would lead to a state without a row, the environment stalls, and takes the very same step once
the host has scored the state. So what it does never depends on when its states became known.

In episodes that are only played, each environment stalls by itself: it stays where it was, with
its action and its random key kept (`step_known`). Where an agent learns from the steps, all
environments of a seed wait for each other (`step_together`): what it learns would else depend on
who waited.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior

Share = Callable[[Any], Any]
"""Says within jit where the environments of a seed are stepped (`mesh.share_environments`)."""

Find = Callable[[jax.Array], jax.Array]
"""`observations [N, *O] -> rows i32[N]`, -1 where a state is not known."""


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


class Place(NamedTuple):
    """Where one environment is: its state, and what is observed in it."""

    state: Any
    observation: jax.Array


class Choice(NamedTuple):
    """What N environments are to do.

    Attributes:
      action: i32[N].
      step_key: key[N], randomness of the step.
      next_key: key[N], randomness of the steps after it.
    """

    action: jax.Array
    step_key: jax.Array
    next_key: jax.Array


class Step(NamedTuple):
    """One step of N environments. Where it was not taken, the other fields are of no account.

    Attributes:
      taken: bool[N].
      observation: [N, *O], of the states acted in.
      row: i32[N], their rows.
      action: i32[N].
      reward: f32[N].
      terminated: bool[N], the episode ended for good.
      truncated: bool[N], a time limit cut it off, and nothing else ended it.
      success: bool[N], the step solved the task.
      reached: [N, *O], the states reached, before any reset.
      reached_row: i32[N], their rows.
    """

    taken: jax.Array
    observation: jax.Array
    row: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    success: jax.Array
    reached: jax.Array
    reached_row: jax.Array

    @property
    def done(self) -> jax.Array:
        """bool[N], the episode ended, one way or the other."""
        return self.terminated | self.truncated


class Missing(NamedTuple):
    """States without a row: `observation` [N, *O] counts where `is_missing` bool[N]."""

    observation: jax.Array
    is_missing: jax.Array


def reset_envs(env: TextEnvironment, env_params: Any, key: jax.Array, num_envs: int) -> EnvsState:
    """Environments at the beginning of an episode."""
    reset_key, step_key = jax.random.split(key)
    observation, state = jax.vmap(env.reset, in_axes=(0, None))(
        jax.random.split(reset_key, num_envs), env_params
    )
    keys = jax.random.split(step_key, num_envs)
    return EnvsState(state, observation, keys, jnp.full(num_envs, -1, jnp.int32))


def find_in(table: PriorTable) -> Find:
    """Finds states in a table."""
    return lambda observations: jax.vmap(tables.find, in_axes=(None, 0))(table, observations)


def locate(find: Find, envs: EnvsState, needed: jax.Array) -> tuple[jax.Array, Missing]:
    """The rows i32[N] of the states that environments are in, and those that are missing.

    Args:
      find: finds the rows.
      envs: the environments.
      needed: bool[N], whose row is needed.
    """
    row = find(envs.observation)
    return row, Missing(envs.observation, needed & (row < 0))


def step_known(
    env: TextEnvironment,
    env_params: Any,
    find: Find,
    envs: EnvsState,
    row: jax.Array,
    choice: Choice,
    missing: Missing,
    *,
    acting: jax.Array | bool = True,
    needs_end: bool = True,
    share: Share = lambda envs: envs,
) -> tuple[EnvsState, jax.Array, Step, Missing]:
    """A step of each environment whose state, and whose next state, have a row.

    Args:
      env: the environment.
      env_params: its parameters.
      find: finds the rows of states.
      envs: N environments.
      row: i32[N], the rows of their states, -1 where they are not known.
      choice: what each is to do; the action of one that stalled before stays what it was.
      missing: the states that are missing so far.
      acting: bool[N], which are to act at all.
      needs_end: whether the state in which an episode ended, and the one after the reset, must have
        rows, too, as they must where values are learned from the step.
      share: see `Share`.

    Returns:
      The environments afterwards; the rows of their states, -1 for those that stalled, now or
      before; the step; and the states that are missing now.
    """
    action = jnp.where(envs.action >= 0, envs.action, choice.action)
    after, next_row, step = _step(
        env, env_params, find, envs, row, choice._replace(action=action), share
    )
    is_known = (step.reached_row >= 0) & (next_row >= 0)
    if not needs_end:
        is_known |= step.done
    ready = acting & (row >= 0)
    taken = ready & is_known
    stalled = envs._replace(action=jnp.where(ready, action, envs.action))
    unknown = select(step.reached_row < 0, step.reached, after.observation)
    envs = jax.tree.map(lambda new, old: select(taken, new, old), after, stalled)
    row = jnp.where(taken, next_row, jnp.where(ready, -1, row))
    missing = Missing(
        select(ready & ~taken, unknown, missing.observation),
        missing.is_missing | (ready & ~taken),
    )
    return envs, row, step._replace(taken=taken), missing


def step_together(
    env: TextEnvironment,
    env_params: Any,
    find: Find,
    envs: EnvsState,
    row: jax.Array,
    choice: Choice,
    *,
    acting: jax.Array | bool = True,
    share: Share = lambda envs: envs,
) -> tuple[EnvsState, jax.Array, Step, Missing]:
    """A step of all environments, taken only if all states that it meets have a row.

    So whoever learns from it learns the same whether the states were known before or not.

    Args:
      env: the environment.
      env_params: its parameters.
      find: finds the rows of states.
      envs: N environments.
      row: i32[N], the rows of their states, -1 where they are not known.
      choice: what each is to do.
      acting: bool[], whether they are to act at all.
      share: see `Share`.

    Returns:
      The environments afterwards; the rows of their states; the step, which all took or none; and
      the states that are missing, two of each environment: the one that it is in or reaches, and
      the one after the reset.
    """
    after, next_row, step = _step(env, env_params, find, envs, row, choice, share)
    is_here = (row >= 0) | ~jnp.asarray(acting)
    # Of a state that is not known, nobody knows where it leads to.
    from_here = acting & jnp.all(row >= 0)
    missing = Missing(
        jnp.concatenate([select(is_here, step.reached, envs.observation), after.observation]),
        jnp.concatenate(
            [
                jnp.where(is_here, from_here & (step.reached_row < 0), True),
                from_here & (next_row < 0),
            ]
        ),
    )
    taken = acting & ~jnp.any(missing.is_missing)
    envs = jax.tree.map(lambda new, old: jnp.where(taken, new, old), after, envs)
    row = jnp.where(taken, next_row, row)
    return envs, row, step._replace(taken=jnp.broadcast_to(taken, row.shape)), missing


def _step(
    env: TextEnvironment,
    env_params: Any,
    find: Find,
    envs: EnvsState,
    row: jax.Array,
    choice: Choice,
    share: Share,
) -> tuple[EnvsState, jax.Array, Step]:
    """Where a step leads to: the environments, the rows of their states, and the step."""
    shared = share(envs)
    observation, state, reward, terminated, truncated, info = jax.vmap(
        env.step, in_axes=(0, 0, 0, None)
    )(choice.step_key, shared.state, choice.action, env_params)
    reached = info["final_observation"]
    step = Step(
        taken=jnp.ones(row.shape, bool),
        observation=envs.observation,
        row=row,
        action=choice.action,
        reward=reward.astype(jnp.float32),
        terminated=terminated,
        truncated=truncated & ~terminated,
        success=info["success"],
        reached=reached,
        reached_row=find(reached),
    )
    nothing_kept = jnp.full_like(choice.action, -1)
    return EnvsState(state, observation, choice.next_key, nothing_kept), find(observation), step


def own_keys(envs: EnvsState, action: jax.Array) -> Choice:
    """A choice whose randomness is that of each environment's own key."""
    keys = jax.vmap(jax.random.split)(envs.key)
    return Choice(action, step_key=keys[:, 0], next_key=keys[:, 1])


def lookup_rows(table: PriorTable, row: jax.Array) -> ActionPrior:
    """Priors of rows i32[B]; rows of -1 read row 0, whose use the caller must mask."""
    return jax.vmap(tables.lookup, in_axes=(None, 0))(table, jnp.maximum(row, 0))


def select(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """`where` over a leading axis, for leaves of any rank and for typed keys."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - 1)), new, old)
