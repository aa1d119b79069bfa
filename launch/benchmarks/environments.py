"""Steps per second of each environment under random actions.

For a batch of environments in one jitted scan, and for one environment stepped from a Python loop,
as gym environments are. A step of Overcooked is a macro-action.
"""

import jax
import jax.numpy as jnp
from absl import flags

from launch.benchmarks import report
from llmprior_jax import envs

_NUM_ENVS = flags.DEFINE_integer("num_envs", 4096, "Environments in a batch.", lower_bound=1)

_SCAN_STEPS = 128  # steps of the whole batch per timed call
_LOOP_STEPS = 500  # steps per timed call of the Python loop
_REPEATS = 5


def measure() -> report.Result:
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
    return report.Result(rows)


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
    seconds = report.median_seconds(lambda: run(jax.random.key(2), states), _REPEATS)
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
    return _LOOP_STEPS / report.median_seconds(run, _REPEATS)
