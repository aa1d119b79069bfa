"""Training on engines of the host: it learns, outlives lost processes, and can be repeated."""

import json
import os
import pathlib
import sys

import jax
import numpy as np
import pytest

pytest.importorskip("gymnasium")

from llmprior_jax import training
from llmprior_jax.training import experiment
from llmprior_jax.training.metrics import read_metrics

# Four rooms, each with four doors, of which one goes on: walking blindly, one in 256 gets through.
_DOORS = '''
import os
import gymnasium
from gymnasium import spaces

COLORS = ("black", "green", "red", "white")
RIGHT = {"hall": "red", "kitchen": "black", "bathroom": "white", "garden": "green"}
ROOMS = list(RIGHT)

class Doors(gymnasium.Env):
    observation_space = spaces.Text(100)
    action_space = spaces.Text(30)
    lists_commands = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = 0
        return self.text(), self.info()

    def step(self, action):
        if os.environ.get("DOORS_FALL_IN") == "1" and self.room == 1 and action.endswith("red door"):
            os._exit(1)
        right = action == f"open the {RIGHT[ROOMS[self.room]]} door"
        self.room += right
        won = self.room == len(ROOMS)
        return self.text(), 0.25 * right, won or not right, False, self.info()

    def text(self):
        return "You are out." if self.room == len(ROOMS) else f"You are in the {ROOMS[self.room]}."

    def info(self):
        commands = [f"open the {color} door" for color in COLORS]
        return {
            "task": "leave the house",
            "admissible_commands": commands if self.lists_commands else [],
            "won": self.room == len(ROOMS),
        }

class Silent(Doors):
    lists_commands = False

gymnasium.register("Doors-v0", Doors, disable_env_checker=True)
gymnasium.register("Silent-v0", Silent, disable_env_checker=True)
'''
DOORS, SILENT = "gymnasium:text_doors:Doors-v0", "gymnasium:text_doors:Silent-v0"


@pytest.fixture(scope="module", autouse=True)
def doors(tmp_path_factory):
    """Makes the environments importable, here and so in the engines' processes."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "text_doors.py").write_text(_DOORS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def small_config(**changes) -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "engine",
            "games.train": (DOORS,),
            "agents": ("random", "dqn"),
            "engine.num_actions": 4,
            "history": 1,
            "prior.num_features": 16,
            "num_seeds": 2,
            "loop.num_envs": 2,
            "loop.warmup_steps": 10,
            "agent.learning_rate": 3e-3,
            "num_steps": 1000,
            "eval_every": 100,
            "eval_episodes": 20,
            "checkpoint.every": 2,
        }
        | changes
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("host") / "finished"
    training.run(small_config(), workdir)
    return workdir


def test_it_learns_what_random_play_does_not(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["random"]["success_rate"]["iqm"] < 0.1
    assert summary["dqn"]["success_rate"]["iqm"] > 0.9
