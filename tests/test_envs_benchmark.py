"""The benchmark of the environments runs, and says what it measured."""

import json

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import benchmark
from launch.benchmarks import environments


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(environments.envs, "NAMES", ("FrozenLake-4x4",))
    for constant in ("_SCAN_STEPS", "_LOOP_STEPS", "_REPEATS"):
        monkeypatch.setattr(environments, constant, 2)
    was_parsed = flags.FLAGS.is_parsed()
    with flagsaver.flagsaver():
        flags.FLAGS.mark_as_parsed()
        flags.FLAGS["num_envs"].value = 3
        flags.FLAGS["json"].value = True
        yield
    if not was_parsed:
        flags.FLAGS.unparse_flags()


@pytest.mark.usefixtures("quick")
def test_the_last_line_is_the_result_as_json(capsys):
    benchmark.main(["benchmark", "envs"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    assert row["environment"] == "FrozenLake-4x4"
    assert row["batched_steps_per_s"] > 0
    assert row["looped_steps_per_s"] > 0


def test_an_unknown_benchmark_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'envs'"):
        benchmark.main(["benchmark", "env"])


def test_a_missing_benchmark_is_answered_with_all():
    with pytest.raises(ValueError, match="envs, scoring, seeds"):
        benchmark.main(["benchmark"])
