"""Whole episodes in environments in JAX: many at once, in numbers, or one, for people."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.run import Decision


class Choice(NamedTuple):
    """What an agent does in a state, and what it weighed; see `Decision`.

    Attributes:
      prior: f32[A].
      q_values: f32[A].
      posterior: f32[A].
      action: i32[].
    """

    prior: np.ndarray
    q_values: np.ndarray
    posterior: np.ndarray
    action: jax.Array


def means(
    prefix: str, success: np.ndarray, returns: np.ndarray, length: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics [S] of an evaluation.

    Args:
      prefix: stands before their names.
      success: bool[S, E], of E episodes of each seed.
      returns: f32[S, E].
      length: i32[S, E].
    """
    return {
        f"{prefix}success_rate": np.mean(success, axis=1),
        f"{prefix}return": np.mean(returns, axis=1),
        f"{prefix}episode_length": np.mean(length, axis=1),
    }


def play(
    env: TextEnvironment,
    env_params: Any,
    key: jax.Array,
    choose: Callable[[jax.Array, jax.Array], Choice],
) -> Iterator[Decision]:
    """Plays one episode, a decision at a time (host side).

    Args:
      env: the environment.
      env_params: its parameters.
      key: randomness of the environment and of the choices.
      choose: `(observation, key) -> Choice`.
    """
    key, reset_key = jax.random.split(key)
    observation, env_state = env.reset(reset_key, env_params)
    done = False
    while not done:
        key, act_key, step_key = jax.random.split(key, 3)
        choice = choose(observation, act_key)
        text = env.text_state(np.asarray(observation))
        scene = env.scene(env_state)
        observation, env_state, reward, terminated, truncated, info = env.step(
            step_key, env_state, choice.action, env_params
        )
        done = bool(terminated | truncated)
        yield Decision(
            text=text,
            prior=choice.prior,
            q_values=choice.q_values,
            posterior=choice.posterior,
            action=int(choice.action),
            reward=float(reward),
            success=bool(info["success"]),
            truncated=bool(truncated),
            scene=scene,
        )
