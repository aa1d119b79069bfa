"""Runs shared by processes: each is trained once, and what another process is at is left to it."""

import json
import os
import signal
import subprocess
import sys
import time

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


def starts(workdir, name):
    """How often training of a run was begun."""
    path = workdir / name / "provenance.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_processes_share_the_runs_and_train_each_once(tmp_path, configs):
    run_pool.train(tmp_path, configs, jobs=2)
    assert [starts(tmp_path, name) for name in configs] == [1, 1, 1]
    assert all((tmp_path / name / "summary.json").exists() for name in configs)
    told = [json.loads(line) for line in (tmp_path / "seconds.jsonl").read_text().splitlines()]
    assert sorted(each["name"] for each in told) == list(configs)


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, configs):
    with filelock.FileLock(tmp_path / "run1.lock"):
        run_pool.train(tmp_path, configs)
    assert [starts(tmp_path, name) for name in configs] == [1, 0, 1]


def test_a_finished_run_is_left_alone(tmp_path, configs):
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "summary.json").write_text("{}")
    run_pool.train(tmp_path, configs)
    assert [starts(tmp_path, name) for name in configs] == [0, 1, 1]


def test_the_log_of_a_process_that_failed_is_named(tmp_path, configs):
    configs["run1"].env = "FrozenLak"
    with pytest.raises(SystemExit, match=r"of 2 processes failed; see .*process\d\.log"):
        run_pool.train(tmp_path, configs, jobs=2)
    logs = "".join(path.read_text() for path in tmp_path.glob("process*.log"))
    assert "FrozenLake-4x4" in logs  # the nearest name


_LONG = """
import pathlib, sys
from launch import app, workers
from llmprior_jax import training

def main():
    config = training.default_config()
    config.env, config.agents, config.prior.store = "FrozenLake-4x4", ("dqn",), ""
    config.num_seeds, config.num_steps, config.eval_every = 1, 10_000_000, 400
    config.eval_episodes, config.checkpoint.every = 1, 1_000_000
    with app.guard():
        run_pool.train(pathlib.Path(sys.argv[1]), {"long": config}, jobs=2)

if __name__ == "__main__":
    main()
"""


def test_ctrl_c_ends_the_processes_with_a_checkpoint(tmp_path):
    (tmp_path / "long.py").write_text(_LONG)
    command = [sys.executable, str(tmp_path / "long.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    metrics = tmp_path / "long" / "dqn" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 2):
        assert process.poll() is None
        assert time.monotonic() < deadline, "training never began"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(60) == 128 + signal.SIGINT
    # Otherwise the only checkpoint would be that of the beginning.
    steps = [int(path.name) for path in (tmp_path / "long" / "dqn" / "checkpoints").iterdir()]
    assert max(steps) > 0
