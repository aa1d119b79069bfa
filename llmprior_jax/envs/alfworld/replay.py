"""Plays recorded episodes of ALFWorld in JAX again, beside ALFWorld's own engine.

What an agent did in JAX is said to the engine, command by command, and at every step all that both
of them tell is compared: text, admissible commands, reward, whether the game is won, and whether
the episode is over. So a success rate that was measured in JAX is shown to be the engine's.
"""

import functools
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.alfworld.environment import ALFWorld
from llmprior_jax.envs.base import TextEnvironment
from llmprior_jax.envs.engines import Bridge, HostStep
from llmprior_jax.envs.history import HistoryWrapper
from llmprior_jax.types import TextState


class Replayed(NamedTuple):
    """What playing episodes again showed.

    Attributes:
      won: bool[N], the episodes that were won in the engine.
      steps: commands that were compared.
      mismatches: what the two say differently, in words; none is as it should be. An episode ends
        at its first one.
    """

    won: np.ndarray
    steps: int
    mismatches: tuple[str, ...]


def replay(
    env: TextEnvironment,
    params: Any,
    start: np.ndarray,
    actions: np.ndarray,
    num_engines: int | None = None,
) -> Replayed:
    """Plays episodes again in JAX and in the engine, and compares them.

    Args:
      env: the environment that they were played in: ALFWorld, with or without a history.
      params: its parameters, of which only the time limit matters.
      start: i32[N, n], the first observation of each episode.
      actions: i32[N, T], what was done in it, -1 after its end.
      num_engines: processes that play; by default one for each core.

    Returns:
      See `Replayed`.

    Raises:
      ValueError: the environment is not ALFWorld.
      GameError: a game cannot be played by the engine.
    """
    if isinstance(env, HistoryWrapper):
        start, env = np.stack([env.present(observation) for observation in start]), env.env
    if not isinstance(env, ALFWorld):
        raise ValueError(f"{env.name} is played by no engine; only ALFWorld's episodes are")
    play = functools.partial(_replay_episode, env, jax.jit(env.reset), jax.jit(env.step), params)
    number = max(1, min(num_engines or os.cpu_count() or 1, len(start)))

    def play_some(rows: np.ndarray) -> list[_Episode]:
        with Bridge(1, max_steps=params.max_steps_in_episode) as bridge:
            return [play(bridge, int(start[row, 0]), actions[row]) for row in rows]

    with futures.ThreadPoolExecutor(number) as pool:
        parts = pool.map(play_some, np.array_split(np.arange(len(start)), number))
        episodes = [episode for part in parts for episode in part]
    return Replayed(
        won=np.array([episode.won for episode in episodes], bool),
        steps=sum(episode.steps for episode in episodes),
        mismatches=tuple(episode.mismatch for episode in episodes if episode.mismatch),
    )


class _Episode(NamedTuple):
    won: bool
    steps: int
    mismatch: str


def _replay_episode(
    env: ALFWorld,
    reset: Callable[..., Any],
    step: Callable[..., Any],
    params: Any,
    bridge: Bridge,
    game: int,
    actions: np.ndarray,
) -> _Episode:
    params, key = params.replace(games=jnp.array([game])), jax.random.key(0)
    observation, state = reset(key, params)
    seen = bridge.reset([env.games[game]])
    steps, ours = 0, (0.0, False, False)
    mismatch = _difference(env.text_state(np.asarray(observation)), ours, seen)
    for action in actions[actions >= 0].tolist():
        if mismatch or seen.done[0]:
            break
        commands = env.text_state(np.asarray(observation)).actions
        command = commands[min(action, len(commands) - 1)]
        observation, state, reward, terminated, truncated, info = step(key, state, action, params)
        seen = bridge.step([command])
        steps += 1
        ours = (float(reward), bool(info["success"]), bool(terminated | truncated))
        text = env.text_state(np.asarray(info["final_observation"]))
        mismatch = _difference(text, ours, seen)
    if not mismatch and not (seen.done[0] and steps == np.sum(actions >= 0)):
        mismatch = "the recorded episode has another length"
    where = f"{env.games[game]}, after {steps} commands: "
    return _Episode(bool(seen.won[0]), steps, mismatch and where + mismatch)


def _difference(text: TextState, ours: tuple[float, bool, bool], seen: HostStep) -> str:
    """What JAX and the engine tell differently, in words; empty if nothing."""
    pairs = {
        "task": (text.task, seen.tasks[0]),
        "text": (text.observation, seen.observations[0]),
        "commands": (sorted(text.actions), sorted(seen.commands[0])),
        "reward": (ours[0], float(seen.reward[0])),
        "won": (ours[1], bool(seen.won[0])),
        "end": (ours[2], bool(seen.done[0])),
    }
    return "; ".join(
        f"{what} is {mine!r} in JAX and {theirs!r} in the engine"
        for what, (mine, theirs) in pairs.items()
        if mine != theirs
    )
