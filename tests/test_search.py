"""Search: what is found is what is known by hand, and what is not known is not made up."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import environment
from lock_env import LENGTH, NUM_ACTIONS, RIGHT, Lock, LockState, lock_table

from llmprior_jax import agents, settings, training
from llmprior_jax.agents.agent import uniform_log_probs
from llmprior_jax.agents.search_prior import Sight, World, search
from llmprior_jax.play.search import SearchActor, make_world
from llmprior_jax.play.stepping import Place
from llmprior_jax.training import build

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 8)
ALPHA, DISCOUNT = 0.03, 0.5
HOW = {"simulations": 16, "rollout_steps": 4, "discount": DISCOUNT}


class Small(NamedTuple):
    """A world in tables: of each state and each of three actions, what comes of it."""

    next_state: Any
    reward: Any
    ends: Any
    prior: Any
    q_values: Any
    is_known: Any


def small(next_state, reward, ends=False, prior=1 / 3, q_values=0.0, is_known=True) -> Small:
    """A small world, what is the same everywhere given once.

    All have the same shape, so that they share compiled programs: some states are never reached.
    """
    shape = (3, 3)

    def fill(values, kind):
        values = np.asarray(values, kind)
        if values.ndim == 2:
            values = np.concatenate([values, np.repeat(values[-1:], 3 - len(values), axis=0)])
        return np.broadcast_to(values, shape)

    known = np.resize(np.asarray(is_known), 3)
    next_states = np.asarray(next_state)[:, None]
    return Small(
        fill(next_states, np.int32),
        fill(reward, np.float32),
        fill(ends, bool),
        fill(prior, np.float32),
        fill(q_values, np.float32),
        known,
    )


@functools.partial(jax.jit, static_argnames=("how", "has_values"))
def found_in(world: Small, keys, how: agents.Search, has_values=False):
    """What searches from state 0 find, one for each key."""

    def step(key, state, action):
        del key
        return (each[state, action] for each in (world.next_state, world.reward, world.ends))

    def see(state):
        log_probs = jnp.log(world.prior[state])
        return Sight(log_probs, world.q_values[state], world.is_known[state])

    in_world = World(step, see, jnp.float32(ALPHA), has_values)
    return jax.vmap(lambda key: search(key, how, in_world, jnp.int32(0)))(keys)


GUMBEL = agents.with_search(agents.prior_alone(), **HOW).search
PUCT = GUMBEL._replace(tree_policy="puct")
# Action 0 pays 0.3 and ends; action 1 pays when it is taken twice.
PATIENCE = small(
    [1, 1],
    reward=[[0.3, 0.0, 0.0], [0.3, 5.0, 0.0]],
    ends=[[True, False, True], [True, True, True]],
    prior=[0.8, 0.15, 0.05],
)


def test_what_pays_later_is_found_where_the_prior_is_impatient():
    found = found_in(PATIENCE, KEYS, GUMBEL)
    assert set(np.asarray(found.action).tolist()) == {1}


def test_an_action_that_ends_the_episode_is_worth_its_reward_and_no_more():
    found = found_in(PATIENCE, KEYS, GUMBEL)
    np.testing.assert_allclose(found.q_values[:, 0], 0.3, rtol=1e-6)
    assert (found.q_values[:, 1] <= DISCOUNT * 5).all()
    assert (found.q_values[:, 1] > 0.3).all()


def test_puct_takes_what_pays_most_where_the_prior_does_not_mind():
    world = small([0], reward=[0.1, 0.9, 0.5], ends=True)
    found = found_in(world, KEYS, PUCT)
    assert set(np.asarray(jnp.argmax(found.visits, -1)).tolist()) == {1}


@pytest.mark.parametrize("how", [GUMBEL, PUCT], ids=["gumbel", "puct"])
def test_what_is_no_action_is_never_tried_at_any_depth(how):
    world = small([0], reward=[0.1, 0.1, 100.0], prior=[0.7, 0.3, 0.0])
    found = found_in(world, KEYS, how)
    assert int(found.action.max()) < 2
    assert int(found.visits[:, 2].max()) == 0
    # At most 0.1 in each step, for ever.
    assert float(found.q_values[:, :2].max()) <= 0.2 + 1e-6
    assert np.isneginf(np.asarray(found.log_probs)[:, 2]).all()


def test_without_values_a_leaf_is_worth_the_rewards_of_its_rollout():
    world = small([1, 2, 2], reward=1.0, ends=[[False], [False], [True]])
    found = found_in(world, KEYS, GUMBEL)
    np.testing.assert_allclose(found.q_values, 1 + 0.5 + 0.25)


def test_with_values_a_rollout_ends_in_the_soft_value():
    prior, q_values = np.array([0.2, 0.3, 0.5]), np.array([0.1, 0.12, 0.13])
    soft = ALPHA * np.log(np.sum(prior * np.exp(q_values / ALPHA)))
    # What state 1 pays in each step is such that it is worth the same at any depth.
    world = small(
        [1, 1],
        reward=[[1.0], [(1 - DISCOUNT) * soft]],
        prior=prior,
        q_values=q_values,
    )
    found = found_in(world, KEYS, GUMBEL, has_values=True)
    np.testing.assert_allclose(found.q_values, 1 + DISCOUNT * soft, rtol=1e-5)


def test_in_states_that_nobody_knows_q_stays_as_the_agent_has_it():
    q_values = [[0.3, 0.4, 0.5], [9.0, 9.0, 9.0]]
    world = small([1, 1], 0.0, q_values=q_values, is_known=[True, False])
    found = found_in(world, KEYS, GUMBEL, has_values=True)
    assert int(found.visits.sum(0).min()) > 0
    np.testing.assert_allclose(found.q_values, np.tile(q_values[0], (len(KEYS), 1)), rtol=1e-5)


def test_what_a_search_finds_does_not_depend_on_who_searches_beside_it():
    one = found_in(PATIENCE, KEYS, GUMBEL)
    other = found_in(PATIENCE, KEYS[::-1], GUMBEL)
    jax.tree.map(lambda left, right: np.testing.assert_array_equal(left, right[::-1]), one, other)


def test_the_same_key_finds_the_same_and_another_may_not():
    world = small([1, 1], [[0.0], [1.0]], ends=[[False] * 3, [True, False, False]])
    found = found_in(world, KEYS[jnp.array([0, 0, 1, 2, 3, 4, 5, 6])], GUMBEL)
    np.testing.assert_array_equal(found.q_values[0], found.q_values[1])
    assert not np.array_equal(found.q_values[1], found.q_values[2])


def place_at(wheel: int, time: int = 0) -> Place:
    return Place(LockState(time=jnp.int32(time), wheel=jnp.int32(wheel)), jnp.int32(wheel))


def lock_world(agent, table, state=()):
    env = Lock()
    return make_world(env, env.default_params, agent, state, table)


def test_a_state_that_the_table_lacks_has_a_uniform_prior_and_no_other_states():
    agent = agents.with_search(agents.prior_alone())
    world = lock_world(agent, lock_table(0.9, np.array([0, 1], np.int32)))
    known, unknown = world.see(place_at(1)), world.see(place_at(2))
    assert bool(known.is_known)
    assert not bool(unknown.is_known)
    assert float(known.log_probs[RIGHT[1]]) == pytest.approx(np.log(0.9))
    np.testing.assert_allclose(unknown.log_probs, np.full(NUM_ACTIONS, -np.log(NUM_ACTIONS)))


def test_an_agent_with_another_prior_searches_by_that():
    agent = agents.with_search(agents.with_uniform_prior(agents.prior_alone()))
    table = lock_table(0.9)
    seen = lock_world(agent, table).see(place_at(1)).log_probs
    np.testing.assert_allclose(seen, uniform_log_probs(table.log_probs[1]))


def test_a_time_limit_is_no_end_of_what_is_searched():
    env = Lock()
    params = environment.EnvParams(max_steps_in_episode=1)
    agent = agents.with_search(agents.prior_alone())
    world = make_world(env, params, agent, (), lock_table(0.9))
    place = place_at(LENGTH - 2, time=1)
    assert bool(env.is_truncated(place.state, params))
    for _ in range(2):
        assert int(place.state.wheel) < LENGTH
        place, reward, terminated = world.step(KEY, place, RIGHT[int(place.state.wheel)])
    assert (float(reward), bool(terminated)) == (1.0, True)


def test_search_opens_a_lock_that_its_prior_does_not():
    env, table = Lock(), lock_table(0.4)
    agent = agents.greedy(agents.with_search(agents.prior_alone(), simulations=32))
    actor = SearchActor(agent, env, env.default_params)
    decide = jax.jit(actor.decide)
    for wheel, key in enumerate(jax.random.split(KEY, LENGTH)):
        policy, action = decide((), (), table, place_at(wheel), key)
        assert int(action) == RIGHT[wheel], wheel
        assert np.isfinite(policy.q_values).all()


def test_acting_by_a_prior_alone_is_refused_to_who_searches():
    env = Lock()
    actor = SearchActor(agents.with_search(agents.prior_alone()), env, env.default_params)
    with pytest.raises(ValueError, match="state of the environment"):
        actor.by_prior(())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"simulations": 0}, "simulations is 0; use a whole number from 1"),
        ({"simulations": 1.5}, "simulations is 1.5"),
        ({"rollout_steps": 0}, "rollout_steps is 0"),
        ({"tree_policy": "ucb"}, "tree_policy is 'ucb'; use one of gumbel, puct"),
        ({"discount": 2.0}, "discount is 2.0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
    ],
)
def test_what_no_search_can_have_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        agents.with_search(agents.prior_alone(), **given)


def test_who_cannot_search_is_named_with_what_would_do():
    searching = dataclasses.replace(
        settings.Settings(), search=settings.SearchSettings(simulations=8)
    )
    with pytest.raises(ValueError, match=r"gflan_prior is to search \(8 .* dqn_prior"):
        build.check_search("gflan_prior", searching)
    engine = settings.EnvironmentSettings(env=build.ENGINE)
    on_engine = dataclasses.replace(settings.Settings(), environment=engine)
    with pytest.raises(ValueError, match="search_prior is to search, and games on engines"):
        build.check_search("search_prior", on_engine)
    build.check_search("dqn_prior", on_engine)


@pytest.mark.long
def test_a_run_searches_while_it_learns_and_where_it_is_evaluated(tmp_path):
    config = training.default_config()
    config.env, config.agents = "FrozenLake-4x4", ("prior", "search_prior")
    config.num_seeds, config.eval_episodes, config.search.simulations = 2, 2, 2
    config.num_steps, config.eval_every = 16, 16
    config.loop.num_envs, config.loop.warmup_steps = 2, 1
    results = training.run(config, tmp_path)
    assert results["search_prior"]["success_rate"]["iqm"] >= 0
    run = training.restore(tmp_path, "prior", eval_episodes=2, search=3)
    assert run.evaluate()["success_rate"].shape == (2,)
    assert next(run.play(0, KEY)).q_values.shape == (4,)
    with pytest.raises(ValueError, match="search is 0"):
        training.restore(tmp_path, "prior", eval_episodes=2, search=0)
