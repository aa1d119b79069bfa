"""The history wrapper on environments that need nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

from llmprior_jax import envs
from llmprior_jax.envs.base import TextEnvironment

_KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def kitchen():
    return envs.make("Overcooked-TomatoSalad")


def _episode(env, params, actions):
    """Every observation of an episode, and the state at its end."""
    observation, state = env.reset(_KEY, params)
    observations = [observation]
    for action in actions:
        observation, state, *_ = env.step(_KEY, state, action, params)
        observations.append(observation)
    return observations, state


@pytest.mark.parametrize("length", [1, 3])
def test_text_tells_the_last_pairs_oldest_first(kitchen, length):
    env, params = kitchen
    actions = [0, 2, 4, 1]
    bare, _ = _episode(env, params, actions)
    texts = [env.text_state(observation) for observation in bare]
    pairs = [
        (text.observation, text.actions[action])
        for text, action in zip(texts, actions, strict=False)
    ]
    wrapped = envs.with_history(env, length)
    observations, _ = _episode(wrapped, params, actions)
    for time, observation in enumerate(observations):
        expected = texts[time]._replace(history=tuple(pairs[max(0, time - length) : time]))
        assert wrapped.text_state(observation) == expected


def test_dynamics_rewards_and_admissible_actions_stay_as_they_are(kitchen):
    env, params = kitchen
    wrapped = envs.with_history(env, 2)
    _, state = env.reset(_KEY, params)
    _, with_past = wrapped.reset(_KEY, params)
    for time, action in enumerate([0, 2, 4, 0, 1, 3]):
        key = jax.random.fold_in(_KEY, time)
        _, state, *ours, info = env.step(key, state, action, params)
        _, with_past, *theirs, info_with_past = wrapped.step(key, with_past, action, params)
        assert [float(x) for x in ours] == [float(x) for x in theirs]
        assert bool(info["success"]) == bool(info_with_past["success"])
        np.testing.assert_array_equal(
            env.action_mask(state, params), wrapped.action_mask(with_past, params)
        )
    jax.tree.map(np.testing.assert_array_equal, with_past.env_state, state)


def test_a_new_episode_begins_without_a_past():
    env, params = envs.make("FrozenLake-4x4", is_slippery=False)
    params = params.replace(max_steps_in_episode=2)
    wrapped = envs.with_history(env, 3)
    _, state = wrapped.reset(_KEY, params)
    _, state, _, _, truncated, _ = wrapped.step(_KEY, state, 2, params)
    assert not truncated
    observation, state, _, terminated, truncated, info = wrapped.step(_KEY, state, 2, params)
    assert truncated
    assert not terminated
    assert wrapped.text_state(observation).history == ()
    assert len(wrapped.text_state(info["final_observation"]).history) == 2


def test_different_pasts_are_different_observations():
    env, params = envs.make("FrozenLake-4x4", is_slippery=False)
    wrapped = envs.with_history(env, 2)
    one, _ = _episode(wrapped, params, [2, 0])
    other, _ = _episode(wrapped, params, [1, 3])
    assert (np.asarray(one[0]) == other[0]).all()
    assert (np.asarray(one[-1]) != other[-1]).any()


def test_it_jits_vmaps_and_keeps_to_its_space(kitchen):
    env, params = kitchen
    wrapped = envs.with_history(env, 2)
    keys = jax.random.split(_KEY, 4)
    observations, states = jax.vmap(wrapped.reset, in_axes=(0, None))(keys, params)
    observations, *_ = jax.vmap(wrapped.step, in_axes=(0, 0, 0, None))(
        keys, states, jnp.arange(4), params
    )
    space = wrapped.observation_space(params)
    assert observations.shape == (4, *space.shape)
    assert observations.dtype == space.dtype
    assert wrapped.num_actions == env.num_actions
    assert wrapped.name == env.name
    assert wrapped.list_observations() is None


class _Camera(TextEnvironment):
    """Observes what no table can be keyed by."""

    def reset_env(self, key, params):
        return jax.random.uniform(key, (2,)), None

    def observation_space(self, params=None):
        return spaces.Box(0, 1, (2,), jnp.float32)


def test_a_history_of_what_is_no_integers_is_refused():
    with pytest.raises(ValueError, match=r"one array of int32; _Camera observes.*float32"):
        envs.with_history(_Camera(), 2)


@pytest.mark.parametrize("length", [0, -1])
def test_a_history_without_length_is_refused(kitchen, length):
    with pytest.raises(ValueError, match=f"length of a history is {length}; use a"):
        envs.with_history(kitchen[0], length)


@pytest.mark.parametrize(
    "change", [lambda o: o[:-1], lambda o: o.astype(np.float32), lambda o: o[None]]
)
def test_what_is_no_observation_is_not_put_into_words(kitchen, change):
    wrapped = envs.with_history(kitchen[0], 2)
    observation, _ = wrapped.reset(_KEY, kitchen[1])
    with pytest.raises(ValueError, match=r"with a history of 2 observes i32\[\d+\]; got"):
        wrapped.text_state(change(np.asarray(observation)))
