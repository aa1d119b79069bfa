"""Pools of runs: each run is trained once, however many processes and commands are at it."""

import json
import multiprocessing
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import filelock
import pytest

from launch.common import run_pool
from llmprior_jax import training


@pytest.fixture
def configs():
    """Runs that take a moment, by name."""
    made = {}
    for seed in range(3):
        config = training.default_config()
        config.env, config.agents, config.seed = "FrozenLake-4x4", ("random",), seed
        config.num_seeds, config.eval_episodes, config.prior.store = 1, 4, ""
        made[f"run{seed}"] = config
    return made


def starts(workdir: pathlib.Path, name: str) -> int:
    """How often training of a run was begun."""
    path = workdir / name / "provenance.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.1)


@pytest.mark.long
def test_processes_share_the_runs_and_train_each_once(tmp_path, configs):
    assert run_pool.train_in_processes(tmp_path, configs, jobs=2) == []
    assert [starts(tmp_path, name) for name in configs] == [1, 1, 1]
    assert all((tmp_path / name / "summary.json").exists() for name in configs)
    lines = [json.loads(line) for line in (tmp_path / "seconds.jsonl").read_text().splitlines()]
    assert sorted(each["name"] for each in lines) == list(configs)


@pytest.mark.long
def test_a_run_has_a_log_and_the_command_that_led_to_it(tmp_path, configs):
    run_pool.train_in_processes(tmp_path, {"run0": configs["run0"]}, jobs=1)
    assert "prior: " in (tmp_path / "run0" / "log.txt").read_text()
    (line,) = (tmp_path / "run0" / "provenance.jsonl").read_text().splitlines()
    assert json.loads(line)["command"].endswith(shlex.quote(sys.orig_argv[-1]))


@pytest.mark.long
@pytest.mark.parametrize("jobs", [None, 1])
def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, configs, jobs):
    (tmp_path / "run1").mkdir()
    with filelock.FileLock(tmp_path / "run1" / ".lock"):
        if jobs is None:
            run_pool.train_here(tmp_path, configs)
        else:
            assert run_pool.train_in_processes(tmp_path, configs, jobs) == []
    assert [starts(tmp_path, name) for name in configs] == [1, 0, 1]


def test_a_finished_run_is_left_alone(tmp_path, configs):
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "summary.json").write_text("{}")
    run_pool.train_here(tmp_path, configs)
    assert [starts(tmp_path, name) for name in configs] == [0, 1, 1]


def test_a_directory_of_another_run_is_refused_before_anything_is_trained(tmp_path, configs):
    run_pool.train_here(tmp_path, {"run2": configs["run1"]})
    with pytest.raises(training.ConfigMismatchError, match="seed: 1 in the directory, 2 now"):
        run_pool.train_in_processes(tmp_path, configs, jobs=1)
    assert [starts(tmp_path, name) for name in configs] == [0, 0, 1]


@pytest.mark.long
def test_a_run_that_fails_says_why_in_its_log_and_stops_no_other(tmp_path, configs):
    configs["run0"].env = "FrozenLak"
    assert run_pool.train_in_processes(tmp_path, configs, jobs=2) == ["run0"]
    assert [starts(tmp_path, name) for name in configs] == [0, 1, 1]
    errors = [
        line
        for line in (tmp_path / "run0" / "log.txt").read_text().splitlines()
        if line.startswith("error: ")
    ]
    assert len(errors) == 1, "it was tried again"
    assert "FrozenLake-4x4" in errors[0]  # the nearest name


@pytest.mark.long
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_run_whose_process_is_ended_has_failed_and_stops_no_other(tmp_path, configs, end):
    def kill() -> None:
        wait_until((tmp_path / "run0" / "log.txt").exists)
        (process,) = multiprocessing.active_children()
        getattr(process, end)()

    for config in configs.values():  # Longer than a segment, so that it can be told to stop.
        config.agents, config.num_steps, config.eval_every = ("dqn",), 800, 400
    killer = threading.Thread(target=kill)
    killer.start()
    assert run_pool.train_in_processes(tmp_path, configs, jobs=1) == ["run0"]
    killer.join()
    assert (tmp_path / "run2" / "summary.json").exists()


_LONG = """
import pathlib, sys
from absl import flags
from launch.common import app, run_pool
from llmprior_jax import training

def main(argv):
    config = training.default_config()
    config.env, config.agents, config.prior.store = "FrozenLake-4x4", ("dqn",), ""
    config.num_seeds, config.num_steps, config.eval_every = 1, 10_000_000, 400
    config.eval_episodes, config.checkpoint.every = 1, 1_000_000
    run_pool.train_in_processes(pathlib.Path(argv[1]), {"long": config}, jobs=2)

if __name__ == "__main__":
    app.run(main, flags.FlagValues(), max_arguments=1)
"""


@pytest.fixture
def long_run(tmp_path):
    """A process whose worker is training a run that takes hours."""
    (tmp_path / "long.py").write_text(_LONG)
    command = [sys.executable, str(tmp_path / "long.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    metrics = tmp_path / "long" / "dqn" / "metrics.jsonl"

    def is_training() -> bool:
        assert process.poll() is None
        return metrics.exists() and len(metrics.read_text().splitlines()) > 2

    wait_until(is_training)
    return process


def last_checkpoint(workdir: pathlib.Path) -> int:
    """The steps of the last checkpoint; the first one is that of the beginning, 0."""
    names = [path.name for path in (workdir / "long" / "dqn" / "checkpoints").iterdir()]
    return max(int(name) for name in names if name.isdecimal())


@pytest.mark.long
def test_ctrl_c_ends_the_processes_with_a_checkpoint(tmp_path, long_run):
    os.killpg(long_run.pid, signal.SIGINT)  # as a terminal does
    assert long_run.wait(60) == 128 + signal.SIGINT
    assert last_checkpoint(tmp_path) > 0


@pytest.mark.long
def test_processes_end_with_a_checkpoint_when_the_first_one_is_killed(tmp_path, long_run):
    long_run.kill()
    long_run.wait(60)
    # The worker lets go of the run when all is written.
    with filelock.FileLock(tmp_path / "long" / ".lock", timeout=60):
        assert last_checkpoint(tmp_path) > 0
