"""Sweeps: which runs a command means, and that a second call leaves finished ones alone."""

import pathlib

import pytest
from test_launch import launch

from launch import sweep
from llmprior_jax import training


def test_settings_combine_and_the_last_varies_fastest():
    settings = ["agent.alpha=0.1,0.2", "env=FrozenLake-4x4,FrozenLake-8x8"]
    points = sweep.combinations(settings, training.default_config())
    assert [tuple(point.values()) for point in points] == [
        ("0.1", "FrozenLake-4x4"),
        ("0.1", "FrozenLake-8x8"),
        ("0.2", "FrozenLake-4x4"),
        ("0.2", "FrozenLake-8x8"),
    ]


def test_a_tuple_is_one_value():
    points = sweep.combinations(["agents=('dqn','prior'),('dqn',)"], training.default_config())
    assert points == [{"agents": "('dqn','prior')"}, {"agents": "('dqn',)"}]


def test_no_settings_are_one_run():
    assert sweep.combinations([], training.default_config()) == [{}]


@pytest.mark.parametrize(
    ("setting", "message"),
    [("agent.alhpa=1", "did you mean 'agent.alpha'"), ("agent.alpha=", "give values")],
)
def test_a_setting_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        sweep.combinations([setting], training.default_config())


def test_settings_are_read_as_the_types_of_their_fields():
    config = training.default_config()
    point = {"agent.alpha": "0.5", "agents": "('dqn','prior')", "num_seeds": "3", "env": "mine"}
    changed = sweep.with_settings(config, point)
    assert (changed.agent.alpha, changed.num_seeds, changed.env) == (0.5, 3, "mine")
    assert changed.agents == ("dqn", "prior")
    assert config.to_json() == training.default_config().to_json(), "the original was changed"


def test_settings_that_are_none_by_default_are_read_as_the_types_of_their_fields():
    config = training.default_config()
    point = {"agent.num_candidates": "3", "offline.size": "0", "prior.quantize": "int8"}
    changed = sweep.with_settings(config, point)
    assert (changed.agent.num_candidates, changed.offline.size) == (3, 0)
    assert changed.prior.quantize == "int8"
    assert config.agent.num_candidates is None, "the original was changed"


def test_a_value_that_is_none_of_its_field_is_refused():
    with pytest.raises(ValueError, match=r"--set cannot make agent\.alpha=high: .*float"):
        sweep.with_settings(training.default_config(), {"agent.alpha": "high"})


@pytest.mark.long
def test_a_sweep_tells_all_results_and_does_nothing_twice(tmp_path: pathlib.Path):
    command = [
        "launch.sweep",
        *("--config", "launch/configs/quickstart.py"),
        f"--workdir={tmp_path}",
        "--config.env=FrozenLake-4x4",
        "--config.agents=('random',)",
        "--config.num_seeds=2",
        "--set=eval_episodes=8,0",
    ]
    first = launch(*command)
    assert "1 of 2 runs failed" in first.stderr
    assert "config.eval_episodes is 0" in (tmp_path / "eval_episodes=0" / "log.txt").read_text()
    assert "eval_episodes=8" in first.stdout
    before = (tmp_path / "eval_episodes=8" / "log.txt").read_text()
    (tmp_path / "eval_episodes=8" / "summary.json").write_text('{"random": {"of": "before"}}')
    again = launch(*command)
    assert (tmp_path / "eval_episodes=8" / "log.txt").read_text() == before
    assert again.stdout.splitlines()[:5] == first.stdout.splitlines()[:5]
    other = launch(*command, "--config.seed=1")
    assert "seed: 0 in the directory, 1 now" in other.stderr
