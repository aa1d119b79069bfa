"""The rows of a run: appended only, met again after a kill, scored by one source, counted on."""

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from lock_env import Lock, LockSource, scored_lock

from llmprior_jax import models
from llmprior_jax.errors import InterruptedScoringError
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors import PriorBatch, prompts
from llmprior_jax.priors import table as tables
from llmprior_jax.types import TextState


def lock(directory, source=None, read_only=False) -> ScoredStates:
    return scored_lock(directory, source, (0, 1), read_only)


def wheels(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def rows(scored: ScoredStates):
    table = scored.table
    size = int(table.size)
    return jax.tree.map(np.asarray, (table.observations[:size], tables.rows(table)))


def assert_same(left, right) -> None:
    jax.tree.map(np.testing.assert_array_equal, rows(left), rows(right))


def loaded(directory, size=None, **options) -> ScoredStates:
    scored = lock(directory, **options)
    scored.load(size)
    return scored


def test_rows_are_read_back_as_they_were_added_and_none_is_scored_twice(tmp_path):
    source = LockSource()
    run = loaded(tmp_path, source=source)
    run.extend(wheels(1, 3, 2, 3))
    run.extend(wheels(0, 5))
    assert np.asarray(run.table.observations)[:5].tolist() == [0, 1, 3, 2, 5]
    assert len(source.asked) == len(set(source.asked)) == 5
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(before) == [
        *(f"rows-{n:09d}.safetensors" for n in (0, 2, 4)),
        "whitening.safetensors",
    ]
    later = LockSource()
    assert_same(loaded(tmp_path, source=later), run)
    assert int(loaded(tmp_path, 3, source=later).table.size) == 3
    assert later.asked == []
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("is_same_process", [False, True])
def test_additions_after_the_one_gone_back_to_go_with_the_next(tmp_path, is_same_process):
    first = loaded(tmp_path)
    first.extend(wheels(1, 3))
    first.extend(wheels(5))
    again = first if is_same_process else lock(tmp_path)
    again.load(2)
    again.extend(wheels(4))
    assert sorted(path.name for path in tmp_path.glob("rows-*")) == [
        f"rows-{n:09d}.safetensors" for n in (0, 2)
    ]
    again.extend(wheels(5))
    assert np.asarray(loaded(tmp_path).table.observations)[:4].tolist() == [0, 1, 4, 5]


def test_a_run_that_comes_again_to_the_same_states_finds_its_rows(tmp_path):
    first = loaded(tmp_path)
    first.extend(wheels(2))
    first.extend(wheels(3))
    source = LockSource()
    again = loaded(tmp_path, 2, source=source)
    again.extend(wheels(2))
    again.extend(wheels(3))
    assert source.asked == []
    assert_same(again, first)
    # Another future takes the place of the one that did not come.
    other = loaded(tmp_path, 2)
    other.extend(wheels(7))
    assert_same(loaded(tmp_path), other)
    with pytest.raises(ValueError, match="has 3 rows where 4 are needed"):
        loaded(tmp_path, 4)


def test_of_states_that_scoring_is_stopped_in_the_first_ones_are_kept(tmp_path):
    class Stopped(LockSource):
        def score(self, prompts):
            if len(prompts) > 2:
                raise InterruptedScoringError("stopped", done=2)
            return super().score(prompts)

    run = loaded(tmp_path, source=Stopped())
    with pytest.raises(InterruptedScoringError):
        run.extend(wheels(2, 3, 5, 7))
    source = LockSource()
    again = loaded(tmp_path, 2, source=source)
    again.extend(wheels(2, 3, 5, 7))
    assert len(source.asked) == 2, "the first two are in the rows"
    assert np.asarray(again.table.observations)[:6].tolist() == [0, 1, 2, 3, 5, 7]
    assert_same(loaded(tmp_path), again)


def test_rows_of_another_source_are_refused(tmp_path):
    first = loaded(tmp_path, source=LockSource(identity="f"))
    with pytest.raises(ValueError, match=r"another source of priors .*identity f, now g"):
        loaded(tmp_path, source=LockSource(identity="g"))

    class Gone(LockSource):
        @property
        def identity(self):
            raise models.CheckpointError("model", ["it is gone"])

        @identity.setter
        def identity(self, value):
            pass

    # Without a model to compare with, the rows stand on their own.
    assert_same(loaded(tmp_path, source=Gone()), first)


def test_a_reader_leaves_the_directory_as_it_is(tmp_path):
    loaded(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    reader = loaded(tmp_path, read_only=True)
    reader.extend(wheels(4))
    assert int(reader.table.size) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_damaged_file_is_named(tmp_path):
    loaded(tmp_path)
    (tmp_path / "rows-000000000.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"rows-000000000\.safetensors is damaged"):
        loaded(tmp_path)


def changed(path, **arrays) -> None:
    """Puts other arrays into a file, and leaves its metadata as they are."""
    with safetensors.safe_open(path, framework="numpy") as file:
        about = file.metadata()
    kept = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(kept | arrays, path, metadata=about)


@pytest.mark.parametrize("name", ["observations", "log_probs", "features"])
def test_rows_that_do_not_match_their_hash_are_refused(tmp_path, name):
    loaded(tmp_path)
    path = tmp_path / "rows-000000000.safetensors"
    array = safetensors.numpy.load_file(path)[name]
    array.reshape(-1).view(np.uint8)[0] ^= 1
    changed(path, **{name: array})
    with pytest.raises(ValueError, match=r"rows-000000000\.safetensors is damaged .*the hash"):
        loaded(tmp_path)


def test_a_whitening_that_does_not_match_its_hash_is_refused(tmp_path):
    loaded(tmp_path)
    path = tmp_path / "whitening.safetensors"
    changed(path, mean=safetensors.numpy.load_file(path)["mean"] + 1)
    with pytest.raises(ValueError, match=r"whitening\.safetensors is damaged .*the hash"):
        loaded(tmp_path)


def test_rows_of_a_version_without_hashes_are_read(tmp_path):
    run = loaded(tmp_path)
    path = tmp_path / "rows-000000000.safetensors"
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
    assert_same(loaded(tmp_path), run)


class Sampled(LockSource):
    """A source that tells how its answers turned out."""

    def score(self, asked):
        return PriorBatch(*super().score(asked)[:2], outcomes={"exact": 3 * len(asked)})

    def metrics(self, outcomes):
        return {"exact_answers": outcomes.get("exact", 0)}


def test_outcomes_are_counted_and_a_checkpoint_s_counts_go_on(tmp_path):
    run = loaded(tmp_path, source=Sampled())
    assert run.metrics() == {"exact_answers": 6}
    counts = dict(run.counts)
    resumed = loaded(tmp_path, source=Sampled())
    assert resumed.metrics() == {"exact_answers": 0}, "rows that are read are not scored"
    resumed.restore_counts(counts)
    resumed.extend(wheels(4))
    assert resumed.metrics() == {"exact_answers": 9}


class Remembering(Lock):
    """The lock, with a past in front of each wheel."""

    def text_state(self, observation):
        past = tuple((f"Door {n} is open.", "go on") for n in range(int(observation)))
        return super().text_state(observation)._replace(history=past)


def test_prompts_that_are_cut_are_counted(tmp_path):
    def has_room(prompt):
        return prompt.text.count("Seen:") <= 2

    scored = ScoredStates(
        Remembering(),
        lambda: wheels(0, 1, 2),
        LockSource(),
        prompts.fitting(prompts.plain, has_room),
        32,
        RowFiles(tmp_path),
    )
    scored.load()
    assert scored.metrics() == {"prompts_cut": 0}
    scored.extend(wheels(3, 4))
    assert scored.metrics() == {"prompts_cut": 2}


def test_a_state_without_actions_has_a_prior_without_actions(tmp_path):
    scored = loaded(tmp_path)
    state = Lock().text_state(wheels(3)[0])
    prior = scored.score_states([state, TextState("Open the lock.", "It is open.")])
    assert np.isfinite(prior.log_probs[0]).all()
    assert not np.isfinite(prior.log_probs[1]).any()
    assert not np.any(prior.features[1])
    with pytest.raises(ValueError, match="a state has 7 actions; the environment has 6 slots"):
        scored.score_states([state._replace(actions=(*state.actions, "wait"))])
