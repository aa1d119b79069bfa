"""Published datasets: read without unpickling, and played again in our kitchen."""

import os
import pickle
import sys

import numpy as np
import pytest

from launch import import_dataset
from llmprior_jax import datasets, envs, files
from llmprior_jax.play import collecting, replaying

KITCHEN = "Overcooked-TomatoSalad"


def in_their_words(dataset: datasets.Dataset) -> list[tuple]:
    """The transitions as others would publish them, in other words than ours."""

    def theirs(row):
        state = dataset.states[row]
        actions = [f"please {action}" for action in state.actions]
        return state.observation.upper(), actions

    return [
        (
            "COOK",
            theirs(row)[0],
            theirs(row)[1][action],
            theirs(next_row)[0],
            float(reward),
            bool(terminated),
            theirs(row)[1],
            theirs(next_row)[1],
        )
        for row, action, reward, terminated, next_row in zip(
            dataset.row,
            dataset.action,
            dataset.reward,
            dataset.terminated,
            dataset.next_row,
            strict=True,
        )
    ]


@pytest.fixture(scope="module")
def kitchen():
    return envs.make(KITCHEN)


@pytest.fixture(scope="module")
def collected(kitchen) -> datasets.Dataset:
    mixture = [collecting.Part(collecting.random_behavior(), 1.0)]
    env, params = kitchen
    return collecting.collect(env, params, mixture, num_episodes=16)


@pytest.fixture
def run(tmp_path):
    """Runs the command on a file of some content; gives the path of what it writes."""

    def run(content: object, env: str = KITCHEN):
        source, out = tmp_path / "published.pkl", tmp_path / "out" / "ours.parquet"
        source.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 4))
        import_dataset.FLAGS(["import", f"--source={source}", f"--env={env}", f"--out={out}"])
        import_dataset.main([])
        return out

    return run


@pytest.mark.long
def test_published_transitions_become_the_dataset_that_they_are_in_our_words(run, collected):
    again = datasets.read(run(in_their_words(collected)))
    assert [again.states[row] for row in again.row] == [
        collected.states[row] for row in collected.row
    ]
    for name in ("action", "reward", "terminated", "truncated", "episode"):
        np.testing.assert_array_equal(getattr(again, name), getattr(collected, name), name)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_is_read(tmp_path, protocol):
    shared = ["walk", "cut"]
    value = [("a", "b\n", -0.5, True, shared, shared), (1, 300, 70_000, 2**40, None, False)] * 2
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert files.read_pickle(path) == value


def test_an_episode_that_was_cut_off_is_truncated(run, collected):
    first = in_their_words(collected)[: int(np.sum(collected.episode == 0)) - 1]
    second = in_their_words(collected)[: len(first) + 1]
    again = datasets.read(run([*first, *second]))
    assert again.num_episodes == 2
    assert again.truncated[len(first) - 1]


def test_what_goes_on_after_the_time_limit_is_another_episode(kitchen):
    env, params = kitchen
    start = env.text_state(env.reset(None, params)[0])
    # With nothing to chop a step passes, and all looks as at the beginning.
    wait = replaying.Recorded(
        start.task, "THE START", "wait", -0.001, "THE START", False, *((*"abcd", "wait"),) * 2
    )
    limit = params.max_steps_in_episode
    dataset, is_success = replaying.replay(env, params, [wait] * (limit + 50))
    assert np.bincount(dataset.episode).tolist() == [limit, 50]
    assert not is_success.any()


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)

    def __repr__(self):  # It names a test, which must have one name in all processes.
        return "Evil()"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([Evil()], "instruction STACK_GLOBAL at byte .*nothing of it was executed"),
        ([{"a": 1}], "instruction EMPTY_DICT"),
        ([np.float64(1.0)], "instruction STACK_GLOBAL"),
        (b"", "cannot be read"),
        (b"PK\x03\x04 no pickle", "cannot be read"),
        (b"\x80\x04].", "holds \\[\\], and no list of transitions"),
        (b"\x80\x04e.", "no whole pickle"),
        (b"\x80\x04h\x07.", "no whole pickle"),
        (b"\x80\x04]]e.", "no whole pickle"),
        (b"\x80\x04N" + b"r\xff\xff\xff\x7f.", "holds None, and no list"),
        ("text", "holds 'text', and no list of transitions"),
        ([("a", "b")], "transition 1 is .*, and no tuple of task, observation, action"),
    ],
    ids=repr,
)
def test_what_is_no_such_file_is_refused_in_a_line(run, tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as raised:
        run(content)
    assert "\n" not in str(raised.value)
    assert "published.pkl" in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(run, collected, share):
    content = pickle.dumps(in_their_words(collected), 4)
    with pytest.raises(ValueError, match=r"published\.pkl (cannot be read|is no whole pickle)"):
        run(content[: int(share * len(content))])


def test_a_huge_file_is_refused_before_it_is_read(run, monkeypatch):
    monkeypatch.setattr("llmprior_jax.files.pickled.LARGEST", 100)
    with pytest.raises(ValueError, match=r"has 1,0.. bytes, and pickles of at most 100 are read"):
        run(["x" * 1_000])


def test_a_file_of_too_many_small_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("llmprior_jax.files.pickled.MOST_INSTRUCTIONS", 1_000)
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x04]" + b"(" + 10_000 * b"]" + b"e.")
    with pytest.raises(ValueError, match=r"bomb\.pkl .* more than 1,000 instructions"):
        files.read_pickle(path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**5000], ids=["2^64", "-2^63-1", "huge"])
def test_an_integer_of_more_than_64_bits_is_refused(tmp_path, protocol, value):
    path = tmp_path / "value.pkl"
    for content in (value, [("COOK", value)]):
        path.write_bytes(_dumped(content, protocol))
        with pytest.raises(ValueError, match=r"value\.pkl .* more than 64 bits at byte \d"):
            files.read_pickle(path)


def _dumped(content: object, protocol: int) -> bytes:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # In decimals, which the first two protocols have.
    try:
        return pickle.dumps(content, protocol)
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (0, 7, "transition 3: its task is 7, and no text"),
        (4, "much", "transition 3: its reward is 'much', and no number"),
        (5, None, "transition 3: its done is None, and no truth value"),
        (6, "walk", "transition 3: its actions is 'walk', and no list"),
        (2, "fly", "transition 3: 'fly' is none of its actions"),
        (4, 7.0, r"do not replay in .*: of number 3 the reward is 7 there, -"),
        (4, float("nan"), r"of number 3 the reward is nan there, -"),
        (5, True, "of number 3 the episode ended there, goes on here"),
        (1, "a ghost", "of number 3 states look the same in one place"),
    ],
)
def test_a_transition_that_is_wrong_is_named(run, collected, field, value, message):
    transitions = in_their_words(collected)
    wrong = list(transitions[2])
    wrong[field] = value
    transitions[2] = tuple(wrong)
    with pytest.raises(ValueError, match=message):
        run(transitions)


def test_all_that_follow_in_its_episode_are_counted(run, collected):
    transitions = in_their_words(collected)
    length = int(np.sum(collected.episode == 0))
    transitions[1] = (*transitions[1][:4], 7.0, *transitions[1][5:])
    message = f"^{length - 1} of {len(transitions)} transitions .*; the others do, so that"
    with pytest.raises(ValueError, match=message):
        run(transitions)


def test_an_environment_that_does_not_fit_is_named(run, collected):
    message = "do not replay in FrozenLake-4x4: of number 1 there are 5 actions there, 4 here"
    with pytest.raises(ValueError, match=f"{message}.*; name the environment that they are from"):
        run(in_their_words(collected), env="FrozenLake-4x4")


def test_an_environment_that_begins_anywhere_is_refused(collected):
    env, params = envs.make("BabyAI-GoToLocal")
    with pytest.raises(ValueError, match="does not always begin in the same state"):
        replaying.replay(env, params, [replaying.Recorded("", "", "a", 0.0, "", False, ("a",), ())])


def test_an_action_that_is_not_there_is_refused_before_it_is_done(kitchen):
    env, params = kitchen
    many = tuple(map(str, range(1_000)))
    wrong = replaying.Recorded("", "", "999", 0.0, "", False, many, many)
    with pytest.raises(ValueError, match="there are 1000 actions there"):
        replaying.replay(env, params, [wrong])
