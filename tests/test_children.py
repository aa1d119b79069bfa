"""Processes that a command starts end with it, however it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from launch.common import children

# Commands of those that run a slow one.
_COMMAND = """
import sys
from launch.common import children

if __name__ == "__main__":
    children.run("slow", sys.argv[1])
"""
_ACCELERATOR = """
import sys
from launch.benchmarks import accelerator

if __name__ == "__main__":
    accelerator.run([accelerator.Step("slow", ("slow", sys.argv[1]), str)], 10, None)
"""
_SCORING = """
import runpy
from launch.benchmarks import scoring

if __name__ == "__main__":
    with scoring._Process() as here:
        here(runpy.run_module, "slow")
"""
# As a command that waits for something: it says who it is, and goes on for a minute.
_SLOW = """
import os, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
path.with_suffix(".new").write_text(str(os.getpid()))
path.with_suffix(".new").rename(path)
time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path, request):
    """A process that runs a slow command, whose process id is in the file `child`."""
    (tmp_path / "parent.py").write_text(request.param)
    (tmp_path / "slow.py").write_text(_SLOW)
    process = subprocess.Popen(
        [sys.executable, "parent.py", str(tmp_path / "child")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{os.getcwd()}{os.pathsep}{tmp_path}"},
        start_new_session=True,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


def lives(number: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("parent", "number"),
    [
        pytest.param(code, number, id=f"{name}-{number.name}")
        for name, code, numbers in (
            ("command", _COMMAND, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
            ("accelerator", _ACCELERATOR, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
            ("scoring", _SCORING, (signal.SIGTERM,)),  # Ctrl-C reaches both processes.
        )
        for number in numbers
    ],
    indirect=["parent"],
)
def test_a_command_ends_with_the_process_that_runs_it(tmp_path, parent, number):
    until = time.monotonic() + 60
    while not (tmp_path / "child").exists():
        assert parent.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    child = int((tmp_path / "child").read_text())
    assert lives(child)
    parent.send_signal(number)
    parent.wait(30)
    until = time.monotonic() + 30
    while lives(child):
        assert time.monotonic() < until, "it outlived its parent"
        time.sleep(0.02)


def test_a_command_that_fails_is_named(tmp_path, monkeypatch, capfd):
    (tmp_path / "fails.py").write_text("import sys\nsys.exit(f'error: {sys.argv[1:]}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ChildProcessError, match=r"`python -m fails '--out=a b'` failed, see above"):
        children.run("fails", "--out=a b")
    assert "error: ['--out=a b']" in capfd.readouterr().err
