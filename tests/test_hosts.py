"""Two processes train one run together, and are killed: it ends as in one process."""

import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest
from test_experiment import assert_same_bits, final_state, reached, small_config
from test_experiment import start as start_command

from launch.common import cluster
from llmprior_jax import datasets, envs, training
from llmprior_jax.distributed import processes
from llmprior_jax.play import collecting
from llmprior_jax.play.collecting import Part, random_behavior
from llmprior_jax.training.metrics import read_metrics

ROOT = pathlib.Path(__file__).parent.parent
CHANGES = {"agents": ("dqn_prior",), "num_steps": 640}


def start(workdir: pathlib.Path) -> list[subprocess.Popen]:
    """Starts both processes, a device each."""
    changed = small_config(**CHANGES).to_dict()
    command = [sys.executable, "-m", "launch.train", "--config=quickstart", f"--workdir={workdir}"]
    command += [
        f"--config.{name}={changed[name]}"
        for name in ("env", "agents", "num_seeds", "num_steps", "eval_every", "eval_episodes")
    ]
    command += ["--config.checkpoint.every=1", "--num_processes=2"]
    command += [f"--coordinator_address=127.0.0.1:{free_port()}"]
    return [start_one([*command, f"--process_id={number}"]) for number in range(2)]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start_one(command: list[str]) -> subprocess.Popen:
    """Starts a process with one device."""
    return start_command(
        command, JAX_NUM_CPU_DEVICES="1", JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo"
    )


@pytest.mark.long
def test_two_processes_that_are_killed_end_as_one_process_does(tmp_path):
    workdir = tmp_path / "two"
    killed = start(workdir)
    # Two segments, and the checkpoint of the first one at least.
    while not reached(workdir, 2) and all(process.poll() is None for process in killed):
        time.sleep(0.01)
    for process in reversed(killed):
        process.send_signal(signal.SIGKILL)
    output = [process.communicate()[0] for process in killed]
    assert reached(workdir, 2), output
    assert len(read_metrics(workdir / "dqn_prior")) < 5, (
        "they were killed too late to show anything"
    )

    output = [process.communicate()[0] for process in start(workdir)]
    assert "resumes after" in output[0], output
    assert "seeds there" in output[0], "the first process did not print the summary"
    assert "seeds there" not in output[1], "a summary was printed twice"

    # Here, a process with two devices.
    training.run(small_config(**CHANGES), tmp_path / "one")
    assert_same_bits(final_state(workdir), final_state(tmp_path / "one"))
    assert read_metrics(workdir / "dqn_prior") == read_metrics(tmp_path / "one" / "dqn_prior")
    assert len((workdir / "prior_queries.jsonl").read_text().splitlines()) == 1


_TINY = {
    "env": "FrozenLake-4x4",
    "num_seeds": 2,
    "eval_episodes": 4,
    "prior.num_features": 8,
    "prior.store": "",
}
# What only some runs do: to learn from a dataset, to train a language model, to sample proposals.
_OTHER_RUNS = {
    "cql_prior": {
        "offline.dataset": "shown.jsonl",
        "num_steps": 32,
        "eval_every": 16,
        "loop.batch_size": 4,
    },
    "gflan_prior": {
        "num_steps": 32,
        "eval_every": 16,
        "policy.num_envs": 4,
        "policy.rollout_steps": 4,
        "policy.lora_rank": 2,
        "policy.hidden_sizes": (),
        "prior.method": "propose",
        "prior.propose.k": 2,
        "prior.propose.max_new_tokens": 4,
        "prior.propose.pseudo_count": 1.0,
    },
}


def run_others(directory: pathlib.Path, data: pathlib.Path) -> None:
    """Trains both agents, in as many processes as there are."""
    for name, changes in _OTHER_RUNS.items():
        config = training.default_config()
        config.update_from_flattened_dict(_TINY | changes | {"agents": (name,)})
        if config.offline.dataset:
            config.offline.dataset = str(data / config.offline.dataset)
        training.run(config, directory / name)


_ONE_OF_TWO = """
import pathlib, sys
sys.path.insert(0, "tests")
import jax
from launch.common import cluster
directory, port, number = sys.argv[1:]
cluster.connect(f"127.0.0.1:{port}", 2, int(number))
from test_hosts import run_others
directory = pathlib.Path(directory)
run_others(directory / "two", directory)
"""


@pytest.mark.longest
def test_learning_offline_and_training_a_policy_end_in_two_processes_as_in_one(tmp_path):
    env, params = envs.make("FrozenLake-4x4")
    dataset = collecting.collect(env, params, [Part(random_behavior(), 1.0)], num_episodes=4)
    datasets.write(tmp_path / "shown.jsonl", dataset)
    command = [sys.executable, "-c", _ONE_OF_TWO, str(tmp_path), free_port()]
    two = [start_one([*command, str(number)]) for number in range(2)]
    run_others(tmp_path / "one", tmp_path)
    output = [process.communicate()[0] for process in two]
    assert all(process.returncode == 0 for process in two), output
    for name in _OTHER_RUNS:
        states = [
            training.restore(tmp_path / of / name, name, eval_episodes=4).state
            for of in ("one", "two")
        ]
        assert_same_bits(*states)
        told = [read_metrics(tmp_path / of / name / name) for of in ("one", "two")]
        assert told[0] == told[1]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (("127.0.0.1:1", 2, None), "give all three"),
        (("127.0.0.1", 2, 1), "write it like 10.0.0.1:8476"),
        (("127.0.0.1:1", 2, 2), "number them from 0 to 1"),
        (("127.0.0.1:1", 2, 1), r"nobody answers at .*=127\.0\.0\.1:1 after 0 seconds .*process 0"),
    ],
)
def test_processes_that_cannot_be_joined_are_told_what_to_do(where, message):
    with pytest.raises(ValueError, match=message):
        cluster.connect(*where, seconds=0)


def test_a_port_that_is_taken_is_named(monkeypatch):
    def initialize(*arguments, **options):
        raise RuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ValueError, match=r"cannot join .* at 127\.0\.0\.1:1 .* port is free"):
        cluster.connect("127.0.0.1:1", 2, 0)


class Elsewhere:
    """Stands in for the collectives, as a process sees them whose number is not 0."""

    def __init__(self, told: list):
        self._told = told

    def broadcast_one_to_all(self, array):
        return self._told.pop(0)


def test_a_failure_of_the_first_process_is_told_to_the_others(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "multihost_utils", Elsewhere([-1]))
    with pytest.raises(processes.FirstProcessError, match="its output says why"):
        processes.from_first(lambda: pytest.fail("the first process alone does it"))


def test_the_coordinator_listens_at_the_address_named_and_nowhere_else():
    assert cluster._bound("localhost", "8476") == "localhost:8476"


def test_an_address_of_another_machine_is_said_and_listened_for_everywhere(capsys):
    assert cluster._bound("192.0.2.1", "8476") is None  # Kept for documents, nobody's own.
    assert "no address of this machine" in capsys.readouterr().err
