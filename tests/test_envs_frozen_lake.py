"""Frozen Lake: gymnax's dynamics under our name, and the text of a position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.misc import frozen_lake

from llmprior_jax import envs

LEFT, DOWN, RIGHT, UP = range(4)
_make = functools.cache(envs.make)


def _rollout(env, params, num_steps=300):
    """Steps `env` with random actions, one environment, from fixed keys."""

    @jax.jit
    def run(key):
        _, state = env.reset(key, params)

        def advance(state, key):
            action = jax.random.randint(key, (), 0, 4)
            observation, state, reward, terminated, truncated, info = env.step(
                key, state, action, params
            )
            return state, (observation, reward, terminated, truncated, info)

        state = jax.tree.map(jnp.asarray, state)
        return jax.lax.scan(advance, state, jax.random.split(key, num_steps))[1]

    return jax.device_get(run(jax.random.key(0)))


@pytest.mark.parametrize(("size", "is_slippery"), [("4x4", False), ("8x8", True)])
def test_dynamics_are_gymnax_s(size, is_slippery):
    ours, params = _make(f"FrozenLake-{size}", is_slippery=is_slippery)
    theirs = frozen_lake.FrozenLake(map_name=size, is_slippery=is_slippery)
    *our_steps, our_info = _rollout(ours, params)
    *their_steps, their_info = _rollout(theirs, theirs.default_params)
    jax.tree.map(np.testing.assert_array_equal, our_steps, their_steps)
    for name in their_info:
        np.testing.assert_array_equal(our_info[name], their_info[name])


def test_lakes_are_slippery_unless_asked_otherwise():
    assert _make("FrozenLake-4x4")[0].is_slippery
    assert not _make("FrozenLake-4x4", is_slippery=False)[0].is_slippery


@pytest.mark.parametrize(("size", "limit"), [("4x4", 100), ("8x8", 200)])
def test_time_limits_are_gymnasium_s(size, limit):
    assert _make(f"FrozenLake-{size}")[1].max_steps_in_episode == limit


def _walk(actions, max_steps=100):
    env, params = _make("FrozenLake-4x4", is_slippery=False)
    params = params.replace(max_steps_in_episode=max_steps)
    key = jax.random.key(0)
    _, state = env.reset(key, params)
    for action in actions:
        observation, state, _, terminated, truncated, info = env.step(key, state, action, params)
    return observation, terminated, truncated, info


def test_the_goal_is_a_success():
    observation, terminated, truncated, info = _walk([DOWN, DOWN, RIGHT, RIGHT, DOWN, RIGHT])
    assert info["success"]
    assert terminated
    assert not truncated
    assert observation == 0  # the next episode
    assert info["final_observation"] == 15


def test_a_hole_is_no_success():
    *_, info = _walk([DOWN, RIGHT])
    assert info["terminated"]
    assert not info["success"]


def test_the_time_limit_truncates_only():
    observation, terminated, truncated, info = _walk([DOWN, DOWN], max_steps=2)
    assert truncated
    assert not terminated
    assert not info["success"]
    assert observation == 0
    assert info["final_observation"] == 8


def test_without_jit_a_step_is_the_same():
    env, params = _make("FrozenLake-4x4", is_slippery=False)
    key = jax.random.key(3)
    _, state = env.reset(key, params)
    jitted = env.step(key, state, DOWN, params)
    with jax.disable_jit():
        plain = env.step(key, state, DOWN, params)
    jax.tree.map(np.testing.assert_array_equal, jitted, plain)


@pytest.mark.parametrize(
    ("position", "text"),
    [
        # SFFF / FHFH / FFFH / HFFG
        (
            0,
            "You stand on ice. Left is the edge, down is ice, right is ice, up is the edge. "
            "The goal is 3 steps down and 3 steps right.",
        ),
        (
            6,
            "You stand on ice. Left is a hole, down is ice, right is a hole, up is ice. "
            "The goal is 2 steps down and 1 step right.",
        ),
        (
            14,
            "You stand on ice. Left is ice, down is the edge, right is the goal, up is ice. "
            "The goal is 1 step right.",
        ),
        (5, "You fell into a hole."),
        (15, "You are at the goal."),
    ],
)
def test_text_of_a_position(position, text):
    env, _ = _make("FrozenLake-4x4")
    assert env.text_state(np.int32(position)).observation == text


def test_actions_are_told_in_gymnax_s_order():
    env, _ = _make("FrozenLake-4x4")
    assert env.text_state(0).actions == ("go left", "go down", "go right", "go up")


@pytest.mark.parametrize("size", ["4x4", "8x8"])
def test_every_position_but_the_holes_has_its_own_text(size):
    env, _ = _make(f"FrozenLake-{size}")
    positions = env.list_observations()
    assert positions.shape == (env.n_states,)
    tiles = np.asarray(env.desc).ravel()
    texts = [env.text_state(p).observation for p in positions if tiles[p] != frozen_lake.HOLE]
    assert len(set(texts)) == len(texts)


def test_every_action_is_admissible():
    env, params = _make("FrozenLake-4x4")
    _, state = env.reset(jax.random.key(0), params)
    np.testing.assert_array_equal(env.action_mask(state, params), [True] * 4)


@pytest.mark.parametrize("position", [16, -1, np.zeros(1, np.int32)])
def test_what_is_no_position_is_refused(position):
    env, _ = _make("FrozenLake-4x4")
    with pytest.raises(ValueError, match=r"one integer in 0\.\.15"):
        env.text_state(position)
