"""Locks: one holder at a time, who is named, and whose end lifts them."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
from test_experiment import small_config

from llmprior_jax import training
from llmprior_jax.distributed import locks
from llmprior_jax.errors import InUseError
from llmprior_jax.training import build
from llmprior_jax.training.config import claim_workdir

_HOLD = """
import pathlib, sys
from llmprior_jax.distributed import locks
with locks.hold(pathlib.Path(sys.argv[1]), of="it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds the lock of a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path / ".lock"],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_holder_is_told_who_the_first_is_until_that_is_killed(tmp_path, holder):
    told = f"^the run is in use by process {holder.pid} on {socket.gethostname()}: "
    with pytest.raises(InUseError, match=told), locks.hold(tmp_path / ".lock", of="the run"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locks.hold(tmp_path / ".lock", of="the run"):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()


def test_of_a_holder_that_the_file_does_not_name_there_is_one_all_the_same(tmp_path, holder):
    (tmp_path / ".lock").write_bytes(b"\xff a b")
    with pytest.raises(InUseError, match="by another process"), locks.hold(tmp_path / ".lock", "x"):
        pass


def test_who_waits_says_for_whom_and_gets_the_lock(tmp_path, holder, capsys):
    threading.Timer(0.5, holder.kill).start()
    with locks.hold(tmp_path / ".lock", of="games", wait=True):
        pass
    assert f"games is in use by process {holder.pid} on " in capsys.readouterr().err


def test_a_thread_may_hold_its_lock_again_and_another_thread_may_not(tmp_path):
    refused = []

    def hold() -> None:
        try:
            with locks.hold(tmp_path / ".lock", of="it"):
                pass
        except InUseError as error:
            refused.append(str(error))

    with locks.hold(tmp_path / ".lock", of="it"):
        with locks.hold(tmp_path / ".lock", of="it"):
            pass
        other = threading.Thread(target=hold)
        other.start()
        other.join()
    assert len(refused) == 1
    assert f"process {os.getpid()} on" in refused[0]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_to_have_none(tmp_path, monkeypatch, caplog, number):
    def flock(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with caplog.at_level("WARNING"), locks.hold(tmp_path / ".lock", of="runs/a"):
        pass
    assert "the file system of runs/a has no locks" in caplog.text


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_run_in_a_directory_is_refused_before_a_model_is_loaded(
    tmp_path, monkeypatch, resume, holder
):
    config = small_config(agents=("random",), **{"prior.store": ""})
    claim_workdir(tmp_path, config)
    monkeypatch.setattr(build, "make_priors", lambda *_, **__: pytest.fail("it went on"))
    with pytest.raises(InUseError, match=rf"{tmp_path} is in use by process {holder.pid} on"):
        training.run(config, tmp_path, resume)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]


def test_of_two_that_begin_a_run_at_once_one_is_refused_and_writes_nothing(tmp_path, holder):
    with pytest.raises(InUseError, match=rf"{tmp_path} is in use"):
        training.run(small_config(agents=("random",), **{"prior.store": ""}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
