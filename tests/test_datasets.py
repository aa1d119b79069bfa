"""Dataset files: what is written is read, and what is wrong is told with file and row."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmprior_jax import datasets, files
from llmprior_jax.types import TextState

ACTIONS = ["go left", "go right"]


def row(observation: str, following: str, episode: int, action: str = "go left", **changes) -> dict:
    return {
        "task": "Find the door.",
        "observation": observation,
        "action": action,
        "reward": 0.5,
        "next_observation": following,
        "terminated": False,
        "truncated": False,
        "admissible_actions": ACTIONS,
        "next_admissible_actions": ACTIONS,
        "episode": episode,
    } | changes


def rows() -> list[dict]:
    """Two episodes: hall, kitchen, door (terminated); hall, hall (truncated)."""
    return [
        row("hall", "kitchen", 4),
        row("kitchen", "door", 4, "go right", reward=1.0, terminated=True),
        row("hall", "hall", 7, truncated=True, reward=-0.25),
    ]


def write(path, content: list[dict]):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(entry) + "\n" for entry in content))
    else:
        pq.write_table(pa.Table.from_pylist(content), path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_is_read_as_transitions_between_distinct_states(tmp_path, suffix):
    dataset = datasets.read(write(tmp_path / f"data{suffix}", rows()))
    names = [state.observation for state in dataset.states]
    assert sorted(names) == ["door", "hall", "kitchen"]
    assert dataset.states[0] == TextState("Find the door.", "hall", (), tuple(ACTIONS))
    assert [names[index] for index in dataset.row] == ["hall", "kitchen", "hall"]
    assert [names[index] for index in dataset.next_row] == ["kitchen", "door", "hall"]
    assert dataset.action.tolist() == [0, 1, 0]
    assert dataset.reward.tolist() == [0.5, 1.0, -0.25]
    assert dataset.terminated.tolist() == [False, True, False]
    assert dataset.truncated.tolist() == [False, False, True]
    assert dataset.episode.tolist() == [0, 0, 1]


def test_only_a_line_feed_ends_a_line_of_jsonl(tmp_path):
    content = [row("hall\u2028wide", "kitchen", 4, truncated=True)]
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in content)
    (tmp_path / "data.jsonl").write_text(text, encoding="utf-8")
    assert datasets.read(tmp_path / "data.jsonl").states[0].observation == "hall\u2028wide"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    dataset = datasets.read(write(tmp_path / "data.jsonl", rows()))
    datasets.write(tmp_path / f"again{suffix}", dataset)
    again = datasets.read(tmp_path / f"again{suffix}")
    assert again.states == dataset.states
    for left, right in zip(again[1:], dataset[1:], strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_written_parquet_file_has_the_documented_schema(tmp_path):
    datasets.write(tmp_path / "a.parquet", datasets.read(write(tmp_path / "a.jsonl", rows())))
    assert pq.read_schema(tmp_path / "a.parquet").equals(datasets.SCHEMA)


@pytest.fixture
def other_reward(tmp_path) -> tuple[pathlib.Path, pa.Table, dict]:
    """The path of a file of ours, its rows with another reward, and the metadata that it has."""
    path = tmp_path / "ours.parquet"
    datasets.write(path, datasets.read(write(tmp_path / "a.jsonl", rows())))
    content = pq.read_table(path).to_pylist()
    content[0]["reward"] = 0.75
    changed = pa.Table.from_pylist(content, schema=datasets.SCHEMA)
    return path, changed, pq.read_metadata(path).metadata


def test_rows_that_do_not_match_their_hash_are_refused(other_reward):
    path, changed, about = other_reward
    with pq.ParquetWriter(path, datasets.SCHEMA) as writer:
        writer.write_table(changed)
        writer.add_key_value_metadata({files.DIGEST: about[files.DIGEST.encode()]})
    with pytest.raises(ValueError, match=r"ours\.parquet is damaged: its rows do not match"):
        datasets.read(path)


def test_rows_changed_on_purpose_are_read(other_reward):
    path, changed, _ = other_reward
    pq.write_table(changed, path)
    assert datasets.read(path).reward.tolist() == [0.75, 1.0, -0.25]


def test_the_past_of_a_state_is_that_of_its_episode(tmp_path):
    dataset = datasets.read(write(tmp_path / "data.jsonl", rows()), history=1)
    history = [dataset.states[index].history for index in dataset.row]
    following = [dataset.states[index].history for index in dataset.next_row]
    assert history == [(), (("hall", "go left"),), ()]
    assert following == [
        (("hall", "go left"),),
        (("kitchen", "go right"),),
        (("hall", "go left"),),
    ]


def broken(number: int, **changes) -> list[dict]:
    content = rows()
    content[number] |= changes
    return content


def without(name: str) -> list[dict]:
    return [{key: value for key, value in entry.items() if key != name} for entry in rows()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (broken(0, action="jump"), "row 1: the action 'jump' is none of the admissible actions"),
        (broken(1, reward=float("nan")), "row 2: reward is nan"),
        (broken(1, reward=float("inf")), "row 2: reward is inf"),
        (broken(1, reward=1e300), r"row 2: reward is 1e\+300; rewards must be finite in float32"),
        (broken(1, reward=-1e39), r"row 2: reward is -1e\+39"),
        (broken(2, terminated=True), "row 3: terminated and truncated"),
        (broken(2, admissible_actions=["go left"] * 2), "row 3: admissible_actions has 'go left'"),
        (broken(1, observation="attic"), "row 2: episode 4 does not chain: observation is 'attic'"),
        (broken(1, task="Rest."), "row 2: episode 4 does not chain: task is 'Rest.'"),
        (broken(2, episode=4), "row 3: episode 4 goes on after the row before ended it"),
        (broken(1, terminated=False), "row 2: episode 4 ends here, neither terminated nor trunc"),
        (broken(2, truncated=False), "row 3: episode 7 ends here"),
        ([*rows(), rows()[0]], "row 4: episode 4 goes on after another one began"),
        (broken(0, next_admissible_actions=[]), "row 1: next_admissible_actions is empty"),
        ([], "no rows|no column"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_row_that_is_wrong_is_named(tmp_path, content, message, suffix):
    path = write(tmp_path / f"data{suffix}", content)
    with pytest.raises(ValueError, match=message) as error:
        datasets.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("name", ["reward", "next_admissible_actions"])
def test_a_missing_column_is_named(tmp_path, name, suffix):
    path = write(tmp_path / f"data{suffix}", without(name))
    with pytest.raises(ValueError, match=f"no (column|field) {name}"):
        datasets.read(path)


@pytest.mark.parametrize(
    ("name", "value"), [("reward", "1"), ("terminated", 1), ("task", None), ("episode", 1.5)]
)
def test_a_value_of_another_type_is_refused(tmp_path, name, value):
    path = write(tmp_path / "data.jsonl", broken(1, **{name: value}))
    with pytest.raises(ValueError, match=f"row 2: {name} is"):
        datasets.read(path)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no dataset .*none\.parquet"):
        datasets.read(tmp_path / "none.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"PAR1 noise")
    with pytest.raises(ValueError, match=r"noise\.parquet cannot be read"):
        datasets.read(tmp_path / "noise.parquet")
    (tmp_path / "noise.jsonl").write_text("{}\nnoise\n")
    with pytest.raises(ValueError, match="row 1: there is no field task"):
        datasets.read(tmp_path / "noise.jsonl")
    with pytest.raises(ValueError, match=r"\.parquet or a \.jsonl"):
        datasets.read(__file__)


def many(tmp_path) -> datasets.Dataset:
    """Episodes of 1, 2, ..., 6 transitions."""
    content = [
        row(f"room {step}", f"room {step + 1}", episode, truncated=step == episode)
        for episode in range(6)
        for step in range(episode + 1)
    ]
    return datasets.read(write(tmp_path / "many.jsonl", content))


@pytest.mark.parametrize("unit", datasets.UNITS)
def test_subsets_are_nested_and_of_the_size_asked_for(tmp_path, unit):
    dataset = many(tmp_path)
    order = datasets.subset_order(dataset, unit, seed=3)
    assert sorted(order) == list(range(dataset.num_transitions))
    assert not np.array_equal(order, datasets.subset_order(dataset, unit, seed=4))
    np.testing.assert_array_equal(order, datasets.subset_order(dataset, unit, seed=3))
    sizes = range(1, 7)
    counts = [datasets.count_transitions(dataset, size, unit, order) for size in sizes]
    assert counts == sorted(set(counts)), "a larger subset must contain the smaller"
    if unit == "transition":
        assert counts == list(sizes)
    else:
        for size, count in zip(sizes, counts, strict=True):
            chosen = set(dataset.episode[order[:count]])
            assert len(chosen) == size
            assert count == sum(episode + 1 for episode in chosen), "an episode is not whole"
    assert datasets.count_transitions(dataset, None, unit, order) == dataset.num_transitions


def test_a_subset_larger_than_the_dataset_is_refused(tmp_path):
    dataset = many(tmp_path)
    order = datasets.subset_order(dataset, "episode", seed=0)
    with pytest.raises(ValueError, match="subset of 7 episodes was asked for; the dataset has 6"):
        datasets.count_transitions(dataset, 7, "episode", order)
    with pytest.raises(ValueError, match="use one of transition, episode"):
        datasets.subset_order(dataset, "row", seed=0)
