"""The expert of a small environment: the surest and quickest way to success from every state.

All states that can be reached are listed by trying every action in each, breadth-first, and value
iteration finds the policy that maximizes `E[g^T]`, T the number of decisions until success. The
expert sees the state itself, also where an agent sees only part of it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior

_STATES_PER_CALL = 512
_TOLERANCE = 1e-6


def plan(
    env: TextEnvironment,
    env_params: Any,
    discount: float = 0.95,
    num_outcomes: int = 64,
    max_states: int = 200_000,
) -> PriorTable:
    """Plans from every state that can be reached from a reset.

    Args:
      env: its states, apart from `time`, are integers; one reset leads to them all.
      env_params: its parameters; the time limit plays no role.
      discount: g, per decision.
      num_outcomes: draws of the outcome of each action, where there is chance in it.
      max_states: the search gives up beyond.

    Returns:
      A table keyed by `encode(state)`, whose `log_probs` are the expert's policy, uniform over the
      best actions, and over all where no action leads to success. It has no features.

    Raises:
      ValueError: there are more than `max_states` states.
    """
    codes, successors, ended, success = _search(env, env_params, num_outcomes, max_states)

    def backup(values: jax.Array) -> jax.Array:
        reached = jnp.where(ended, success.astype(jnp.float32), values[successors])
        return discount * jnp.mean(reached, axis=-1)  # [N, A]

    @jax.jit
    def iterate() -> jax.Array:
        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            values, _ = carry
            new = jnp.max(backup(values), axis=-1)
            return new, jnp.max(jnp.abs(new - values))

        values, _ = jax.lax.while_loop(
            lambda carry: carry[1] > _TOLERANCE / 10, step, (jnp.zeros(len(codes)), jnp.float32(1))
        )
        return backup(values)

    q_values = np.asarray(iterate())
    best = q_values >= q_values.max(axis=1, keepdims=True) - _TOLERANCE
    with np.errstate(divide="ignore"):
        log_probs = np.log(best / best.sum(axis=1, keepdims=True)).astype(np.float32)
    table = tables.empty(codes[0], env.num_actions, 0)
    features = np.zeros((*log_probs.shape, 0), np.float32)
    return tables.insert(table, codes, ActionPrior(jnp.asarray(log_probs), jnp.asarray(features)))


def encode(state: Any) -> jax.Array:
    """A state of an environment as i32[n], without its time."""
    leaves = jax.tree.leaves(state.replace(time=jnp.int32(0)))
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.int32) for leaf in leaves])


def _search(
    env: TextEnvironment, env_params: Any, num_outcomes: int, max_states: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Codes i32[N, n] of all states; of each, action and outcome [N, A, K]: what it leads to."""
    reset_key, *keys = jax.random.split(jax.random.key(0), 1 + num_outcomes)
    _, state = env.reset(reset_key, env_params)
    if not _has_chance(env, env_params, state):
        keys = keys[:1]

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    @functools.partial(jax.vmap, in_axes=(None, 0, None))
    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    def step(state: Any, action: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        _, reached, _, terminated, info = env.step_env(key, state, action, env_params)
        return encode(reached), reached.replace(time=state.time), terminated, info["success"]

    index_of = {np.asarray(encode(state)).tobytes(): 0}
    codes = [np.asarray(encode(state))]
    frontier = [jax.tree.map(np.asarray, state)]
    results = []
    while frontier:
        batch, frontier = frontier[:_STATES_PER_CALL], frontier[_STATES_PER_CALL:]
        # One shape, so one compilation.
        size = len(batch)
        padded = batch + batch[-1:] * (_STATES_PER_CALL - size)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
        results_of_all = jax.device_get(step(stacked, jnp.arange(env.num_actions), jnp.stack(keys)))
        reached_codes, reached, ended, success = jax.tree.map(
            lambda leaf, size=size: leaf[:size], results_of_all
        )
        successors = np.zeros(ended.shape, np.int32)
        for place in zip(*np.nonzero(~ended), strict=True):
            code = reached_codes[place]
            index = index_of.setdefault(code.tobytes(), len(codes))
            if index == len(codes):
                codes.append(code)
                frontier.append(jax.tree.map(lambda leaf, place=place: leaf[place], reached))
            successors[place] = index
        results.append((successors, ended, success))
        if len(codes) > max_states:
            raise ValueError(
                f"{env.name} has more than {max_states:,} states, too many to plan for; let a "
                "trained agent be the expert"
            )
    successors, ended, success = map(np.concatenate, zip(*results, strict=True))
    return np.stack(codes), successors, ended, success


def _has_chance(env: TextEnvironment, env_params: Any, state: Any) -> bool:
    """Whether the random key has a part in what a step does."""
    step = jax.make_jaxpr(env.step_env)(jax.random.key(0), state, jnp.int32(0), env_params).jaxpr
    key = step.invars[0]
    return any(key is used for equation in step.eqns for used in equation.invars)
