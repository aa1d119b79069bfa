"""The rows of a run: appended only, met again after a kill, and scored by one model."""

import jax
import numpy as np
import pytest
from lock_env import LENGTH, Lock

from llmprior_jax import models
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import Queries

NUM_ACTIONS, D = Lock.num_actions, 4


class Asked:
    """Stands in for a `Scorer`, and counts."""

    model = "model"
    queries = Queries()

    def __init__(self, fingerprint: str | None = "f"):
        self._fingerprint = fingerprint
        self.texts: list[str] = []

    @property
    def identity(self) -> str:
        if self._fingerprint is None:
            raise models.CheckpointError("model", ["it is gone"])
        return self._fingerprint

    def score(self, prompts):
        self.texts += [prompt.text for prompt in prompts]
        wheels = np.array([int(prompt.text.split("wheel ")[1][0]) for prompt in prompts])
        draws = np.random.default_rng(0).normal(size=(LENGTH, NUM_ACTIONS, D + 1))[wheels]
        return draws[..., 0].astype(np.float32), draws[..., 1:].astype(np.float32)


def filler(directory, scorer, first=(0, 1), **options) -> TableFiller:
    env = Lock()
    return TableFiller(env, lambda: np.array(first, np.int32), scorer, D, directory, **options)


def wheels(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def rows(table):
    size = int(table.size)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size], (table.observations, table.prior))


def assert_same(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, rows(left), rows(right))


def test_rows_are_read_back_as_they_were_added_and_none_is_scored_twice(tmp_path):
    scorer = Asked()
    of_run = filler(tmp_path, scorer)
    table = of_run.extend(of_run.load(), wheels(1, 3, 2, 3))
    table = of_run.extend(table, wheels(0, 5))
    assert np.asarray(table.observations)[:5].tolist() == [0, 1, 3, 2, 5]
    assert len(scorer.texts) == len(set(scorer.texts)) == 5
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(before) == [
        *(f"rows-{n:09d}.safetensors" for n in (0, 2, 4)),
        "whitening.safetensors",
    ]
    later = Asked()
    assert_same(filler(tmp_path, later).load(), table)
    assert int(filler(tmp_path, later).load(3).size) == 3
    assert later.texts == []
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_run_that_comes_again_to_the_same_states_finds_its_rows(tmp_path):
    first = filler(tmp_path, Asked())
    table = first.extend(first.extend(first.load(), wheels(2)), wheels(3))
    scorer = Asked()
    again = filler(tmp_path, scorer)
    resumed = again.extend(again.extend(again.load(2), wheels(2)), wheels(3))
    assert scorer.texts == []
    assert_same(resumed, table)
    # Another future takes the place of the one that did not come.
    other = filler(tmp_path, Asked())
    table = other.extend(other.load(2), wheels(7))
    assert_same(filler(tmp_path, Asked()).load(), table)
    with pytest.raises(ValueError, match="has 3 rows where 4 are needed"):
        filler(tmp_path, Asked()).load(4)


def test_rows_of_another_version_of_the_model_are_refused(tmp_path):
    table = filler(tmp_path, Asked("f")).load()
    with pytest.raises(ValueError, match=r"another version .*fingerprint f, now g"):
        filler(tmp_path, Asked("g")).load()
    # Without a model to compare with, the rows stand on their own.
    assert_same(filler(tmp_path, Asked(None)).load(), table)


def test_a_reader_leaves_the_directory_as_it_is(tmp_path):
    filler(tmp_path, Asked()).load()
    before = sorted(path.name for path in tmp_path.iterdir())
    reader = filler(tmp_path, Asked(), read_only=True)
    assert int(reader.extend(reader.load(), wheels(4)).size) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_file_is_named(tmp_path):
    filler(tmp_path, Asked()).load()
    (tmp_path / "rows-000000000.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"rows-000000000\.safetensors is damaged"):
        filler(tmp_path, Asked()).load()
