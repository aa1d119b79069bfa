"""Reports: every agent of every work directory is told, and what is no run is refused."""

import json

import pytest
from test_launch import launch

from llmprior_jax import training


@pytest.mark.long
def test_every_agent_of_every_run_is_told(tmp_path):
    runs = []
    for seeds in (1, 2):
        config = training.default_config()
        config.update_from_flattened_dict(
            {
                "env": "FrozenLake-4x4",
                "agents": ("random",),
                "num_seeds": seeds,
                "eval_episodes": 4,
                "prior.store": "",
            }
        )
        training.run(config, tmp_path / f"run{seeds}")
        runs.append(str(tmp_path / f"run{seeds}"))
    result = launch("launch.report", f"--out={tmp_path / 'report'}", *runs)
    assert result.returncode == 0, result.stderr
    told = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert told.keys() == {"run1 random", "run2 random"}
    assert len(told["run2 random"]["success_rate"]["per_seed"]) == 2
    assert (tmp_path / "report" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_directory_that_is_no_run_is_named(tmp_path):
    result = launch("launch.report", f"--out={tmp_path / 'report'}", str(tmp_path))
    assert result.returncode != 0
    assert f"{tmp_path} holds no run" in result.stderr
