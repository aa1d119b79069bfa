"""Overcooked against episodes recorded from the original, by hand, and as a gymnax environment."""

import functools
import gzip
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprior_jax import envs

_GOLDEN = pathlib.Path(__file__).parent / "golden"
_RECORDINGS = {
    "Overcooked-TomatoSalad": "overcooked_tomato_salad.jsonl.gz",
    "Overcooked-TomatoLettuceSalad": "overcooked_tomato_lettuce_salad.jsonl.gz",
}
_KEY = jax.random.key(0)
_make = functools.cache(envs.make)  # an environment's jitted functions are compiled once, then

# Actions of Overcooked-TomatoSalad.
GET_TOMATO, GET_BOWL, TO_BOARD, SERVE, CHOP = range(5)


class Kitchen(NamedTuple):
    """An environment, its recording, and the recording replayed in it."""

    env: envs.TextEnvironment
    params: object
    header: dict
    episodes: list[dict]
    replay: dict[str, np.ndarray]  # each [N, T, ...]; rows t < len(actions) of an episode count


def _pad(episodes, field, length):
    return np.array([episode[field] + [0] * (length - len(episode[field])) for episode in episodes])


@pytest.fixture(scope="module", params=_RECORDINGS, ids=lambda name: name.split("-")[1])
def kitchen(request):
    with gzip.open(_GOLDEN / _RECORDINGS[request.param], "rt") as file:
        header, *episodes = map(json.loads, file)
    env, params = _make(request.param)

    @jax.jit
    def replay(actions):  # [N, T]
        _, states = jax.vmap(env.reset, in_axes=(0, None))(
            jax.random.split(_KEY, actions.shape[0]), params
        )

        def advance(states, actions):
            observation, states, reward, terminated, truncated, info = jax.vmap(
                env.step, in_axes=(None, 0, 0, None)
            )(_KEY, states, actions, params)
            return states, {
                "next_observation": observation,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                **info,
            }

        _, steps = jax.lax.scan(advance, states, actions.T)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), steps)

    length = max(len(episode["actions"]) for episode in episodes)
    replayed = jax.device_get(replay(_pad(episodes, "actions", length)))
    return Kitchen(env, params, header, episodes, replayed)


def _each_episode(kitchen, field):
    """Yields each recorded episode with what the replay has for it, [T, ...]."""
    for episode, row in zip(kitchen.episodes, kitchen.replay[field], strict=True):
        yield episode, row[: len(episode["actions"])]


def test_replay_gives_recorded_observations(kitchen):
    first, _ = kitchen.env.reset(_KEY, kitchen.params)
    for episode, observations in _each_episode(kitchen, "final_observation"):
        np.testing.assert_array_equal([first, *observations], episode["obs"])


def test_replay_gives_recorded_rewards(kitchen):
    for episode, rewards in _each_episode(kitchen, "reward"):
        np.testing.assert_allclose(rewards, episode["rewards"], rtol=0, atol=1e-6)


def test_replay_gives_recorded_macro_action_steps(kitchen):
    for episode, steps in _each_episode(kitchen, "macro_action_steps"):
        np.testing.assert_array_equal(steps, episode["macro_action_steps"])


def test_replay_gives_recorded_dones(kitchen):
    done = kitchen.replay["terminated"] | kitchen.replay["truncated"]
    for episode, row in zip(kitchen.episodes, done, strict=True):
        np.testing.assert_array_equal(row[: len(episode["actions"])], episode["dones"])


def test_only_serving_the_dish_terminates(kitchen):
    # In the recording, only the delivery of the dish is worth more than a half.
    for episode, terminated in _each_episode(kitchen, "terminated"):
        np.testing.assert_array_equal(terminated, np.array(episode["rewards"]) > 0.5)
    np.testing.assert_array_equal(kitchen.replay["success"], kitchen.replay["terminated"])


def test_only_the_time_limit_truncates(kitchen):
    for episode, truncated in _each_episode(kitchen, "truncated"):
        time = np.cumsum(episode["macro_action_steps"])
        np.testing.assert_array_equal(truncated, time >= 200)


def test_rewards_are_those_of_the_recording_s_header(kitchen):
    recorded = kitchen.header["reward"]
    assert kitchen.params.step_reward == recorded["step penalty"]
    assert kitchen.params.chop_reward == recorded["subtask finished"]
    assert kitchen.params.serve_reward == recorded["correct delivery"]
    assert kitchen.params.wrong_serve_reward == recorded["wrong delivery"]


def _recorded_texts(kitchen):
    """Yields for each recorded state our text and the recorded ids of state and action texts."""
    texts = {}
    for episode in kitchen.episodes:
        for observation, text_id, action_ids in zip(
            episode["obs"], episode["text_id"], episode["action_id"], strict=True
        ):
            key = tuple(observation)
            if key not in texts:
                texts[key] = kitchen.env.text_state(np.array(observation))
            yield texts[key], text_id, action_ids


def test_states_share_a_text_exactly_where_the_recording_says(kitchen):
    pairs = {
        ((text.task, text.observation), text_id) for text, text_id, _ in _recorded_texts(kitchen)
    }
    assert len({text for text, _ in pairs}) == len(pairs) == len({text_id for _, text_id in pairs})
    assert len(pairs) == kitchen.header["num_text_ids"]


def test_actions_share_a_text_exactly_where_the_recording_says(kitchen):
    pairs = {
        pair
        for text, _, action_ids in _recorded_texts(kitchen)
        for pair in zip(text.actions, action_ids, strict=True)
    }
    assert len({text for text, _ in pairs}) == len(pairs) == len({text_id for _, text_id in pairs})
    assert len(pairs) == kitchen.header["num_action_ids"]


def test_listed_observations_contain_every_recorded_one(kitchen):
    listed = set(map(tuple, kitchen.env.list_observations().tolist()))
    recorded = {tuple(o) for episode in kitchen.episodes for o in episode["obs"]}
    assert recorded <= listed


def test_listed_observations_are_distinct_and_start_with_the_first(kitchen):
    listed = kitchen.env.list_observations()
    assert listed.dtype == np.int32
    assert len(np.unique(listed, axis=0)) == len(listed)
    first, _ = kitchen.env.reset(_KEY, kitchen.params)
    np.testing.assert_array_equal(listed[0], first)


def test_listed_observations_can_be_put_into_words(kitchen):
    for observation in kitchen.env.list_observations():
        text = kitchen.env.text_state(observation)
        assert len(text.actions) == kitchen.env.num_actions
        assert len(set(text.actions)) == len(text.actions)


def test_listing_again_gives_the_same_order(kitchen):
    again, _ = envs.make(kitchen.env.name)
    np.testing.assert_array_equal(again.list_observations(), kitchen.env.list_observations())


def test_an_ended_episode_starts_over(kitchen):
    first, _ = kitchen.env.reset(_KEY, kitchen.params)
    ended = kitchen.replay["terminated"] | kitchen.replay["truncated"]
    assert ended.any()
    next_observations = kitchen.replay["next_observation"]
    np.testing.assert_array_equal(
        next_observations[ended], np.broadcast_to(first, next_observations[ended].shape)
    )
    np.testing.assert_array_equal(
        next_observations[~ended], kitchen.replay["final_observation"][~ended]
    )


def test_observations_lie_in_their_space(kitchen):
    space = kitchen.env.observation_space(kitchen.params)
    assert kitchen.replay["final_observation"].dtype == space.dtype
    assert kitchen.replay["final_observation"].shape[2:] == space.shape
    assert kitchen.replay["final_observation"].min() >= space.low
    assert kitchen.replay["final_observation"].max() <= space.high


def test_every_action_is_admissible(kitchen):
    _, state = kitchen.env.reset(_KEY, kitchen.params)
    mask = kitchen.env.action_mask(state, kitchen.params)
    assert mask.shape == (kitchen.env.num_actions,)
    assert mask.all()


def test_a_batch_steps_as_each_alone(kitchen):
    env, params = kitchen.env, kitchen.params
    _, state = env.reset(_KEY, params)
    actions = jnp.arange(env.num_actions)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * env.num_actions), state)
    batched = jax.jit(jax.vmap(env.step, in_axes=(None, 0, 0, None)))(_KEY, states, actions, params)
    for action in range(env.num_actions):
        alone = env.step(_KEY, state, action, params)
        jax.tree.map(
            lambda one, many, action=action: np.testing.assert_array_equal(one, many[action]),
            alone,
            batched,
        )


def test_without_jit_a_step_is_the_same():
    env, params = _make("Overcooked-TomatoSalad")
    _, state = env.reset(_KEY, params)
    jitted = env.step(_KEY, state, GET_TOMATO, params)
    with jax.disable_jit():
        plain = env.step(_KEY, state, GET_TOMATO, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jitted, plain)


def _play(env, params, actions):
    """Plays `actions` from the start; returns the last step and all rewards and step counts."""
    _, state = env.reset(_KEY, params)
    rewards, counts = [], []
    for action in actions:
        _, state, reward, terminated, truncated, info = env.step(_KEY, state, action, params)
        rewards.append(float(reward))
        counts.append(int(info["macro_action_steps"]))
    return (bool(terminated), bool(truncated), info), rewards, counts


def _reward(steps, event=0.0):
    """The reward of a macro-action by the definition: what each step is worth, discounted."""
    return sum(-0.001 * 0.99**i for i in range(steps)) + event * 0.99 ** (steps - 1)


def _rewards(counts, events):
    return [_reward(count, event) for count, event in zip(counts, events, strict=True)]


def test_tomato_salad_by_hand():
    env, params = _make("Overcooked-TomatoSalad")
    actions = [GET_TOMATO, TO_BOARD, CHOP, GET_BOWL, TO_BOARD, SERVE]
    (terminated, truncated, info), rewards, counts = _play(env, params, actions)
    # The cook starts in row 1, column 4. The tomato is taken from (1, 5), the board is worked from
    # (1, 1), the bowl is taken from (5, 5), and (3, 1) is where dishes are served.
    assert counts == [2, 5, 3, 9, 9, 3]
    np.testing.assert_allclose(rewards, _rewards(counts, [0, 0, 0.2, 0, 0, 1.0]), atol=1e-6)
    assert terminated
    assert not truncated
    assert info["success"]


def test_tomato_lettuce_salad_by_hand():
    env, params = _make("Overcooked-TomatoLettuceSalad")
    get_tomato, get_lettuce, _, get_bowl, to_board_1, to_board_2, serve, chop = range(8)
    actions = [get_tomato, to_board_1, chop, get_lettuce, to_board_2, chop]
    actions += [get_bowl, get_tomato, get_lettuce, serve]
    (terminated, _, info), rewards, counts = _play(env, params, actions)
    # The lettuce is taken from (1, 5), too, and the second board is worked from (2, 1).
    assert counts == [2, 5, 3, 5, 6, 3, 8, 9, 2, 2]
    events = [0, 0, 0.2, 0, 0, 0.2, 0, 0, 0, 1.0]
    np.testing.assert_allclose(rewards, _rewards(counts, events), atol=1e-6)
    assert terminated
    assert info["success"]


def test_chopping_what_is_not_in_the_recipe_earns_nothing():
    env, params = _make("Overcooked-TomatoLettuceSalad")
    _, _, get_onion, _, to_board_1, _, _, chop = range(8)
    _, rewards, counts = _play(env, params, [get_onion, to_board_1, chop])
    assert counts[-1] == 3
    np.testing.assert_allclose(rewards[-1], _reward(3), atol=1e-6)


def test_what_is_served_wrongly_goes_back_whole():
    env, params = _make("Overcooked-TomatoSalad")
    actions = [GET_TOMATO, TO_BOARD, CHOP, GET_TOMATO, SERVE, GET_TOMATO]
    (terminated, _, info), rewards, _ = _play(env, params, actions)
    assert not terminated
    np.testing.assert_allclose(rewards[4], _reward(3, -0.1), atol=1e-6)
    text = env.text_state(info["final_observation"])
    assert text.observation == "You hold a whole tomato."


def test_a_dish_served_at_the_time_limit_terminates():
    env, params = _make("Overcooked-TomatoSalad")
    actions = [GET_TOMATO, TO_BOARD, CHOP, GET_BOWL, TO_BOARD, SERVE]  # 31 primitive steps
    (terminated, truncated, info), *_ = _play(env, params.replace(max_steps_in_episode=31), actions)
    assert terminated
    assert truncated
    assert info["success"]


def test_rewards_are_parameters():
    env, params = _make("Overcooked-TomatoSalad")
    params = params.replace(step_reward=-1.0, step_discount=1.0)
    _, rewards, counts = _play(env, params, [GET_BOWL])
    assert rewards == [-counts[0]]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_observation_shows_nothing_out_of_view(kitchen, data):
    """Every pair but those of the one-hot dish is hidden or within two tiles of the cook."""
    listed = kitchen.env.list_observations()
    observation = listed[data.draw(st.integers(0, len(listed) - 1))]
    foods = len(kitchen.env.recipe.foods)
    cells = [tuple(observation[3 * i : 3 * i + 2]) for i in range(foods)]
    cells += [tuple(pair) for pair in observation[3 * foods : -7].reshape(-1, 2)]
    cook = cells[-1]
    assert all(1 <= coordinate <= 5 for coordinate in cook)
    for cell in cells:
        assert cell == (0, 0) or max(abs(np.subtract(cell, cook))) <= 2


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(26, np.int32), "is 18 integers"),
        (np.zeros(18, np.int32), r"end in \[1, 0, 0, 0, 0, 0, 0\]"),
        (np.array([0] * 11 + [1] + [0] * 6), "the cook in row 0, column 0"),
    ],
)
def test_an_observation_of_another_kitchen_is_refused(observation, message):
    env, _ = _make("Overcooked-TomatoSalad")
    with pytest.raises(ValueError, match=message):
        env.text_state(observation)
