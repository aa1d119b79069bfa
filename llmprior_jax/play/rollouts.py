"""Rollouts of a policy that must read a state to act in it, as pure jitted functions.

Within a rollout the policy stands still, so what it says of a state is remembered: the language
model reads each distinct state once, however many environments pass through it. An environment that
reaches a state without a row in the table of priors stalls before that step, with its random key;
once the host has added the row, it takes the very same step. So a rollout does not depend on when
its states became known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.agents import AgentState, PolicyAgent, Rollout
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.loop import EnvsState, Episodes, Missing, select, step_envs
from llmprior_jax.posterior import kl_to_prior
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable

# States read in one forward pass: few, since in most steps few environments meet a new one.
_READ_AT_ONCE = 4


class View(NamedTuple):
    """What the policy says of the states that it has read, by their rows in the table.

    Attributes:
      is_wanted: bool[R], whether a state is needed.
      is_read: bool[R], whether it was read already.
      log_probs: f32[R, A].
      values: f32[R].
    """

    is_wanted: jax.Array
    is_read: jax.Array
    log_probs: jax.Array
    values: jax.Array


class Progress(NamedTuple):
    """A rollout under way.

    Attributes:
      envs: the N environments.
      time: i32[N], steps that each has taken.
      is_over: bool[N], whether an environment takes no more steps.
      view: what the policy said so far.
      rollout: the steps, [T, N], filled up to `time`.
      reached_row: i32[T, N], row of the state in which a step was cut off; -1 elsewhere.
      success: bool[T, N], whether a step solved the task.
    """

    envs: EnvsState
    time: jax.Array
    is_over: jax.Array
    view: View
    rollout: Rollout
    reached_row: jax.Array
    success: jax.Array


class Roller(NamedTuple):
    """Rollouts of one seed, as pure functions.

    Attributes:
      start: `(envs, table) -> Progress`, nothing done yet.
      advance: `(progress, agent_state, frozen, rows, table) -> (Progress, Missing)`, goes on until
        the rollout is complete, or as far as the known states reach. `rows` are what the policy
        reads, row by row of the table; `frozen` is that of the `LanguagePolicy`.
    """

    start: Callable[[EnvsState, PriorTable], Progress]
    advance: Callable[[Progress, AgentState, Any, Any, PriorTable], tuple[Progress, Missing]]


def make_roller(
    env: TextEnvironment,
    env_params: Any,
    agent: PolicyAgent,
    num_steps: int,
    one_episode: bool = False,
) -> Roller:
    """Builds rollouts of `num_steps` steps (T); with `one_episode` each environment stops earlier,
    at the end of its first episode."""
    find = jax.vmap(tables.find, in_axes=(None, 0))

    def start(envs: EnvsState, table: PriorTable) -> Progress:
        num_rows, num_actions = table.prior.log_probs.shape
        num_envs = envs.action.shape[0]
        integers = jnp.zeros((num_steps, num_envs), jnp.int32)
        floats, booleans = integers.astype(jnp.float32), integers.astype(bool)
        return Progress(
            envs=envs,
            time=integers[0],
            is_over=booleans[0],
            view=View(
                is_wanted=jnp.zeros(num_rows, bool),
                is_read=jnp.zeros(num_rows, bool),
                log_probs=jnp.full((num_rows, num_actions), -jnp.inf),
                values=jnp.zeros(num_rows),
            ),
            rollout=Rollout(
                row=integers,
                action=integers,
                log_prob=floats,
                kl=floats,
                value=floats,
                reward=floats,
                terminated=booleans,
                truncated=booleans,
                reached_value=floats,
                last_value=floats[0],
            ),
            reached_row=integers - 1,
            success=booleans,
        )

    def advance(
        progress: Progress, agent_state: Any, frozen: Any, rows: Any, table: PriorTable
    ) -> tuple[Progress, Missing]:
        num_envs = progress.time.shape[0]

        def is_running(progress: Progress, missing: Missing) -> jax.Array:
            return (progress.time < num_steps) & ~progress.is_over & ~missing.is_missing

        def read(view: View) -> View:
            """Reads the states that are wanted and were not read yet, a few at a time."""

            def read_some(view: View) -> View:
                # A row beyond the end is no state: nothing is written there.
                (some,) = jnp.nonzero(
                    view.is_wanted & ~view.is_read,
                    size=_READ_AT_ONCE,
                    fill_value=view.values.shape[0],
                )
                log_probs, values = agent.policy(
                    agent_state, frozen, jax.tree.map(lambda leaf: leaf[some], rows)
                )
                return view._replace(
                    is_read=view.is_read.at[some].set(True, mode="drop"),
                    log_probs=view.log_probs.at[some].set(log_probs, mode="drop"),
                    values=view.values.at[some].set(values, mode="drop"),
                )

            return jax.lax.while_loop(
                lambda view: jnp.any(view.is_wanted & ~view.is_read), read_some, view
            )

        def step(carry: tuple[Progress, Missing, jax.Array]):
            progress, missing, _ = carry
            running = is_running(progress, missing)
            row = find(table, progress.envs.observation)
            view = read(_want(progress.view, row, ~progress.is_over & ~missing.is_missing))
            keys = jax.vmap(jax.random.split)(progress.envs.key)
            log_probs = view.log_probs[row]
            action = jax.vmap(jax.random.categorical)(keys[:, 0], log_probs)
            next_envs, outcome = step_envs(
                env, env_params, progress.envs._replace(key=keys[:, 1]), action
            )
            reached_row, next_row = (
                find(table, outcome.reached),
                find(table, next_envs.observation),
            )
            is_known = (row >= 0) & (reached_row >= 0) & (next_row >= 0)
            unknown = select(reached_row < 0, outcome.reached, next_envs.observation)
            unknown = select(row < 0, progress.envs.observation, unknown)
            missing = Missing(
                select(running & ~is_known, unknown, missing.observation),
                missing.is_missing | (running & ~is_known),
            )
            taken = running & is_known
            cut_off = taken & outcome.done & ~outcome.terminated
            # A time beyond the end: a step that was not taken is written nowhere.
            place = jnp.where(taken, progress.time, num_steps), jnp.arange(num_envs)
            new = {
                "row": row,
                "action": action,
                "log_prob": jnp.take_along_axis(log_probs, action[:, None], axis=1)[:, 0],
                "kl": jax.vmap(kl_to_prior)(log_probs, table.prior.log_probs[row]),
                "value": view.values[row],
                "reward": outcome.reward,
                "terminated": outcome.terminated,
                "truncated": cut_off,
            }
            rollout = progress.rollout._replace(
                **{
                    name: getattr(progress.rollout, name).at[place].set(value, mode="drop")
                    for name, value in new.items()
                }
            )
            progress = Progress(
                envs=jax.tree.map(
                    lambda new, old: select(taken, new, old), next_envs, progress.envs
                ),
                time=progress.time + taken,
                is_over=progress.is_over | (taken & outcome.done & one_episode),
                view=_want(view, reached_row, cut_off),
                rollout=rollout,
                reached_row=progress.reached_row.at[place].set(
                    jnp.where(cut_off, reached_row, -1), mode="drop"
                ),
                success=progress.success.at[place].set(outcome.success, mode="drop"),
            )
            return progress, missing, ~jnp.any(running)

        # After the last step comes one more, in which nobody acts: it reads where they ended.
        missing = Missing(progress.envs.observation, jnp.zeros(num_envs, bool))
        progress, missing, _ = jax.lax.while_loop(
            lambda carry: ~carry[2], step, (progress, missing, jnp.zeros((), bool))
        )
        values, reached_row = progress.view.values, progress.reached_row
        rollout = progress.rollout._replace(
            reached_value=jnp.where(reached_row >= 0, values[reached_row], 0.0),
            last_value=values[find(table, progress.envs.observation)],
        )
        return progress._replace(rollout=rollout), missing

    return Roller(start, advance)


def _want(view: View, row: jax.Array, is_wanted: jax.Array) -> View:
    """Asks for the states of rows i32[N], where they are wanted bool[N] and known."""
    place = jnp.where(is_wanted & (row >= 0), row, view.values.shape[0])
    return view._replace(is_wanted=view.is_wanted.at[place].set(True, mode="drop"))


def for_more_rows(progress: Progress, num_rows: int) -> Progress:
    """The same rollouts, [S, ...], with room for a table of more rows."""
    more = num_rows - progress.view.values.shape[1]

    def extend(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2))

    return progress._replace(view=jax.tree.map(extend, progress.view))


def episodes(progress: Progress) -> Episodes:
    """What came of the first episode of each environment, [N]; see `make_roller`."""
    num_steps = progress.success.shape[0]
    counts = jnp.arange(num_steps)[:, None] < progress.time
    return Episodes(
        success=jnp.any(counts & progress.success, axis=0),
        returns=jnp.sum(jnp.where(counts, progress.rollout.reward, 0.0), axis=0),
        length=progress.time,
    )
