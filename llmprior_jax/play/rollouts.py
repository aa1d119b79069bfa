"""Rollouts: so many steps, or one episode, in each of N environments, as pure jitted functions.

A rollout goes on until it is complete, or as far as the known states reach; once the host has
scored the missing ones it goes on from there (`stepping`). So it does not depend on when its states
became known. Evaluation, the rollouts that a policy learns from, and collecting are all made of
this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.stepping import (
    Choice,
    EnvsState,
    Find,
    Missing,
    Share,
    Step,
    find_in,
    locate,
    step_known,
)


class Standing(NamedTuple):
    """Where N environments stand before a step.

    Attributes:
      envs: the environments.
      row: i32[N], the rows of their states, -1 where they are not known.
      time: i32[N], steps that each has taken in this rollout.
      is_over: bool[N], whether an environment takes no more steps.
      waits: bool[N], whether it has stalled.
    """

    envs: EnvsState
    row: jax.Array
    time: jax.Array
    is_over: jax.Array
    waits: jax.Array


class Actor(NamedTuple):
    """How an agent acts in a batch of environments, as pure functions within jit.

    `agent_state` is of one seed, `shared` is what all seeds share beside the table, and `memory` is
    what is remembered within a rollout.

    Attributes:
      start: `(draws, table) -> memory`; `draws` is what `Roller.start` is given.
      choose: `(agent_state, shared, memory, standing, table) -> (Choice, about, memory)`; `about`,
        a pytree [N, ...], is what is to be known of the choice.
      look: `(memory, step) -> memory`, after a step.
    """

    start: Callable[[Any, Any], Any]
    choose: Callable[[Any, Any, Any, Standing, Any], tuple[Choice, Any, Any]]
    look: Callable[[Any, Step], Any] = lambda memory, step: memory


class Progress(NamedTuple):
    """A rollout under way.

    Attributes:
      envs: the N environments.
      time: i32[N], steps that each has taken.
      is_over: bool[N], whether an environment takes no more steps.
      memory: what the actor remembers.
      steps: what is kept of the steps, [T, N, ...], filled up to `time`.
    """

    envs: EnvsState
    time: jax.Array
    is_over: jax.Array
    memory: Any
    steps: Any


class Roller(NamedTuple):
    """Rollouts of one seed, as pure functions.

    Attributes:
      start: `(agent_state, shared, envs, draws, table) -> Progress`, nothing done yet.
      advance: `(progress, agent_state, shared, table) -> (Progress, Missing)`, goes on until the
        rollout is complete, or as far as the known states reach.
    """

    start: Callable[[Any, Any, EnvsState, Any, Any], Progress]
    advance: Callable[[Progress, Any, Any, Any], tuple[Progress, Missing]]


def make_roller(
    env: TextEnvironment,
    env_params: Any,
    actor: Actor,
    num_steps: int,
    keep: Callable[[Step, Any], Any],
    *,
    one_episode: bool = False,
    find: Callable[[Any], Find] = find_in,
    share: Share = lambda envs: envs,
) -> Roller:
    """Builds rollouts.

    Args:
      env: the environment.
      env_params: its parameters.
      actor: how the agent acts.
      num_steps: T, steps of each environment.
      keep: `(step, about) -> pytree [N, ...]`, what is kept of a step.
      one_episode: each environment stops at the end of its first episode, of whose last state no
        prior is needed.
      find: how states are found in what stands for the table.
      share: see `stepping.Share`.
    """

    @jax.jit  # Traced once, for its shapes and for the loop.
    def step(
        agent_state: Any,
        shared: Any,
        table: Any,
        progress: Progress,
        row: jax.Array,
        missing: Missing,
    ) -> tuple[EnvsState, jax.Array, Step, Missing, Any, Any]:
        standing = Standing(progress.envs, row, progress.time, progress.is_over, missing.is_missing)
        choice, about, memory = actor.choose(agent_state, shared, progress.memory, standing, table)
        envs, row, taken, missing = step_known(
            env,
            env_params,
            find(table),
            progress.envs,
            row,
            choice,
            missing,
            acting=_is_running(progress) & ~missing.is_missing,
            needs_end=not one_episode,
            share=share,
        )
        return envs, row, taken, missing, keep(taken, about), actor.look(memory, taken)

    def _is_running(progress: Progress) -> jax.Array:
        return (progress.time < num_steps) & ~progress.is_over

    def start(agent_state: Any, shared: Any, envs: EnvsState, draws: Any, table: Any) -> Progress:
        num_envs = envs.action.shape[0]
        nothing = jnp.zeros(num_envs, jnp.int32)
        progress = Progress(
            envs, nothing, nothing.astype(bool), actor.start(draws, table), steps=()
        )
        row, missing = locate(find(table), envs, _is_running(progress))
        kept = jax.eval_shape(step, agent_state, shared, table, progress, row, missing)[4]
        return progress._replace(
            steps=jax.tree.map(lambda leaf: jnp.zeros((num_steps, *leaf.shape), leaf.dtype), kept)
        )

    def advance(
        progress: Progress, agent_state: Any, shared: Any, table: Any
    ) -> tuple[Progress, Missing]:
        num_envs = progress.time.shape[0]

        def go_on(
            carry: tuple[Progress, jax.Array, Missing, jax.Array],
        ) -> tuple[Progress, jax.Array, Missing, jax.Array]:
            progress, row, missing, _ = carry
            idle = ~jnp.any(_is_running(progress) & ~missing.is_missing)
            envs, row, taken, missing, kept, memory = step(
                agent_state, shared, table, progress._replace(steps=()), row, missing
            )
            # A time beyond the end: a step that was not taken is written nowhere.
            place = jnp.where(taken.taken, progress.time, num_steps), jnp.arange(num_envs)
            progress = Progress(
                envs=envs,
                time=progress.time + taken.taken,
                is_over=progress.is_over | (taken.taken & taken.done & one_episode),
                memory=memory,
                steps=jax.tree.map(
                    lambda leaf, new: leaf.at[place].set(new, mode="drop"), progress.steps, kept
                ),
            )
            return progress, row, missing, idle

        row, missing = locate(find(table), progress.envs, _is_running(progress))
        # After the last step comes one more, in which nobody acts: an actor that reads states reads
        # those in which they ended.
        progress, _, missing, _ = jax.lax.while_loop(
            lambda carry: ~carry[3], go_on, (progress, row, missing, jnp.zeros((), bool))
        )
        return progress, missing

    return Roller(start, advance)


def complete(
    progress: Progress,
    advance: Callable[[Progress], tuple[Progress, Missing]],
    fill: Callable[[Missing], bool],
) -> Progress:
    """Goes on with rollouts until they are complete (host side).

    Args:
      progress: what `Roller.start` gave.
      advance: `Roller.advance`, with all that it needs beside.
      fill: scores what is missing, and says whether anything was.
    """
    while True:
        progress, missing = advance(progress)
        if not fill(missing):
            return progress
