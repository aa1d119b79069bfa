"""Measures how fast the parts of the library are on this machine.

    python -m launch.benchmark envs [--num_envs=4096] [--json]
    python -m launch.benchmark seeds [--json]

`envs`: steps per second of each environment under random actions, for a batch of environments in
one jitted scan, and for one environment stepped from a Python loop, as gym environments are. A step
of Overcooked is a macro-action.

`seeds`: environment steps per second of the training loop of the quickstart (acting, stepping,
replay, learning) for 1 to 16 seeds trained as one vmapped axis, and what they cost as a multiple of
one seed.

With `--json` the last line printed is the result as one JSON object.
"""

import difflib
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import rich.table
from absl import flags

from launch import app
from llmprior_jax import envs, training
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior

_NUM_ENVS = flags.DEFINE_integer("num_envs", 4096, "Environments in a batch.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON, too, on the last line.")

_SCAN_STEPS = 128  # steps of the whole batch per timed call
_LOOP_STEPS = 500  # steps per timed call of the Python loop
_REPEATS = 5
_SEEDS = (1, 2, 4, 8, 16)


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


def benchmark_seeds() -> list[dict]:
    """Returns for each number of seeds the time of training them, and its ratio to one seed's."""
    config = training.default_config()
    env, params = envs.make(config.env)
    observations = env.list_observations()
    assert observations is not None
    # Features as large as the quickstart's; what is in them does not change the time.
    shape = (len(observations), env.num_actions)
    prior = ActionPrior(
        log_probs=jnp.full(shape, -jnp.log(env.num_actions)),
        features=jax.random.normal(jax.random.key(0), (*shape, config.prior.num_features)),
    )
    empty = tables.empty(observations[0], env.num_actions, config.prior.num_features)
    table = tables.insert(empty, observations, prior)
    agent = training.make_agent("dqn_prior", config)
    loop = training.make_loop(
        env, params, agent, training.LoopConfig(**config.loop), _LOOP_STEPS, config.eval_episodes
    )
    rows = []
    for num_seeds in _SEEDS:
        config.num_seeds = num_seeds
        init = training.over_seeds(loop.init, (0, None), num_seeds)
        segment = training.over_seeds(loop.segment, (0, None, None), num_seeds)
        state = init(training.seed_keys(config), table)
        # Past the warm-up, so that every step learns.
        run = functools.partial(segment, state, table, jnp.int32(config.loop.warmup_steps))
        jax.block_until_ready(run())
        seconds = _median_seconds(run)
        steps = num_seeds * _LOOP_STEPS * config.loop.num_envs
        rows.append(
            {
                "seeds": num_seeds,
                "steps_per_s": round(steps / seconds),
                "updates_per_s": round(num_seeds * _LOOP_STEPS / seconds),
                "times_one_seed": round(seconds / rows[0]["seconds"], 2) if rows else 1.0,
                "seconds": round(seconds, 3),
            }
        )
    return rows


_BENCHMARKS: dict[str, Callable[[], list[dict]]] = {
    "envs": benchmark_envs,
    "seeds": benchmark_seeds,
}


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


def main(argv: Sequence[str]) -> None:
    names = ", ".join(_BENCHMARKS)
    if len(argv) != 2:
        raise ValueError(f"say which one benchmark to run: {names}")
    name = argv[1]
    if name not in _BENCHMARKS:
        (nearest,) = difflib.get_close_matches(name, _BENCHMARKS, n=1, cutoff=0)
        raise ValueError(f"there is no benchmark {name!r}; did you mean {nearest!r}?")
    device = jax.devices()[0]
    rows = _BENCHMARKS[name]()
    machine = f"{device.device_kind}, {os.cpu_count()} CPU cores"
    _print(f"{name} on {machine}", rows)
    if _JSON.value:
        print(json.dumps({"benchmark": name, "machine": machine, "rows": rows}))


if __name__ == "__main__":
    app.run(main, max_arguments=1)
