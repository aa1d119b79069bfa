"""Measures how fast the parts of the library are on this machine.

    python -m launch.benchmark envs [--num_envs=4096] [--json]

`envs`: steps per second of each environment under random actions, for a batch of environments in
one jitted scan, and for one environment stepped from a Python loop, as gym environments are. A step
of Overcooked is a macro-action.

With `--json` the last line printed is the result as one JSON object.
"""

import difflib
import json
import os
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import rich.table
from absl import app, flags

from llmprior_jax import envs

_NUM_ENVS = flags.DEFINE_integer("num_envs", 4096, "Environments in a batch.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON, too, on the last line.")

_SCAN_STEPS = 128  # steps of the whole batch per timed call
_LOOP_STEPS = 500  # steps per timed call of the Python loop
_REPEATS = 5


def benchmark_envs() -> list[dict]:
    """Returns for each environment the steps per second, batched and one at a time."""
    rows = []
    for name in envs.NAMES:
        env, params = envs.make(name)
        batched = _batched_steps_per_second(env, params, _NUM_ENVS.value)
        looped = _looped_steps_per_second(env, params)
        rows.append(
            {
                "environment": name,
                "batched_steps_per_s": round(batched),
                "looped_steps_per_s": round(looped),
                "ratio": round(batched / looped, 1),
            }
        )
    return rows


_BENCHMARKS: dict[str, Callable[[], list[dict]]] = {"envs": benchmark_envs}


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
    seconds = _median_seconds(lambda: run(jax.random.key(2), states))
    return num_envs * _SCAN_STEPS / seconds


def _looped_steps_per_second(env: envs.TextEnvironment, params) -> float:
    actions = jax.device_get(
        jax.random.randint(jax.random.key(0), (_LOOP_STEPS,), 0, env.num_actions)
    ).tolist()
    keys = list(jax.random.split(jax.random.key(1), _LOOP_STEPS))

    def run():
        _, state = env.reset(jax.random.key(2), params)
        for key, action in zip(keys, actions, strict=True):
            observation, state, reward, terminated, truncated, _ = env.step(
                key, state, action, params
            )
            jax.device_get((observation, reward, terminated, truncated))

    run()
    return _LOOP_STEPS / _median_seconds(run)


def _median_seconds(function: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _print(title: str, rows: list[dict]) -> None:
    table = rich.table.Table(title=title)
    for column in rows[0]:
        is_text = isinstance(rows[0][column], str)
        heading = column.replace("_", " ")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else f"{cell:,}" for cell in row.values()))
    rich.print(table)


def main(argv: list[str]) -> None:
    names = ", ".join(_BENCHMARKS)
    if len(argv) != 2:
        raise app.UsageError(f"Say which one benchmark to run: {names}.")
    name = argv[1]
    if name not in _BENCHMARKS:
        nearest = difflib.get_close_matches(name, _BENCHMARKS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise app.UsageError(f"There is no benchmark {name!r}.{hint} There are: {names}.")
    device = jax.devices()[0]
    rows = _BENCHMARKS[name]()
    machine = f"{len(jax.devices())} x {device.device_kind} ({os.cpu_count()} CPU cores)"
    _print(f"{name} on {machine}", rows)
    if _JSON.value:
        print(json.dumps({"benchmark": name, "machine": machine, "rows": rows}))


if __name__ == "__main__":
    app.run(main)
