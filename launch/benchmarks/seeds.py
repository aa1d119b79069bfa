"""Environment steps per second of the training loop of the quickstart, by number of seeds.

That is acting, stepping, replay and learning, for 1 to 16 seeds trained as one vmapped axis, and
what they cost as a multiple of one seed.
"""

import functools

import jax
import jax.numpy as jnp

from launch.benchmarks import report
from llmprior_jax import envs, training
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior

_LOOP_STEPS = 500  # steps of the loop per timed call
_REPEATS = 5
_SEEDS = (1, 2, 4, 8, 16)


def measure() -> report.Result:
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
        seconds = report.median_seconds(run, _REPEATS)
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
    return report.Result(rows)
