"""Steps per second of each environment under random actions.

For a batch of environments in one jitted scan, and for one environment stepped from a Python loop,
as gym environments are. A step of Overcooked is a macro-action. ALFWorld is played in the games of
`--games`, or in 28 games that are made for it first. Of BabyAI there is a level of one room, one of
two and one of nine. Beside them stand their own engines: steps per second of a process on each
core, which does random things in the same games or level. minigrid has no mixed level.
"""

import concurrent.futures
import contextlib
import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from launch.benchmarks import timing
from launch.common import children
from llmprior_jax import envs
from llmprior_jax.envs.alfworld import game_maker
from llmprior_jax.envs.engines import Bridge, list_games

_SCAN_STEPS = 128  # steps of the whole batch per timed call
_LOOP_STEPS = 500  # steps per timed call of the Python loop
_REPEATS = 5
_MADE_GAMES = 14  # of each of two tasks
_ENGINE_SECONDS = 10.0
_BABYAI = ("BabyAI-GoToLocal", "BabyAI-MixedTrainLocal", "BabyAI-GoTo")
_MINIGRID = ("BabyAI-GoToLocal", "BabyAI-GoTo")


def measure(num_envs: int, games: Sequence[str]) -> timing.Result:
    """Steps every environment, batched and one at a time.

    Args:
      num_envs: environments in a batch.
      games: ALFWorld games, or directories of them; some are made where there are none.

    Returns:
      A row for each environment, with its steps per second.
    """
    names = [name for name in envs.NAMES if not name.startswith("BabyAI-") or name in _BABYAI]
    rows = [_row(name, *envs.make(name), num_envs) for name in names]
    for row in rows:
        if row["environment"] in _MINIGRID:
            row["engine_steps_per_s"] = _minigrid(row["environment"])
    if importlib.util.find_spec("alfworld"):
        rows.append(_alfworld_row(num_envs, games))
    else:
        print(
            "ALFWorld is left out; it needs pip install 'llmprior-jax[alfworld]'.", file=sys.stderr
        )
    return timing.Result(rows)


def _alfworld_row(num_envs: int, games: Sequence[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        if not (listed := list_games(games)):
            made = game_maker.make_games(folder, ("pick", "examine"), _MADE_GAMES, unseen=0)
            listed = list(map(str, made["train"]))
        row = _row("ALFWorld", *envs.make("ALFWorld", games=listed), num_envs)
        return row | {"engine_steps_per_s": _engine(listed)}


def _row(name: str, env: envs.TextEnvironment, params, num_envs: int) -> dict:
    batched = _batched_steps_per_second(env, params, num_envs)
    looped = _looped_steps_per_second(env, params)
    return {
        "environment": name,
        "batched_steps_per_s": round(batched),
        "looped_steps_per_s": round(looped),
        "ratio": round(batched / looped, 1),
        "engine_steps_per_s": None,
    }


def _engine(games: list[str]) -> float:
    """Steps per second of ALFWorld's own engine, of all processes together."""
    number = os.cpu_count() or 1
    chance = random.Random(0)
    with Bridge(number, max_steps=50) as bridge:
        seen = bridge.reset([chance.choice(games) for _ in range(number)])
        steps, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < _ENGINE_SECONDS:
            seen = bridge.step([chance.choice(commands) for commands in seen.commands])
            steps += number
            if seen.done.any():
                seen = bridge.reset([chance.choice(games) if over else None for over in seen.done])
    return round(steps / seconds, 1)


def _minigrid(name: str) -> float | None:
    """Steps per second of minigrid in a level of BabyAI, of all processes together."""
    if importlib.util.find_spec("minigrid") is None:
        print(f"minigrid is left out for {name}; it needs pip install minigrid.", file=sys.stderr)
        return None
    number = os.cpu_count() or 1
    with concurrent.futures.ProcessPoolExecutor(
        number, mp_context=children.SPAWN, initializer=children.follow_parent
    ) as pool:
        rates = pool.map(_minigrid_steps_per_second, [name] * number, range(number))
        return round(sum(rates), 1)


def _minigrid_steps_per_second(name: str, seed: int) -> float:
    """Steps per second of one process."""
    import gymnasium

    # Its levels tell on standard output what they reject.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        game, chance = gymnasium.make(f"minigrid:{name}-v0").unwrapped, random.Random(seed)
        game.reset(seed=seed)
        steps, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < _ENGINE_SECONDS:
            _, _, terminated, truncated, _ = game.step(chance.randrange(6))
            steps += 1
            if terminated or truncated:
                game.reset()
    return steps / seconds


def _batched_steps_per_second(env: envs.TextEnvironment, params, num_envs: int) -> float:
    reset = jax.vmap(env.reset, in_axes=(0, None))
    step = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    @jax.jit
    def run(key, states):
        def advance(carry, key):
            states, total = carry
            action_key, step_key = jax.random.split(key)
            actions = jax.random.randint(action_key, (num_envs,), 0, env.num_actions)
            observations, states, rewards, *_ = step(
                jax.random.split(step_key, num_envs), states, actions, params
            )
            # Everything a learner would read goes into the total, so that none of it is left out.
            return (states, total + rewards.sum() + observations.sum()), None

        keys = jax.random.split(key, _SCAN_STEPS)
        (states, total), _ = jax.lax.scan(advance, (states, jnp.float32(0)), keys)
        return states, total

    _, states = reset(jax.random.split(jax.random.key(0), num_envs), params)
    states, _ = run(jax.random.key(1), states)
    seconds = timing.median_seconds(lambda: run(jax.random.key(2), states), _REPEATS)
    return num_envs * _SCAN_STEPS / seconds


def _looped_steps_per_second(env: envs.TextEnvironment, params) -> float:
    actions = jax.random.randint(jax.random.key(0), (_LOOP_STEPS,), 0, env.num_actions).tolist()
    keys = list(jax.random.split(jax.random.key(1), _LOOP_STEPS))

    def run():
        _, state = env.reset(jax.random.key(2), params)
        for key, action in zip(keys, actions, strict=True):
            observation, state, *told, _ = env.step(key, state, action, params)
            jax.device_get((observation, *told))

    run()
    return _LOOP_STEPS / timing.median_seconds(run, _REPEATS)
