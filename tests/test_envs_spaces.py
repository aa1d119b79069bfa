"""What environments say of their states, observations and actions holds in random play."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from llmprior_jax import envs

NUM_STEPS, NUM_ENVS = 300, 8
# The levels of BabyAI have all the same spaces, but for the size of the grid.
OTHERS = [name for name in envs.NAMES if not name.startswith("BabyAI-")]
EVERY = [*OTHERS, "BabyAI-GoToLocal", "ALFWorld"]


@functools.cache
def _play(name, games, history):
    """An environment, its parameters, and all states and observations of random play."""
    env, params = envs.make(name, **({"games": games} if games else {}))
    env = envs.with_history(env, history) if history else env

    @jax.jit
    @jax.vmap
    def play(key):
        observation, state = env.reset(key, params)
        state = jax.tree.map(jnp.asarray, state)

        def advance(state, key):
            key_action, key_step = jax.random.split(key)
            action = env.action_space(params).sample(key_action)
            observation, state, *_, info = env.step(key_step, state, action, params)
            return state, (state, observation, info["final_observation"])

        _, played = jax.lax.scan(advance, state, jax.random.split(key, NUM_STEPS))
        return (state, observation), played

    return env, params, jax.device_get(play(jax.random.split(jax.random.key(0), NUM_ENVS)))


@pytest.fixture
def played(request):
    name, history = request.param
    games = ()
    if name == "ALFWorld":
        data = request.getfixturevalue("alfworld_data")
        games = tuple(map(str, sorted(data.rglob("game.tw-pddl"))))
    return _play(name, games, history)


def _leaves(space, value, path=""):
    """The leaves of a space: path, space, and the part of a value that lies in it."""
    if not isinstance(space, spaces.Dict):
        return [(path, space, value)]
    assert set(space.spaces) == set(vars(value)), path
    return [
        leaf
        for name, inner in space.spaces.items()
        for leaf in _leaves(inner, getattr(value, name), f"{path}.{name}")
    ]


def _assert_contains(space, values, batch):
    for path, leaf, value in _leaves(space, values):
        assert value.shape == (*batch, *leaf.shape), path
        assert value.dtype == leaf.dtype, path
        inside = jax.vmap(leaf.contains)(value.reshape(-1, *leaf.shape))
        assert np.all(inside), path


each = pytest.mark.parametrize(
    "played",
    [(name, history) for name in EVERY for history in (0, 3)],
    indirect=True,
    ids=lambda case: f"{case[0]}-{case[1]}",
)


@each
def test_states_lie_in_the_state_space(played):
    env, params, ((first, _), (states, _, _)) = played
    space = env.state_space(params)
    _assert_contains(space, first, (NUM_ENVS,))
    _assert_contains(space, states, (NUM_ENVS, NUM_STEPS))
    last = jax.tree.map(lambda leaf: leaf[0, -1], states)
    assert space.contains(last)


@each
def test_observations_lie_in_the_observation_space(played):
    env, params, ((_, first), (_, observations, last)) = played
    space = env.observation_space(params)
    _assert_contains(space, first, (NUM_ENVS,))
    _assert_contains(space, observations, (NUM_ENVS, NUM_STEPS))
    _assert_contains(space, last, (NUM_ENVS, NUM_STEPS))


@each
def test_the_action_space_has_every_action_and_no_other(played):
    env, params, _ = played
    space = env.action_space(params)
    inside = [bool(space.contains(action)) for action in range(-1, env.num_actions + 1)]
    assert inside == [False, *[True] * env.num_actions, False]


@pytest.mark.parametrize(
    ("played", "field", "value"),
    [
        (("FrozenLake-4x4", 0), "position", 16),
        (("Overcooked-TomatoSalad", 0), "tile", 25),
        # Two things, a board and the serving counter; then the cook's hands, then the bowl.
        (("Overcooked-TomatoSalad", 0), "place", 6),
        (("ALFWorld", 0), "verb", 16),
        # The last bit of the last word is of no object, but for none.
        (("ALFWorld", 0), "contents", 1 << 31),
        (("ALFWorld", 0), "opened", 1 << 31),
        (("FrozenLake-4x4", 3), "action", 4),
        (("BabyAI-GoToLocal", 0), "cells", 1 << 10),
        (("BabyAI-GoToLocal", 0), "mission", 7),
    ],
    indirect=["played"],
)
def test_what_is_no_state_lies_outside(played, field, value):
    env, params, ((first, _), _) = played
    state = jax.tree.map(lambda leaf: leaf[0], first)
    spoiled = state.replace(**{field: np.full_like(getattr(state, field), value)})
    assert env.state_space(params).contains(state)
    assert not env.state_space(params).contains(spoiled)
