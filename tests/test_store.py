"""The store of what language models said: exact, shared, hard to break."""

import functools
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import prior
from llmprior_jax import files
from llmprior_jax.priors import (
    CachedModel,
    PriorStore,
    Prompt,
    Scored,
    StoredScores,
    StoreError,
    TextScores,
    parquet,
)
from llmprior_jax.priors.parquet import export_parquet, import_parquet
from llmprior_jax.priors.sources import cached as scorers

D = 3
ROOT = pathlib.Path(__file__).parent.parent


def answers(prompt: str, actions, offset: float = 0.0) -> StoredScores:
    """Scores that tell prompt and action, and the time of asking."""
    seeds = [zlib.crc32(f"{prompt}|{action}".encode()) for action in actions]
    draws = np.array([np.random.default_rng(seed).normal(size=D + 1) for seed in seeds])
    draws = draws.reshape(len(actions), D + 1).astype(np.float32) + np.float32(offset)
    tokens = np.array([1 + len(action) for action in actions], np.int32)
    return StoredScores(tuple(actions), draws[:, 0], tokens, draws[:, 1:])


def assert_same_bits(left: StoredScores, right: StoredScores) -> None:
    assert left.actions == right.actions
    for a, b in zip(left[1:], right[1:], strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


GOOD = answers("prompt", ["a", "b"])


@pytest.fixture
def store(tmp_path):
    with PriorStore(tmp_path / "priors.sqlite") as store:
        yield store


floats = st.floats(width=32, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_values_read_back_have_the_bits_of_those_computed(tmp_path_factory, data):
    actions = data.draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, unique=True)
    )
    n = len(actions)
    values = data.draw(st.lists(floats, min_size=n * (D + 1), max_size=n * (D + 1)))
    array = np.array(values, np.float32).reshape(n, D + 1)
    said = StoredScores(
        tuple(actions), array[:, 0], np.arange(1, n + 1, dtype=np.int32), array[:, 1:]
    )
    path = tmp_path_factory.mktemp("store") / "priors.sqlite"
    with PriorStore(path) as store:
        store.put_scores("f", "model", {"prompt": said})
    with PriorStore(path) as store:
        (found,) = store.get_scores("f", ["prompt"])
    assert found is not None
    assert_same_bits(found, said)


def test_another_model_or_another_prompt_finds_nothing(store):
    store.put_scores("f", "model", {"prompt": answers("prompt", ["a"])})
    assert store.get_scores("g", ["prompt"]) == [None]
    assert store.get_scores("f", ["prompt ", "Prompt"]) == [None, None]
    # Texts do not run together into the same key.
    assert store.get_scores("fp", ["rompt"]) == [None]


def test_a_prompt_gains_actions_and_what_was_said_first_stays(store):
    store.put_scores("f", "model", {"prompt": answers("prompt", ["a", "b"])})
    store.put_scores("f", "model", {"prompt": answers("prompt", ["c", "b", "d"], offset=1.0)})
    (found,) = store.get_scores("f", ["prompt"])
    expected = answers("prompt", ["a", "b"])
    later = answers("prompt", ["c", "d"], offset=1.0)
    assert_same_bits(
        found,
        StoredScores(
            ("a", "b", "c", "d"),
            *(np.concatenate(pair) for pair in zip(expected[1:], later[1:], strict=True)),
        ),
    )


def test_proposals_are_found_by_prompt_and_settings(store):
    said = ["I would\ngo left", {"tokens": [1, 2]}]
    store.put_proposals("f", "model", {"seed": 0, "k": 2}, {"prompt": said})
    store.put_proposals("f", "model", {"k": 2, "seed": 0}, {"prompt": "something else"})
    assert store.get_proposals("f", ["prompt", "other"], {"k": 2, "seed": 0}) == [said, None]
    assert store.get_proposals("f", ["prompt"], {"k": 2, "seed": 1}) == [None]


def test_usage_counts_what_is_held_and_removal_gives_the_space_back(store):
    for fingerprint in ("f", "g"):
        scores = {f"{n}": answers(f"{n}", ["a", "b"]) for n in range(2000)}
        store.put_scores(fingerprint, "model", scores)
    store.put_proposals("g", "model", {}, {"prompt": "answer"})
    store.count("f", "model", found=3, not_found=4)
    first, second = store.usage()
    assert (first.fingerprint, first.name, first.prompts, first.actions) == (
        "f",
        "model",
        2000,
        4000,
    )
    assert (first.found, first.not_found, first.proposals) == (3, 4, 0)
    assert (second.found, second.not_found, second.proposals) == (0, 0, 1)
    # Log-probability, number of tokens and features of two actions, and the texts.
    assert first.bytes > 2000 * 2 * (4 + 4 + 4 * D)
    store._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    size = store.path.stat().st_size
    store.remove("f")
    assert [usage.fingerprint for usage in store.usage()] == ["g"]
    assert store.path.stat().st_size < 0.7 * size


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"actions": ("a", "a")}, "the action 'a' stands twice"),
        ({"actions": ()}, "actions are missing"),
        ({"actions": ("a", None)}, "no texts"),
        ({"log_probs": np.float32([-1.0, np.nan])}, "NaN"),
        ({"log_probs": np.float32([-1.0])}, r"log-probabilities of shape \(1,\)"),
        ({"log_probs": np.int32([-1, -1])}, "log-probabilities are of type int32"),
        ({"num_tokens": np.int32([1, 0])}, "an action has no token"),
        ({"num_tokens": np.int32([1, 1, 1])}, r"numbers of tokens of shape \(3,\)"),
        ({"features": np.zeros((3, D), np.float32)}, r"features of shape \(3, 3\)"),
        ({"features": np.full((2, D), np.nan, np.float32)}, "NaN"),
    ],
)
def test_what_would_be_damage_when_read_is_not_kept(store, changes, problem):
    scores = {"good": answers("good", ["a"]), "prompt": GOOD._replace(**changes)}
    with pytest.raises(ValueError, match=f"the prompt 'prompt' cannot be kept: .*{problem}"):
        store.put_scores("f", "model", scores)
    assert store.usage() == []


def test_a_list_that_was_refused_is_refused_again(store):
    for prompt in ("first", "second"):
        with pytest.raises(ValueError, match=f"'{prompt}' cannot be kept: the action 'a' stands"):
            store.put_scores("f", "model", {prompt: GOOD._replace(actions=("a", "a"))})


def test_actions_with_another_number_of_features_are_not_added(store):
    store.put_scores("f", "model", {"prompt": GOOD})
    wide = GOOD._replace(actions=("c", "d"), features=np.zeros((2, D + 1), np.float32))
    with pytest.raises(ValueError, match="'prompt' cannot be kept: 4 features, where 3 are kept"):
        store.put_scores("f", "model", {"prompt": wide})
    assert_same_bits(store.get_scores("f", ["prompt"])[0], GOOD)


def test_a_damaged_entry_is_left_out_of_an_export_and_named(store, tmp_path, caplog):
    store.put_scores("f", "model", {"bad": GOOD, "good": GOOD})
    store.put_proposals("f", "model", {"k": 1}, {"worse": ["x"], "better": ["y"]})
    store._connection.execute("UPDATE scores SET log_probs = x'00' WHERE prompt = 'bad'")
    store._connection.execute("UPDATE proposals SET answer = '[cut' WHERE prompt = 'worse'")
    with caplog.at_level("WARNING"):
        assert export_parquet(store, tmp_path / "priors.parquet") == 2
    rows = pyarrow.parquet.read_table(tmp_path / "priors.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == ["good", "better"]
    assert "'bad'" in caplog.text
    assert "'worse'" in caplog.text


# Other processes.

_WRITER = """
import sys
import numpy as np
from llmprior_jax.priors import PriorStore, StoredScores

def said(number):
    array = np.full((2, 4), number, np.float32)
    return StoredScores(("a", "b"), array[:, 0], np.array([1, 2], np.int32), array[:, 1:])

path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with PriorStore(path) as store:
    for number in range(first, first + count):
        store.put_scores("f", "model", {f"{number} {i}": said(number) for i in range(5)})
        print(number, flush=True)
"""


def start_writer(path: pathlib.Path, first: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(_WRITER), str(path), str(first), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_loses_no_commit_and_other_writers_lose_nothing(tmp_path):
    path = tmp_path / "priors.sqlite"
    # Two make the file at once and write to it together; one never comes to its end.
    doomed, other = start_writer(path, 0, 10**6), start_writer(path, 10**7, 100)
    assert doomed.stdout is not None
    committed = [int(doomed.stdout.readline()) for _ in range(50)]
    doomed.send_signal(signal.SIGKILL)
    committed += [int(line) for line in doomed.communicate()[0].splitlines()]
    other.communicate()
    assert other.returncode == 0
    with PriorStore(path) as store:
        assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for number in [*committed, *range(10**7, 10**7 + 100)]:
            for found in store.get_scores("f", [f"{number} {i}" for i in range(5)]):
                assert found is not None, f"commit {number} is lost"
                assert (found.features == number).all()
        # One commit may have been made that was not told any more; it is whole.
        assert store.usage()[0].prompts % 5 == 0


# What can be wrong with the file.


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "priors.sqlite"
    PriorStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"newer version .*schema 99.*update llmprior_jax"):
        PriorStore(path)


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    if content:
        with pytest.raises(StoreError, match="damaged, or no store"):
            PriorStore(path)
        assert path.read_bytes() == content
    else:  # SQLite takes an empty file for an empty database, and so do we.
        PriorStore(path).close()


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    content = path.read_bytes()
    with pytest.raises(StoreError, match="another program's database"):
        PriorStore(path)
    assert path.read_bytes() == content


def test_a_new_store_that_sqlite_does_not_wait_for_is_tried_again(tmp_path, monkeypatch):
    # As happens now and then to processes that make one store at the same moment.
    refusals = [sqlite3.OperationalError("database is locked") for _ in range(2)]

    class Refusing(sqlite3.Connection):
        def execute(self, statement, *parameters):
            if "journal_mode" in statement and refusals:
                error = refusals.pop()
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            return super().execute(statement, *parameters)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Refusing))
    PriorStore(tmp_path / "priors.sqlite").close()
    assert not refusals


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actions", '\'["a", "c"]\''),
        ("actions", "CAST(x'ff' AS TEXT)"),
        ("log_probs", "zeroblob(8)"),
        ("log_probs", "x'00'"),
        ("num_tokens", "7"),
        ("features", f"zeroblob({2 * D * 4})"),
        ("digest", "x'00'"),
    ],
)
def test_a_damaged_entry_counts_as_not_there_and_is_named_once(store, caplog, column, value):
    store.put_scores("f", "model", {"bad": GOOD, "good": GOOD})
    store._connection.execute(f"UPDATE scores SET {column} = {value} WHERE prompt = 'bad'")
    with caplog.at_level("WARNING"):
        for _ in range(2):
            bad, good = store.get_scores("f", ["bad", "good"])
            assert bad is None
            assert_same_bits(good, GOOD)
    assert caplog.text.count("the prompt 'bad' is damaged") == 1


def test_what_takes_the_place_of_a_damaged_entry_is_kept(store):
    store.put_scores("f", "model", {"prompt": GOOD})
    store._connection.execute("UPDATE scores SET log_probs = zeroblob(8)")
    store.put_scores("f", "model", {"prompt": answers("prompt", ["b"])})
    assert_same_bits(store.get_scores("f", ["prompt"])[0], answers("prompt", ["b"]))


def test_damaged_answers_are_asked_for_anew(store):
    store.put_proposals("f", "model", {"k": 1}, {"prompt": ["answer"]})
    store._connection.execute("UPDATE proposals SET answer = '[\"other\"]'")
    assert store.get_proposals("f", ["prompt"], {"k": 1}) == [None]
    store.put_proposals("f", "model", {"k": 1}, {"prompt": ["again"]})
    assert store.get_proposals("f", ["prompt"], {"k": 1}) == [["again"]]


@pytest.mark.parametrize("change", ["prompt = 'other'", "model = 99"])
def test_an_entry_of_another_prompt_or_model_is_left_out_of_an_export(store, tmp_path, change):
    store.put_scores("f", "model", {"bad": GOOD, "good": GOOD})
    store._connection.execute("PRAGMA foreign_keys = OFF")
    store._connection.execute(f"UPDATE scores SET {change} WHERE prompt = 'bad'")
    assert [prompt for _, _, prompt, _ in store.all_scores()] == ["good"]


@pytest.fixture
def old_store(tmp_path) -> pathlib.Path:
    """A store of the schema whose entries had no hashes."""
    path = tmp_path / "priors.sqlite"
    with PriorStore(path) as store:
        store.put_scores("f", "model", {"prompt": GOOD})
        for table in ("scores", "proposals"):
            store._connection.execute(f"ALTER TABLE {table} DROP COLUMN digest")
        store._connection.execute("ALTER TABLE scores DROP COLUMN format")
        store._connection.execute("PRAGMA user_version = 1")
    return path


def test_entries_of_a_version_without_hashes_are_read_and_get_one_when_written(old_store):
    with PriorStore(old_store) as store:
        assert_same_bits(store.get_scores("f", ["prompt"])[0], GOOD)
        store.put_scores("f", "model", {"prompt": GOOD})
        store._connection.execute("UPDATE scores SET log_probs = zeroblob(8)")
        assert store.get_scores("f", ["prompt"]) == [None]


def test_entries_of_the_schema_before_features_had_a_format_are_read(tmp_path):
    """Their hashes know of no format; all of their features have 32 bits."""
    path = tmp_path / "priors.sqlite"
    with PriorStore(path) as store:
        store.put_scores("f", "model", {"prompt": GOOD})
        store._connection.execute("ALTER TABLE scores DROP COLUMN format")
        store._connection.execute("PRAGMA user_version = 2")
    with PriorStore(path) as store:
        assert_same_bits(store.get_scores("f", ["prompt"])[0], GOOD)
        assert store._connection.execute("PRAGMA user_version").fetchone() == (3,)


@pytest.mark.parametrize(
    ("features", "size"),
    [
        ([[127.0, -1.0, 0.0], [2.0**-20, 0.0, -127 * 2.0**-20]], 2 * (1 + D)),
        ([[127 * 2.0**100, 0.0, 0.0], [0.0, 0.0, 0.0]], 2 * (1 + D)),
        ([[128.0, 1.0, 0.0], [1.0, 1.0, 1.0]], 2 * D * 2),  # 8 bits and a sign
        ([[1.5, -0.25, 65504.0], [0.0, 2.0**-24, 3.0]], 2 * D * 2),
        ([[1.5, -0.25, 65536.0], [0.0, 0.0, 3.0]], 2 * D * 4),
        ([[0.1, 0.2, 0.3], [0.0, 0.0, 3.0]], 2 * D * 4),
        ([[np.inf, 1.0, 1.0], [0.0, -np.inf, 3.0]], 2 * D * 2),
        ([[1.0, 1.0, 1.0], [0.0, -0.0, 3.0]], 2 * D * 2),
    ],
)
def test_features_take_the_bits_that_say_all(store, features, size):
    said = GOOD._replace(features=np.float32(features))
    store.put_scores("f", "model", {"prompt": said})
    assert_same_bits(store.get_scores("f", ["prompt"])[0], said)
    assert store._connection.execute("SELECT LENGTH(features) FROM scores").fetchone() == (size,)


def test_another_format_of_features_is_damage(store, caplog):
    store.put_scores("f", "model", {"prompt": GOOD})
    for written in ("i1", "<f2", "<f8", ""):
        store._connection.execute("UPDATE scores SET format = ?", [written])
        assert store.get_scores("f", ["prompt"]) == [None]


def test_what_a_model_says_is_used_with_the_bits_that_are_kept(tmp_path):
    prompt = Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
    with PriorStore(tmp_path / "priors.sqlite") as store:
        new = CachedModel("tiny", store).score([prompt])
        size = store._connection.execute("SELECT LENGTH(features) FROM scores").fetchone()[0]
        assert size == 2 * new.features.size
        for a, b in zip(CachedModel("tiny", store).score([prompt]), new, strict=True):
            assert (a.dtype, a.tobytes()) == (b.dtype, b.tobytes())


def test_a_store_of_a_version_without_hashes_may_be_read_only(old_store, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with PriorStore(old_store) as store:
        assert_same_bits(store.get_scores("f", ["prompt"])[0], GOOD)
        assert len(list(store.all_scores())) == 1


def test_a_locked_store_says_so(store, monkeypatch):
    with PriorStore(store.path) as other:
        other._connection.execute("PRAGMA busy_timeout = 10")
        store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked\): another process"):
            other.put_scores("f", "model", {"prompt": answers("prompt", ["a"])})
        # Reading goes on meanwhile.
        assert other.get_scores("f", ["prompt"]) == [None]
        store._connection.execute("ROLLBACK")


# Asking through the store.


class Asked:
    """Stands in for `score_in_passes`, and counts."""

    def __init__(self, monkeypatch):
        self.pairs: list[tuple[str, str]] = []
        monkeypatch.setattr(scorers, "score_in_passes", self.score_in_passes)
        monkeypatch.setattr(scorers.models, "load", lambda name, **how: None)
        monkeypatch.setattr(scorers.language_model, "reads_apart", lambda name: True)
        monkeypatch.setattr(
            scorers.models, "fingerprint", lambda name, **how: f"fingerprint of {name}"
        )

    def score_in_passes(self, lm, prompts, actions, **how):
        A = max(map(len, actions))
        scores = TextScores(
            np.full((len(prompts), A), -np.inf, np.float32),
            np.zeros((len(prompts), A), np.int32),
            np.zeros((len(prompts), A, D), np.float32),
        )
        for b, (prompt, group) in enumerate(zip(prompts, actions, strict=True)):
            self.pairs += [(prompt, action) for action in group]
            for leaf, values in zip(scores, answers(prompt, group)[1:], strict=True):
                leaf[b, : len(group)] = values
        yield np.arange(len(prompts)), scores


PROMPTS = [Prompt("one", ("a", "b")), Prompt("two", ("b",)), Prompt("one", ("b", "c", "b"))]


def test_each_pair_of_prompt_and_action_is_asked_once(store, monkeypatch):
    asked = Asked(monkeypatch)
    model = CachedModel("model", store)
    log_probs, features, _ = Scored(model).score(PROMPTS)
    assert sorted(asked.pairs) == [("one", "a"), ("one", "b"), ("one", "c"), ("two", "b")]
    assert (model.queries.made, model.queries.saved) == (2, 0)
    for b, prompt in enumerate(PROMPTS):
        said = answers(prompt.text, prompt.actions)
        n = len(prompt.actions)
        np.testing.assert_array_equal(features[b, :n], said.features)
        probs = np.exp(said.log_probs.astype(np.float64))
        np.testing.assert_allclose(np.exp(log_probs[b, :n]), probs / probs.sum(), rtol=1e-6)
        assert (log_probs[b, n:] == -np.inf).all()
        assert (features[b, n:] == 0).all()
    again = CachedModel("model", store)
    for left, right in zip(Scored(again).score(PROMPTS)[:2], (log_probs, features), strict=True):
        np.testing.assert_array_equal(left, right)
    assert len(asked.pairs) == 4
    assert (again.queries.made, again.queries.saved) == (0, 2)
    CachedModel("model", store).score([Prompt("two", ("a", "b"))])
    assert asked.pairs[4:] == [("two", "a")]
    assert (store.usage()[0].found, store.usage()[0].not_found) == (2, 3)


def test_a_prompt_without_actions_is_refused():
    with pytest.raises(ValueError, match="prompt 0 has no actions"):
        CachedModel("tiny").score([Prompt("Now:", ())])


def test_another_normalization_asks_nothing_and_another_model_asks_everything(store, monkeypatch):
    asked = Asked(monkeypatch)
    CachedModel("model", store).score(PROMPTS)
    count = len(asked.pairs)
    log_probs = Scored(CachedModel("model", store), "token", 0.5).score(PROMPTS).log_probs
    assert len(asked.pairs) == count
    said = answers("one", ("a", "b"))
    weights = np.exp(said.log_probs.astype(np.float64) / said.num_tokens / 0.5)
    np.testing.assert_allclose(np.exp(log_probs[0, :2]), weights / weights.sum(), rtol=1e-6)
    CachedModel("other model", store).score(PROMPTS)
    assert len(asked.pairs) == 2 * count


def refuse_writing(store: PriorStore, reason: str) -> None:
    if reason == "full":
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
    else:
        store._connection.execute("PRAGMA query_only = ON")


@pytest.mark.parametrize(
    ("reason", "advice"),
    [("full", "make room on its disk"), ("readonly", "see to its permissions")],
)
def test_a_store_that_takes_no_more_stops_nothing(store, monkeypatch, caplog, reason, advice):
    asked = Asked(monkeypatch)
    without = CachedModel("model").score(PROMPTS).log_probs
    CachedModel("model", store).score(PROMPTS[:1])
    refuse_writing(store, reason)
    model = CachedModel("model", store)
    many = [Prompt(f"{n}", tuple(f"{a}" * 50 for a in range(50))) for n in range(20)]
    with caplog.at_level("WARNING"):
        log_probs = model.score(PROMPTS).log_probs
        model.score(many)
        model.score(many)
    np.testing.assert_array_equal(log_probs, without)
    assert caplog.text.count("is not kept any more") == 1
    assert advice in caplog.text
    assert model.queries.not_kept >= 20
    assert ("one", "a") not in asked.pairs[5:], "what the store holds is still read from it"


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_PROTOCOL, "put it on a local disk"),
        (sqlite3.SQLITE_IOERR | 15 << 8, "put it on a local disk"),  # an extended code, of a lock
        (sqlite3.SQLITE_BUSY, "another process has kept it locked"),
        (sqlite3.SQLITE_CANTOPEN, "see to its permissions"),
        (sqlite3.SQLITE_CORRUPT, "it is damaged, or no store"),
    ],
)
def test_the_advice_is_for_what_sqlite_says(store, monkeypatch, code, advice):
    class Failing:
        def execute(self, *args):
            error = sqlite3.OperationalError("so it is")
            error.sqlite_errorcode = code
            raise error

    monkeypatch.setattr(store, "_connection", Failing())
    with pytest.raises(StoreError, match=rf"cannot be read \(so it is\): .*{advice}"):
        store.get_scores("model", ["a prompt"])
    monkeypatch.undo()


def test_a_store_that_knows_all_and_may_only_be_read_warns_of_nothing(store, monkeypatch, caplog):
    Asked(monkeypatch)
    CachedModel("model", store).score(PROMPTS)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with PriorStore(store.path) as known, caplog.at_level("WARNING"):
        assert known.read_only
        CachedModel("model", known).score(PROMPTS)
    assert caplog.text == ""


def test_a_store_in_a_directory_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    path = tmp_path / "priors.sqlite"
    with PriorStore(path) as store:
        store.put_scores("f", "model", {"prompt": answers("prompt", ["a"])})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with PriorStore(path) as store:
        assert store.get_scores("f", ["prompt"])[0] is not None
        assert list(tmp_path.iterdir()) == [path], "SQLite made a file where it may not"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_without_write_permission_is_read(tmp_path):
    path = tmp_path / "priors.sqlite"
    with PriorStore(path) as store:
        store.put_scores("f", "model", {"prompt": answers("prompt", ["a"])})
    path.chmod(0o444)
    with PriorStore(path) as store:
        assert store.read_only
        assert store.get_scores("f", ["prompt"])[0] is not None
        with pytest.raises(StoreError, match="see to its permissions"):
            store.put_scores("f", "model", {"other": answers("other", ["a"])})


# Moving it.


def test_what_is_exported_is_imported_bit_for_bit_and_changes_nothing_known(store, tmp_path):
    odd = np.array([[-0.0, np.inf, 1e-45, 0.1]], np.float32)
    said = StoredScores(("a",), odd[:, 0], np.array([7], np.int32), odd[:, 1:])
    store.put_scores("f", "model", {"prompt": said, "other": answers("other", ["a", "b"])})
    store.put_scores("g", "model", {"prompt": answers("g", ["c"])})
    store.put_proposals("f", "model", {"k": 1}, {"prompt": ["answer"]})
    path = tmp_path / "priors.parquet"
    assert export_parquet(store, path) == 4
    with PriorStore(tmp_path / "second.sqlite") as second:
        first = answers("other", ["b"], offset=1.0)
        second.put_scores("f", "model", {"other": first})
        assert import_parquet(second, path) == 4
        prompt, other = second.get_scores("f", ["prompt", "other"])
        assert prompt is not None
        assert other is not None
        assert_same_bits(prompt, said)
        assert_same_bits(other, first.merge(answers("other", ["a"])))
        assert second.get_scores("g", ["prompt"])[0] is not None
        assert second.get_proposals("f", ["prompt"], {"k": 1}) == [["answer"]]


def test_a_file_that_is_no_export_is_refused(store, tmp_path):
    path = tmp_path / "priors.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(StoreError, match="cannot be read as an exported store"):
        import_parquet(store, path)
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), path)
    with pytest.raises(StoreError, match="other columns"):
        import_parquet(store, path)


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("actions", ["a", "a"], "the action 'a' stands twice"),
        ("actions", ["a", None], "no texts"),
        ("num_tokens", [1, 0], "an action has no token"),
        ("log_probs", [-1.0, None], "NaN"),
        ("prompt", None, "lacks"),
    ],
)
def test_rows_that_no_model_said_are_not_imported(store, tmp_path, column, value, problem):
    store.put_scores("f", "model", {"prompt": answers("prompt", ["a", "b"])})
    path = tmp_path / "priors.parquet"
    export_parquet(store, path)
    table = pyarrow.parquet.read_table(path)
    rows = [table.to_pylist()[0] | {column: value}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), path)
    with PriorStore(tmp_path / "second.sqlite") as second:
        with pytest.raises(StoreError, match=problem):
            import_parquet(second, path)
        assert second.usage() == []


def test_of_a_file_with_a_bad_row_nothing_is_imported(store, tmp_path, monkeypatch):
    store.put_scores("f", "model", {f"{n}": answers(f"{n}", ["a"]) for n in range(4)})
    path = tmp_path / "priors.parquet"
    export_parquet(store, path)
    table = pyarrow.parquet.read_table(path)
    rows = table.to_pylist()
    rows[3]["num_tokens"] = [0]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), path)
    monkeypatch.setattr(parquet, "_ROWS_AT_ONCE", 2)
    with pytest.raises(StoreError, match="prompt '3': an action has no token"):
        import_parquet(tmp_path / "second" / "priors.sqlite", path)
    assert not (tmp_path / "second").exists()


def test_an_import_makes_the_store_that_it_names(store, tmp_path):
    store.put_scores("f", "model", {"prompt": answers("prompt", ["a"])})
    export_parquet(store, tmp_path / "priors.parquet")
    import_parquet(tmp_path / "second" / "priors.sqlite", tmp_path / "priors.parquet")
    with PriorStore(tmp_path / "second" / "priors.sqlite", create=False) as second:
        assert second.usage()[0].prompts == 1


def test_an_export_that_does_not_match_its_hash_is_refused(store, tmp_path):
    store.put_scores("f", "model", {"prompt": GOOD})
    path = tmp_path / "priors.parquet"
    export_parquet(store, path)
    table, about = pyarrow.parquet.read_table(path), pyarrow.parquet.read_metadata(path).metadata
    rows = [table.to_pylist()[0] | {"log_probs": [-1.0, -2.0]}]
    with pyarrow.parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema))
        writer.add_key_value_metadata({files.DIGEST: about[files.DIGEST.encode()]})
    with pytest.raises(StoreError, match=r"priors\.parquet is damaged: its rows do not match"):
        import_parquet(tmp_path / "second.sqlite", path)
    assert not (tmp_path / "second.sqlite").exists()


@pytest.mark.parametrize("content", [None, b""])
def test_a_store_that_is_not_there_is_not_made_unless_it_is_to_be(tmp_path, content):
    path = tmp_path / "folder" / "priors.sqlite"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)
    with pytest.raises(StoreError, match=f"there is no store {path}"):
        PriorStore(path, create=False)
    assert path.parent.exists() == (content is not None)
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize(
    "command", [["show"], ["remove", "--model=tiny"], ["export", "--file={}/priors.parquet"]]
)
def test_a_command_that_reads_makes_no_store_at_a_mistyped_path(tmp_path, command):
    path = tmp_path / "folder" / "priors.sqlite"
    words = ["prior", *(word.format(tmp_path) for word in command), f"--store={path}"]
    try:
        with pytest.raises(StoreError, match=f"there is no store {path}"):
            prior.main(prior.FLAGS(words))
    finally:
        for name in prior.FLAGS:
            prior.FLAGS[name].unparse()
    assert list(tmp_path.iterdir()) == []


def launch(*arguments: str) -> str:
    command = [sys.executable, "-m", "launch.prior", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.long
def test_the_command_fills_a_store_and_shows_what_is_in_it(tmp_path):
    path = tmp_path / "priors.sqlite"
    store = f"--store={path}"
    fill = ("fill", "--config=quickstart", "--config.env=FrozenLake-4x4", store)
    # Holes look alike, as texts.
    assert "16 states of FrozenLake-4x4 by tiny: 13 queries made" in launch(*fill)
    shown = json.loads(launch("show", store, "--json").splitlines()[-1])
    (tiny,) = shown["models"]
    assert (tiny["name"], tiny["prompts"], tiny["actions"]) == ("tiny", 13, 52)
    # What 128 hidden units take, and little more.
    assert 13 * 4 * 128 * 2 < tiny["bytes"] < 1.3 * 13 * 4 * 128 * 2
