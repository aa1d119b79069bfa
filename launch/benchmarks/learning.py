"""Training end to end: steps and updates per second, and how they grow.

    python -m launch.benchmark train [--json]

The training loop of the quickstart (acting, stepping, replay, learning) past its warm-up: with 64
to 4,096 environments for one seed, and with 1 to 64 seeds of the default number of environments,
trained as one vmapped axis. "times first" is the time of as many iterations as a multiple of that
in the first line of its kind: below the growth in size, more is cheaper by the piece. "times fixed"
is the time beside that of an agent that takes its prior as it is, instead of learning how far to
trust it. A step of Overcooked is a macro-action. The prior is a table of random features: asking
the language model is not part of the loop, see the benchmark "scoring" for that.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from launch.benchmarks import timing
from llmprior_jax import distributed, envs, learning, training
from llmprior_jax.distributed.seeds import SEEDS
from llmprior_jax.priors import table as tables
from llmprior_jax.settings import EnvironmentSettings, LoopSettings, PriorSettings
from llmprior_jax.types import ActionPrior

_ITERATIONS = 200  # of the loop per timed call
_REPEATS = 3
_ENVS = (64, 256, 1024, 4096)
_SEEDS = (1, 4, 16, 64)


def measure() -> timing.Result:
    """Trains every number of environments, and every number of seeds."""
    few = LoopSettings().num_envs
    rows = []
    for sizes in ([(1, num_envs) for num_envs in _ENVS], [(seeds, few) for seeds in _SEEDS]):
        first = None
        for num_seeds, num_envs in sizes:
            learned, fixed = (_seconds(num_seeds, num_envs, of) for of in ("learned", "fixed"))
            first = first or learned
            rows.append(_row(num_seeds, num_envs, learned, learned / first, learned / fixed))
    return timing.Result(rows)


def _row(
    num_seeds: int, num_envs: int, seconds: float, ratio: float, times_fixed: float
) -> dict[str, Any]:
    return {
        "seeds": num_seeds,
        "environments": num_envs,
        "steps_per_s": round(num_seeds * num_envs * _ITERATIONS / seconds),
        "updates_per_s": round(num_seeds * _ITERATIONS / seconds),
        "times_first": round(ratio, 2),
        "times_fixed": round(times_fixed, 2),
    }


def _seconds(num_seeds: int, num_envs: int, trust: str) -> float:
    """Time of some iterations, each with one update."""
    # The replay takes in all environments' transitions of an iteration at once.
    capacity = max(LoopSettings().replay_capacity, 2 * num_envs)
    sizes = LoopSettings(num_envs=num_envs, replay_capacity=capacity)
    env, params = envs.make(EnvironmentSettings().env)
    table = _table(env, PriorSettings().num_features)
    config = training.default_config()
    config.agent.trust = trust
    agent = training.make_agent("dqn_prior", config)
    loop = learning.make_loop(env, params, agent, sizes, axis_name=SEEDS)
    keys = distributed.seed_keys(0, num_seeds)
    state = distributed.over_seeds(loop.init, (0, None), num_seeds)(keys, table)
    segment = distributed.over_seeds(loop.segment, (0, None, None), num_seeds)
    # Past the warm-up every iteration learns.
    state, _, _ = segment(state, table, jnp.int32(sizes.warmup_steps))
    run = functools.partial(segment, state, table, jnp.int32(sizes.warmup_steps + _ITERATIONS))
    jax.block_until_ready(run())
    return timing.median_seconds(run, _REPEATS)


def _table(env: envs.TextEnvironment, num_features: int) -> tables.PriorTable:
    """All states, with features as large as the quickstart's; what is in them takes no time."""
    observations = env.list_observations()
    assert observations is not None
    shape = (len(observations), env.num_actions)
    prior = ActionPrior(
        log_probs=jnp.full(shape, -jnp.log(env.num_actions)),
        features=jax.random.normal(jax.random.key(0), (*shape, num_features)),
    )
    empty = tables.empty(observations[0], env.num_actions, num_features)
    return tables.insert(empty, observations, prior)
