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


def make_agent(name: str) -> agents.Agent:
    fields = {"alpha": 0.02, "learning_rate": 3e-3}
    if name == "trusting":
        return agents.dqn_prior(trust=agents.trust.by_episodes(), **fields)
    if name == "keeping":
        return agents.dqn_prior(num_candidates=3, keep_candidates=True, epsilon=0.3, **fields)
    return agents.make(name, **fields)


@functools.cache
def compiled(name: str):
    """The loop of one agent, jitted over seeds: (init, segment, evaluate)."""
    env = Lock()
    params = env.default_params
    num_steps = params.max_steps_in_episode
    agent = make_agent(name)
    actor = ValueActor(agent)
    loop = make_loop(env, params, agent, CONFIG, axis_name="seeds")
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
        jax.jit(jax.vmap(loop.segment, in_axes=(0, None, None), axis_name="seeds")),
        jax.jit(jax.vmap(evaluate, in_axes=(0, 0, None))),
    )


def keys(*seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.array(seeds))


def train(name: str, table: tables.PriorTable, seeds: jax.Array, segments: int):
    init, segment, _ = compiled(name)
    state = init(seeds, table)
    return segment(state, table, jnp.int32(segments * ITERATIONS))


def train_without_a_list(name: str, seeds: jax.Array, segments: int, chance: float = 0.67):
    """As `train`, with a table that is filled as states are met; and the table."""
    init, segment, _ = compiled(name)
    table = tables.empty(np.int32(0), *prior_of(RIGHT[:1], chance).features.shape[1:])
    state, is_missing = init(seeds, table), True
    while is_missing:
        state, _, missing = segment(state, table, jnp.int32(segments * ITERATIONS))
        met = np.unique(np.asarray(missing.observation)[np.asarray(missing.is_missing)])
        is_missing = met.size > 0
        if is_missing:
            table = tables.insert(table, met, prior_of(met, chance))
    return state, table


def known_apart_from(wheel: int) -> tables.PriorTable:
    return lock_table(0.9, np.array([row for row in range(LENGTH) if row != wheel], np.int32))


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


def test_all_iterations_are_done_when_all_states_are_known(prior_run):
    state, metrics, missing = prior_run
    assert state.iteration.tolist() == [8 * ITERATIONS] * 2
    assert not missing.is_missing.any()
    assert metrics["learned"].tolist() == [8 * ITERATIONS - CONFIG.warmup_steps] * 2


def test_a_seed_meets_the_same_alone_and_beside_others():
    table = lock_table(0.67)
    alone, _, _ = train("prior", table, keys(1), segments=1)
    together, _, _ = train("prior", table, keys(0, 1), segments=1)
    for left, right in zip(
        jax.tree.leaves(alone.replay.entries),
        jax.tree.leaves(together.replay.entries),
        strict=True,
    ):
        np.testing.assert_array_equal(left[0], right[1])


def test_the_same_seed_gives_the_same_bits(prior_run):
    again, _, _ = train("dqn_prior", lock_table(0.67), keys(0, 1), segments=8)
    for left, right in zip(
        jax.tree.leaves(again.agent), jax.tree.leaves(prior_run[0].agent), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["dqn_prior", "trusting", "keeping"])
def test_states_that_are_met_one_by_one_leave_no_trace_in_what_is_learned(name):
    """Rows are numbered as they are met, and nothing else differs."""
    listed, _, _ = train(name, lock_table(0.67), keys(0, 1), segments=3)
    hidden, table = train_without_a_list(name, keys(0, 1), segments=3)
    rows = np.asarray(table.observations)
    for left, right in zip(
        jax.tree.leaves(listed.agent), jax.tree.leaves(hidden.agent), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    entries, found = listed.replay.entries, hidden.replay.entries
    assert (listed.replay.added == 3 * ITERATIONS * CONFIG.num_envs).all()
    assert (hidden.replay.added == listed.replay.added).all()
    np.testing.assert_array_equal(entries.action, found.action)
    np.testing.assert_array_equal(entries.row, rows[np.asarray(found.row)])


@pytest.mark.long
def test_what_a_seed_learns_does_not_depend_on_what_others_meet():
    alone, _ = train_without_a_list("dqn_prior", keys(1), segments=3)
    beside, _ = train_without_a_list("dqn_prior", keys(0, 1, 2), segments=3)
    for left, right in zip(
        jax.tree.leaves(alone.agent), jax.tree.leaves(beside.agent), strict=True
    ):
        np.testing.assert_allclose(left[0], right[1], rtol=1e-4, atol=1e-5)


def test_no_update_is_computed_where_no_seed_can_learn():
    env, computed = Lock(), []
    agent = make_agent("dqn_prior")
    update = agent.update

    def counted(state, key, batch):
        jax.debug.callback(lambda loss: computed.append(float(loss)), batch.reward[0])
        return update(state, key, batch)

    loop = make_loop(env, env.default_params, agent._replace(update=counted), CONFIG, axis_name="s")
    segment = jax.jit(jax.vmap(loop.segment, in_axes=(0, None, None), axis_name="s"))
    known, lacking = lock_table(0.9), known_apart_from(2)
    state = jax.vmap(loop.init, in_axes=(0, None))(keys(0, 1), known)

    def computed_until(table, until: int) -> int:
        nonlocal state
        computed.clear()
        state, _, _ = jax.block_until_ready(segment(state, table, jnp.int32(until)))
        jax.effects_barrier()
        return len(computed)

    assert computed_until(known, CONFIG.warmup_steps) == 0
    assert computed_until(known, CONFIG.warmup_steps + 3) == 2 * 3
    computed_until(lacking, ITERATIONS)
    assert np.all(state.iteration < ITERATIONS), "no seed met what the table lacks"
    assert computed_until(lacking, ITERATIONS) == 0


def test_a_seed_stops_before_a_step_into_a_state_that_is_not_in_the_table():
    table = known_apart_from(2)
    state, _, missing = train("dqn_prior", table, keys(0, 1), segments=1)
    met = np.asarray(missing.observation)[np.asarray(missing.is_missing)]
    assert set(met) == {2}
    assert (state.iteration < ITERATIONS).all()
    assert (state.envs.observation != 2).all(), "a step into an unknown state was taken"
    taken = state.iteration * CONFIG.num_envs
    np.testing.assert_array_equal(state.replay.added, taken)


def test_a_seed_that_stopped_goes_on_with_the_very_step_it_stopped_before():
    init, segment, _ = compiled("prior")
    table = known_apart_from(2)
    stopped, _, missing = segment(init(keys(0), table), table, jnp.int32(ITERATIONS))
    again, _, still_missing = segment(stopped, table, jnp.int32(ITERATIONS))
    for left, right in zip(jax.tree.leaves(again), jax.tree.leaves(stopped), strict=True):
        assert (left == right).all(), "something changed while nothing could be done"
    np.testing.assert_array_equal(missing.is_missing, still_missing.is_missing)
    whole = lock_table(0.9)
    gone_on, _, _ = segment(stopped, whole, stopped.iteration[0] + 1)
    reached = np.asarray(gone_on.replay.entries.next_row)[0]
    first = int(stopped.replay.added[0])
    expected = np.asarray(missing.is_missing)[0, : CONFIG.num_envs]
    np.testing.assert_array_equal(reached[first : first + CONFIG.num_envs] == 2, expected)


def test_seeds_go_on_as_far_as_each_of_them_can():
    """One seed cannot begin; the other does all that is to be done."""
    init, segment, _ = compiled("prior")
    state = init(keys(0, 1), lock_table(0.9))
    elsewhere = state.envs._replace(observation=state.envs.observation.at[0].set(LENGTH + 1))
    state, _, missing = segment(
        state._replace(envs=elsewhere), lock_table(0.9), jnp.int32(ITERATIONS)
    )
    assert state.iteration.tolist() == [0, ITERATIONS]
    assert missing.is_missing.any(axis=1).tolist() == [True, False]


def test_evaluation_reports_states_that_are_missing():
    init, _, evaluate = compiled("prior")
    known = lock_table(0.9, np.arange(3, dtype=np.int32))
    state = init(keys(0), known)
    _, missing = evaluate(state.agent, keys(0), known)
    met = np.asarray(missing.observation)[np.asarray(missing.is_missing)]
    assert set(met) == {3}


def test_a_replay_without_room_for_a_step_is_refused():
    sizes = LoopSettings(num_envs=8, replay_capacity=4)
    with pytest.raises(ValueError, match="replay_capacity is 4, and 8 environments"):
        make_loop(Lock(), Lock().default_params, agents.make("dqn_prior"), sizes)
