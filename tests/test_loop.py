"""The training loop: it learns, it stalls rather than guess, and seeds do not touch one another."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import LENGTH, RIGHT, Lock, lock_table, prior_of

from llmprior_jax import agents
from llmprior_jax.learning import make_loop
from llmprior_jax.play.actors import ValueActor
from llmprior_jax.play.rollouts import make_roller
from llmprior_jax.play.stepping import reset_envs
from llmprior_jax.priors import table as tables
from llmprior_jax.settings import LoopSettings

ITERATIONS, EPISODES = 100, 64
CONFIG = LoopSettings(
    num_envs=8, replay_capacity=2_000, warmup_steps=4, batch_size=32, updates_per_step=1
)


@functools.cache
def compiled(name: str):
    """The loop of one agent, jitted over seeds: (init, segment, evaluate)."""
    env = Lock()
    params = env.default_params
    num_steps = params.max_steps_in_episode
    agent = agents.make(name, alpha=0.02, learning_rate=3e-3)
    actor = ValueActor(agent)
    loop = make_loop(env, params, agent, CONFIG, ITERATIONS)
    roller = make_roller(
        env,
        params,
        actor.in_rollouts,
        num_steps,
        lambda step, about: step.success,
        one_episode=True,
    )

    def evaluate(agent_state, key, table):
        """Which episodes succeed bool[E], and the states that are missing."""
        reset_key, draws = actor.begin(key, EPISODES, num_steps)
        envs = reset_envs(env, params, reset_key, EPISODES)
        progress = roller.start(agent_state, (), envs, draws, table)
        progress, missing = roller.advance(progress, agent_state, (), table)
        taken = jnp.arange(num_steps)[:, None] < progress.time
        return jnp.any(taken & progress.steps, axis=0), missing

    return (
        jax.jit(jax.vmap(loop.init, in_axes=(0, None))),
        jax.jit(jax.vmap(loop.segment, in_axes=(0, None, None))),
        jax.jit(jax.vmap(evaluate, in_axes=(0, 0, None))),
    )


def keys(*seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.array(seeds))


def train(name: str, table: tables.PriorTable, seeds: jax.Array, segments: int):
    init, segment, _ = compiled(name)
    state = init(seeds, table)
    for number in range(segments):
        state, metrics, missing = segment(state, table, jnp.int32(number * ITERATIONS))
    return state, metrics, missing


@pytest.fixture(scope="module")
def prior_run():
    """DQN-Prior on the lock with a prior that opens it in 4% of episodes."""
    return train("dqn_prior", lock_table(0.67), keys(0, 1), segments=8)


def success(name: str, state) -> np.ndarray:
    succeeds, missing = compiled(name)[2](state.agent, keys(7, 8), lock_table(0.67))
    assert not missing.is_missing.any()
    return np.asarray(succeeds.mean(axis=1))


def test_dqn_prior_opens_the_lock(prior_run):
    assert (success("dqn_prior", prior_run[0]) > 0.95).all()


def test_dqn_does_not_open_it_in_the_same_steps():
    state, _, _ = train("dqn", lock_table(0.67), keys(0, 1), segments=8)
    assert (success("dqn", state) < 0.05).all()


def test_the_prior_alone_opens_it_as_often_as_its_probabilities_say():
    init, _, evaluate = compiled("prior")
    table = lock_table(0.9)
    state = init(keys(*range(16)), table)
    succeeds, _ = evaluate(state.agent, keys(*range(16)), table)
    expected = 0.9**LENGTH
    # 1,024 episodes: five standard errors are 0.08.
    assert abs(float(succeeds.mean()) - expected) < 0.08


def test_every_step_is_committed_when_all_states_are_known(prior_run):
    _, metrics, missing = prior_run
    assert metrics["committed"].tolist() == [ITERATIONS * CONFIG.num_envs] * 2
    assert not missing.is_missing.any()


def test_a_seed_meets_the_same_alone_and_beside_others():
    table = lock_table(0.67)
    alone, _, _ = train("prior", table, keys(1), segments=1)
    together, _, _ = train("prior", table, keys(0, 1), segments=1)
    for left, right in zip(
        jax.tree.leaves(alone.replay.experience),
        jax.tree.leaves(together.replay.experience),
        strict=True,
    ):
        np.testing.assert_array_equal(left[0], right[1])


def test_the_same_seed_gives_the_same_bits(prior_run):
    again, _, _ = train("dqn_prior", lock_table(0.67), keys(0, 1), segments=8)
    for left, right in zip(
        jax.tree.leaves(again.agent), jax.tree.leaves(prior_run[0].agent), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_environments_stall_before_a_state_that_is_not_in_the_table():
    known = np.arange(2, dtype=np.int32)
    state, metrics, missing = train("dqn_prior", lock_table(0.9, known), keys(0), segments=1)
    assert missing.is_missing.all(), "every environment must have met wheel 2"
    assert missing.observation.tolist() == [[2] * CONFIG.num_envs]
    assert (state.envs.observation < 2).all(), "a step into an unknown state was committed"
    weights = state.replay.experience.weight[0, 0, : ITERATIONS * CONFIG.num_envs]
    assert float(weights.sum()) == float(metrics["committed"][0])


def test_a_stalled_environment_takes_the_very_step_it_stalled_before():
    init, segment, _ = compiled("prior")
    known = lock_table(0.9, np.arange(2, dtype=np.int32))
    stalled, _, missing = segment(init(keys(0), known), known, jnp.int32(0))
    assert missing.is_missing.all()
    assert (stalled.envs.action == RIGHT[1]).all(), "only the right action leads to wheel 2"
    again, metrics, _ = segment(stalled, known, jnp.int32(0))
    assert metrics["committed"][0] == 0, "a step into an unknown state was given up for another"
    for left, right in zip(jax.tree.leaves(again.envs), jax.tree.leaves(stalled.envs), strict=True):
        assert (left == right).all(), "an environment moved while it was stalled"
    more = tables.insert(known, np.array([2], np.int32), prior_of(np.array([2]), 0.9))
    gone_on, metrics, _ = segment(stalled, more, jnp.int32(0))
    taken = gone_on.replay.experience
    first = int(stalled.replay.current_index[0])
    rows = slice(first, first + CONFIG.num_envs)
    assert metrics["committed"][0] > 0
    assert (taken.next_row[0, 0, rows] == 2).all(), "the first step must be the one kept"
    assert (taken.weight[0, 0, rows] == 1).all()


def test_a_table_that_starts_empty_is_filled_as_states_are_met():
    init, segment, evaluate = compiled("dqn_prior")
    table = tables.empty(np.int32(0), len(prior_of(RIGHT[:1], 0.9).log_probs[0]), 32)
    seeds = keys(0, 1)
    state = init(seeds, table)
    for number in range(20):
        state, _, missing = segment(state, table, jnp.int32(number * ITERATIONS))
        met = np.unique(np.asarray(missing.observation)[np.asarray(missing.is_missing)])
        if met.size:
            table = tables.insert(table, met, prior_of(met, 0.67))
    assert int(table.size) == LENGTH
    succeeds, missing = evaluate(state.agent, seeds, table)
    assert not missing.is_missing.any()
    assert (np.asarray(succeeds.mean(axis=1)) > 0.9).all()


def test_evaluation_reports_states_that_are_missing():
    init, _, evaluate = compiled("prior")
    known = lock_table(0.9, np.arange(3, dtype=np.int32))
    state = init(keys(0), known)
    _, missing = evaluate(state.agent, keys(0), known)
    met = np.asarray(missing.observation)[np.asarray(missing.is_missing)]
    assert set(met) == {3}
