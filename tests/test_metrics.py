"""Metrics for people: Weights & Biases is told what TensorBoard is, where a project is named."""

import json
import struct
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from llmprior_jax import files, training
from llmprior_jax.training.metrics import MetricsWriter, check_login, read_metrics
from llmprior_jax.training.validation import validate


@pytest.fixture
def config(monkeypatch) -> training.Config:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = training.default_config()
    config.wandb_project = "kitchens"
    return config


def test_weights_and_biases_is_told_what_tensorboard_is_told(tmp_path, config):
    directory = tmp_path / "run" / "dqn"
    with MetricsWriter(directory, -1, -1, training.to_settings(config)) as metrics:
        metrics.write(0, 0, success_rate=np.array([0.25, 0.75]), loss=float("nan"))
        metrics.write(1, 8, success_rate=np.array([0.5, np.nan]), loss=3.0)
    # Neither promises an order of what belongs to one step.
    told = sorted(_wandb_history(directory))
    assert told == sorted(_tensorboard_scalars(directory))
    assert told == [(0, "success_rate", 0.5), (8, "loss", 3.0), (8, "success_rate", 0.5)]


def test_a_run_that_goes_on_does_so_under_its_id(tmp_path, config):
    for segment in (0, 1):
        with MetricsWriter(
            tmp_path, segment - 1, segment - 1, training.to_settings(config)
        ) as metrics:
            metrics.write(segment, segment, loss=0.5)
    (name,) = {path.name for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb")}
    assert name == f"run-{(tmp_path / 'wandb_id').read_text().strip()}.wandb"


def test_without_a_project_nothing_is_told(tmp_path):
    with MetricsWriter(tmp_path, -1, -1, training.default_config()) as metrics:
        metrics.write(0, 0, loss=0.5)
    assert not (tmp_path / "wandb").exists()


def test_where_it_is_missing_the_extra_is_named_before_anything_is_done(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r"llmprior-jax\[wandb\]"):
        validate(training.to_settings(config))


@pytest.fixture
def online(config, monkeypatch, tmp_path) -> training.Config:
    """A configuration whose metrics are to be sent, by somebody who never logged in."""
    import wandb

    wandb.teardown()  # It remembers the mode.
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    config.env, config.agents, config.prior.store = "FrozenLake-4x4", ("random",), ""
    yield config
    wandb.teardown()


def test_who_is_not_logged_in_is_told_before_the_directory_is_made(online, tmp_path):
    with pytest.raises(ValueError, match=r"no API key is known.*wandb login.*WANDB_MODE=offline"):
        training.run(online, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_login_that_the_server_refuses_is_told_before_the_directory_is_made(
    online, tmp_path, monkeypatch
):
    import wandb

    def login(**how: object) -> None:
        raise wandb.errors.AuthenticationError("the key is of nobody")

    monkeypatch.setattr(wandb, "login", login)
    with pytest.raises(ValueError, match="nobody is logged in: the key is of nobody"):
        training.run(online, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_where_nothing_is_sent_nobody_need_be_logged_in(online, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    check_login()


def test_a_directory_of_its_name_is_not_taken_for_the_library(config, monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ImportError, match=r"llmprior-jax\[wandb\]"):
        validate(training.to_settings(config))


def lines(tmp_path, *contents: bytes, end: bytes = b"\n"):
    """A directory whose metrics have a good line, the given ones, and another good line."""
    good = [json.dumps({"segment": n, "step": 8 * n}).encode() for n in (0, 2)]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([good[0], *contents, good[1]]) + end)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"segment": 1, "st', "Unterminated"),
        (b'{"segment": 1, "step": 8, "x": "\xff"}', "not UTF-8"),
        (b"-", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 8]", r"this is [1, 8], and no object"),
        (b'{"step": 8}', "there is no field segment"),
        (b'{"segment": 1}', "there is no field step"),
        (b'{"segment": "1", "step": 8}', "segment is '1', and no whole number"),
        (b'{"segment": 1, "step": 8, "return": ["x"]}', "return[0] is 'x', and no number"),
        (json.dumps(files.sealed({"segment": 1, "step": 8}) | {"step": 9}).encode(), "the hash"),
    ],
)
def test_a_damaged_line_is_named_and_those_after_it_are_kept(tmp_path, caplog, line, problem):
    with caplog.at_level("WARNING"):
        kept = read_metrics(lines(tmp_path, line))
    assert [record["segment"] for record in kept] == [0, 2]
    assert f"{tmp_path / 'metrics.jsonl'}, line 2: " in caplog.text
    assert "this line is left out" in caplog.text
    assert problem in caplog.text


def test_a_run_that_goes_on_keeps_the_records_after_a_damaged_line(tmp_path):
    with MetricsWriter(lines(tmp_path, b"damaged"), 2, 16) as metrics:
        metrics.write(3, 24, loss=0.5)
    assert [record["segment"] for record in read_metrics(tmp_path)] == [0, 2, 3]


def test_a_last_line_that_a_kill_cut_off_is_left_out_without_a_word(tmp_path, caplog):
    path = lines(tmp_path) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with caplog.at_level("WARNING"):
        assert [record["segment"] for record in read_metrics(tmp_path)] == [0]
    assert caplog.text == ""


def test_a_last_line_without_its_end_is_kept(tmp_path):
    assert len(read_metrics(lines(tmp_path, end=b""))) == 2


def _wandb_history(directory) -> Iterator[tuple[int, str, float]]:
    """What an offline run has kept: a log of records, each behind a checksum, a length and a type.

    (The format of LevelDB's log; files under 32 KB have no record in two parts.)
    """
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # Ends the process that writes, and so that it has written.
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    place = 7  # of the file's own header
    while place < len(data):
        _, length, _ = struct.unpack_from("<IHB", data, place)
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data[place + 7 : place + 7 + length])
        place += 7 + length
        row = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for name, value in row.items():
            if not name.startswith("_"):
                yield record.history.step.num, name, json.loads(value)


def _tensorboard_scalars(directory) -> list[tuple[int, str, float]]:
    """What the events say: records, each between a length with a checksum and a checksum."""
    (path,) = directory.glob("tensorboard/events.*")
    data, place, scalars = path.read_bytes(), 0, []
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return scalars
