"""The benchmark of the environments runs, and says what it measured."""

import json

import pytest

from launch import benchmark
from launch.benchmarks import environments, learning


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(environments.envs, "NAMES", ("FrozenLake-4x4",))
    for constant in ("_SCAN_STEPS", "_LOOP_STEPS", "_REPEATS"):
        monkeypatch.setattr(environments, constant, 2)
    monkeypatch.setattr(environments, "_ENGINE_SECONDS", 0.1)


@pytest.mark.long
@pytest.mark.usefixtures("quick")
def test_the_last_line_is_the_result_as_json(capsys, alfworld_data):
    games = alfworld_data / "json_2.1.1" / "train"
    command = ["benchmark", "envs", "--num_envs=3", "--json", f"--games={games}"]
    benchmark.main(benchmark.FLAGS(command))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    lake, alfworld = result["rows"]
    assert lake["environment"] == "FrozenLake-4x4"
    assert lake["engine_steps_per_s"] is None
    assert alfworld["environment"] == "ALFWorld"
    assert alfworld["engine_steps_per_s"] > 0
    for row in (lake, alfworld):
        assert row["batched_steps_per_s"] > 0
        assert row["looped_steps_per_s"] > 0


@pytest.mark.usefixtures("quick")
def test_minigrid_is_measured_in_the_same_level():
    pytest.importorskip("minigrid")
    assert environments._minigrid_steps_per_second("BabyAI-GoToLocal", seed=0) > 0


def test_an_unknown_benchmark_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'envs'"):
        benchmark.main(["benchmark", "env"])


def test_a_missing_benchmark_is_answered_with_all():
    with pytest.raises(ValueError, match="envs, generation, scoring, train"):
        benchmark.main(["benchmark"])


@pytest.mark.long
def test_training_is_measured_by_environments_and_by_seeds(monkeypatch):
    for constant, value in {"_ITERATIONS": 2, "_REPEATS": 1, "_ENVS": (2,), "_SEEDS": (2,)}.items():
        monkeypatch.setattr(learning, constant, value)
    by_envs, by_seeds = learning.measure().rows
    assert (by_envs["seeds"], by_envs["environments"]) == (1, 2)
    assert (by_seeds["seeds"], by_seeds["environments"]) == (2, 8)
    for row in (by_envs, by_seeds):
        ratio = row["seeds"] * row["environments"] / row["seeds"]
        assert row["steps_per_s"] == pytest.approx(ratio * row["updates_per_s"], rel=0.2)
        assert row["times_first"] == 1
