"""Collecting: the mixture that was asked for, and transitions that the environment agrees with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import LENGTH, RIGHT, Lock, lock_table, prior_of

from llmprior_jax import agents, datasets, envs
from llmprior_jax.play import collecting
from llmprior_jax.play.collecting import Part
from llmprior_jax.play.expert import encode, plan
from llmprior_jax.priors import table as tables

LOCK = Lock()
PARAMS = LOCK.default_params


@pytest.fixture(scope="module")
def expert():
    return collecting.expert_behavior(LOCK, PARAMS)


def successes(dataset: datasets.Dataset) -> np.ndarray:
    """Whether each episode of the lock opened it."""
    return np.bincount(dataset.episode, dataset.reward) > 0


def test_an_episode_that_succeeds_with_its_last_step_is_no_time_out(expert):
    params = PARAMS.replace(max_steps_in_episode=LENGTH)
    dataset = collecting.collect(LOCK, params, [Part(expert, 1.0)], num_episodes=2)
    assert np.bincount(dataset.episode).tolist() == [LENGTH] * 2
    assert dataset.terminated.sum() == 2
    assert not dataset.truncated.any()


def test_the_expert_crosses_the_lake_on_a_shortest_way():
    env, params = envs.make("FrozenLake-4x4", is_slippery=False)
    dataset = collecting.collect(
        env, params, [Part(collecting.expert_behavior(env, params), 1.0)], num_episodes=4
    )
    assert np.bincount(dataset.episode).tolist() == [6] * 4  # three down, three right
    assert np.bincount(dataset.episode, dataset.reward).tolist() == [1.0] * 4


def test_the_expert_of_slippery_ice_is_the_one_of_value_iteration_by_hand():
    env, params = envs.make("FrozenLake-4x4")
    table = plan(env, params, discount=0.99, num_outcomes=256)
    lake = "SFFFFHFHFFFHHFFG"
    moves = [(0, -1), (1, 0), (0, 1), (-1, 0)]

    def ahead(position, action):
        row, column = divmod(position, 4)
        down, right = moves[action]
        return 4 * min(max(row + down, 0), 3) + min(max(column + right, 0), 3)

    values = np.array([float(tile == "G") for tile in lake])
    for _ in range(500):
        q_values = np.array(
            [
                [
                    np.mean([values[ahead(s, (a + slip) % 4)] for slip in (-1, 0, 1)])
                    for a in range(4)
                ]
                for s in range(16)
            ]
        )
        values = np.where([t in "HG" for t in lake], values, 0.99 * q_values.max(1))
    for position in (0, 4, 8, 9, 13, 14):
        state = env.reset(jax.random.key(0), params)[1].replace(position=jnp.int32(position))
        prior = tables.lookup(table, tables.find(table, encode(state)))
        best = q_values[position] >= q_values[position].max() - 1e-3
        assert best[np.argmax(prior.log_probs)], position


def test_the_expert_serves_the_salad_and_its_mistakes_cost():
    env, params = envs.make("Overcooked-TomatoLettuceSalad")
    expert = collecting.expert_behavior(env, params)
    sure = collecting.collect(env, params, [Part(expert, 1.0)], num_episodes=16)
    assert sure.terminated.sum() == 16
    assert len(set(np.bincount(sure.episode))) == 1, "one way was quicker than another"
    clumsy = collecting.collect(env, params, [Part(expert, 1.0, epsilon=0.5)], num_episodes=64)
    assert np.bincount(clumsy.episode).min() >= np.bincount(sure.episode)[0]
    assert np.bincount(clumsy.episode).mean() > np.bincount(sure.episode).mean() + 2


def test_what_is_recorded_is_what_the_environment_does():
    env, params = envs.make("FrozenLake-4x4", is_slippery=False)
    dataset = collecting.collect(
        env, params, [Part(collecting.random_behavior(), 1.0)], num_episodes=64
    )
    position_of = {env.text_state(np.int32(p)): p for p in range(16)}
    for number in range(dataset.num_transitions):
        _, state = env.reset(jax.random.key(0), params)
        state = state.replace(position=jnp.int32(position_of[dataset.states[dataset.row[number]]]))
        observation, _, reward, terminated, _ = env.step_env(
            jax.random.key(0), state, int(dataset.action[number]), params
        )
        assert env.text_state(observation) == dataset.states[dataset.next_row[number]]
        assert (reward, terminated) == (dataset.reward[number], dataset.terminated[number])
    ends = np.flatnonzero(np.diff(dataset.episode, append=-1))
    assert (dataset.terminated | dataset.truncated)[ends].all()


def test_a_written_dataset_passes_the_checks_of_reading(tmp_path, expert):
    mixture = [Part(expert, 0.5), Part(collecting.random_behavior(), 0.5)]
    dataset = collecting.collect(LOCK, PARAMS, mixture, num_episodes=64)
    datasets.write(tmp_path / "lock.parquet", dataset)
    again = datasets.read(tmp_path / "lock.parquet")
    assert [again.states[row] for row in again.row] == [dataset.states[row] for row in dataset.row]
    np.testing.assert_array_equal(again.action, dataset.action)


def test_shares_of_a_mixture_are_exact(expert):
    mixture = [Part(expert, 0.75), Part(collecting.random_behavior(), 0.25)]
    dataset = collecting.collect(LOCK, PARAMS, mixture, num_episodes=128)
    # Random play opens the lock once in 1.7 million episodes.
    assert successes(dataset).sum() == 96


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_success_share_is_kept_at_every_length(expert, share):
    mixture = [Part(expert, 0.5), Part(collecting.random_behavior(), 0.5)]
    dataset = collecting.collect(LOCK, PARAMS, mixture, num_episodes=100, success_share=share)
    counts = np.cumsum(successes(dataset))
    assert counts[-1] == 100 * share
    assert (np.abs(counts - share * np.arange(1, 101)) < 1).all()


def test_transitions_are_collected_until_there_are_enough(expert):
    dataset = collecting.collect(LOCK, PARAMS, [Part(expert, 1.0)], num_transitions=4 * LENGTH + 1)
    assert dataset.num_transitions == 5 * LENGTH


def test_epsilon_is_how_often_the_expert_acts_at_random(expert):
    dataset = collecting.collect(LOCK, PARAMS, [Part(expert, 1.0, 0.3)], num_transitions=4_000)
    wheel = np.array([int(s.observation.split()[-1][0]) for s in dataset.states])[dataset.row]
    right = (dataset.action == RIGHT[wheel]).mean()
    assert abs(right - (0.7 + 0.3 / 6)) < 0.035  # five standard errors


def test_the_same_seed_gives_the_same_dataset(expert):
    def collect(seed):
        mixture = [Part(expert, 1.0, 0.3)]
        return collecting.collect(LOCK, PARAMS, mixture, num_episodes=64, seed=seed)

    one, same, other = collect(1), collect(1), collect(2)
    for left, right in zip(one[1:], same[1:], strict=True):
        np.testing.assert_array_equal(left, right)
    assert one.num_transitions != other.num_transitions or (one.action != other.action).any()


class Growing:
    """Scored states that are the first two wheels, and the others once they are met."""

    def __init__(self):
        self.table = lock_table(0.9, np.arange(2, dtype=np.int32))

    def fill(self, missing):
        new = np.unique(np.asarray(missing.observation)[np.asarray(missing.is_missing)])
        if len(new):
            self.table = tables.insert(self.table, new, prior_of(new, 0.9))
        return bool(len(new))


def test_states_without_a_prior_are_scored_before_the_episode_counts():
    act = functools.partial(agents.prior_alone().act, ())
    behavior = collecting.agent_behavior(act, Growing())
    dataset = collecting.collect(LOCK, PARAMS, [Part(behavior, 1.0)], num_episodes=1024)
    # The prior opens the lock in 0.9^8 of episodes; five standard errors are 0.08.
    assert abs(successes(dataset).mean() - 0.9**LENGTH) < 0.08


def test_successes_that_do_not_come_are_an_error():
    with pytest.raises(ValueError, match="none of 3,201 episodes succeeded"):
        collecting.collect(
            LOCK,
            PARAMS,
            [Part(collecting.random_behavior(), 1.0)],
            num_episodes=4,
            success_share=0.5,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "how many episodes or how many transitions"),
        ({"num_episodes": 0}, "0 episodes were asked for"),
        ({"num_episodes": 1, "success_share": 2.0}, "success_share is 2.0"),
        ({"num_episodes": 1, "mixture": []}, "at least one behavior"),
        (
            {"num_episodes": 1, "mixture": [Part(collecting.random_behavior(), 1.0, -1.0)]},
            "epsilon is -1.0",
        ),
        (
            {
                "num_episodes": 1,
                "mixture": [Part(collecting.random_behavior(), share) for share in (1.0, 0.001)],
            },
            "without an episode in a round of 64",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    arguments = {"mixture": [Part(collecting.random_behavior(), 1.0)]} | arguments
    with pytest.raises(ValueError, match=message):
        collecting.collect(LOCK, PARAMS, **arguments)


def test_a_mixture_is_read_from_a_flag():
    assert collecting.parse_mixture("expert@0.1:0.75,runs/salad/dqn_prior:0.25,random") == [
        ("expert", 0.1, 0.75),
        ("runs/salad/dqn_prior", 0.0, 0.25),
        ("random", 0.0, 1.0),
    ]
    with pytest.raises(ValueError, match="'expert:much' is no part of a mixture"):
        collecting.parse_mixture("expert:much")
