"""Training on engines of the host: it learns, outlives lost processes, and can be repeated."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import CHECKPOINTED

pytest.importorskip("gymnasium")

from llmprior_jax import training
from llmprior_jax.play import engine_games
from llmprior_jax.training import build, experiment, validation
from llmprior_jax.training.metrics import read_metrics

# Four rooms, each with four doors, of which one goes on: walking blindly, one in 256 gets through.
_DOORS = """
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
"""
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
            "num_steps": 400,
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


def make_run(name: str, workdir: pathlib.Path, **changes):
    """The run of one agent that nothing has trained yet, with the table of `workdir`."""
    settings = training.to_settings(small_config(**changes))
    games, _ = build.make_environment(settings)
    priors = build.make_priors(settings, games, None, workdir / "prior_table")
    return build.make_run(name, settings, games, None, priors)


@pytest.fixture
def table_alone(finished, tmp_path) -> pathlib.Path:
    """A work directory in which all doors are scored and nothing is trained."""
    shutil.copytree(finished / "prior_table", tmp_path / "prior_table")
    return tmp_path


def assert_same_bits(left, right) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_it_learns_what_random_play_does_not(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["random"]["success_rate"]["iqm"] < 0.1
    assert summary["dqn"]["success_rate"]["iqm"] > 0.9


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(finished, tmp_path):
    def one_segment_is_over() -> bool:
        return len(read_metrics(tmp_path / "dqn")) > 1

    with pytest.raises(experiment.InterruptedRunError):
        training.run(small_config(), tmp_path, should_stop=one_segment_is_over)
    training.run(small_config(), tmp_path)
    stopped, whole = (training.restore(path, "dqn", 1).state for path in (tmp_path, finished))
    assert_same_bits(stopped, whole)
    assert read_metrics(tmp_path / "dqn") == read_metrics(finished / "dqn")


def test_a_text_is_scored_once(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_games, "_EXPLORED_STEPS", 1)
    run = make_run("random", tmp_path, eval_every=200)
    assert run.table.size == 1, "exploring ends in the first room"
    metrics = [run.train(), run.train()]
    texts = [run.player.env.text_state(key) for key in np.asarray(run.table.observations)[:4]]
    assert run.table.size == len(set(texts)) == 4
    assert sum(values["lm_asked"] for values in metrics) == 3
    assert metrics[1]["lm_saved"] >= 400


def test_segments_are_whole_episodes_and_count_their_steps(table_alone):
    run = make_run("random", table_alone, eval_every=20)
    run.train()
    assert run.steps >= 20
    # After an environment's last episode there is nothing to add.
    np.testing.assert_array_equal(run.state.replay.added, run._taken)


def test_a_process_killed_while_training_costs_its_episode_only(table_alone):
    run = make_run("random", table_alone, eval_every=40)
    bridge, calls = run.player.env.bridge, []
    step = bridge.step

    def step_and_kill(commands):
        calls.append(commands)
        if len(calls) == 3:
            bridge._workers[1]._process.kill()
        return step(commands)

    bridge.step = step_and_kill
    metrics = run.train()
    np.testing.assert_array_equal(metrics["restarts"], [1, 0])
    assert bridge.restarts == 1
    moves = sum(command is not None for commands in calls for command in commands)
    assert run._taken.sum() == moves - 1
    assert run.evaluate()["success_rate"].shape == (2,)


def test_a_checkpoint_has_what_those_of_all_runs_have_and_counts_go_on(table_alone):
    run, resumed = (make_run("random", table_alone, eval_every=20) for _ in range(2))
    run.train()
    run.scored.counts["prompts_cut"] = 7
    meta = run.meta()
    assert set(meta) == CHECKPOINTED
    resumed.restore(run.state, meta)
    assert resumed.meta() == meta
    assert resumed.scored.metrics()["prompts_cut"] == 7


def test_unseen_games_and_modes_are_reported_apart(table_alone):
    changes = {"games.unseen": (DOORS,), "eval_episodes": 3, "eval_modes": ("sample", "greedy")}
    results = make_run("random", table_alone, **changes).evaluate()
    assert set(results) == {
        f"{prefix}{name}"
        for prefix in ("", "unseen_", "greedy_", "greedy_unseen_")
        for name in ("success_rate", "return", "episode_length")
    }


def test_an_episode_is_played_with_what_the_agent_saw(finished):
    run = training.restore(finished, "dqn", eval_episodes=1)
    decisions = list(run.play(1, jax.random.key(0)))
    assert len(decisions) == 4
    assert decisions[1].text.observation == "You are in the kitchen."
    assert decisions[1].text.history == (("You are in the hall.", "open the red door"),)
    for decision, color in zip(decisions, ("red", "black", "white", "green"), strict=True):
        assert decision.text.actions[decision.action] == f"open the {color} door"
        assert decision.prior.sum() == pytest.approx(1, abs=1e-5)
        assert decision.posterior.argmax() == decision.action
    assert decisions[-1].success


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"games.train": ()}, "no games to train on"),
        ({"games.unseen": ("nowhere.z8",)}, "nowhere.z8: there is no such file"),
        ({"engine.num_actions": 3}, r"offers 4 actions.*\(engine\.num_actions\); raise it"),
        ({"games.train": (SILENT,)}, "lists no admissible commands after 'You are in the hall.'"),
    ],
)
def test_what_cannot_be_played_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_run("random", tmp_path, **changes)


@pytest.mark.long
def test_free_form_actions_are_learned_from_proposals(tmp_path, monkeypatch):
    colors = ("black", "green", "red", "white", "blue", "pink", "brown", "gray")

    def three_doors(verbs, k, seed):
        """A proposer that thinks of three doors at a time."""

        def propose(states, of_seed, number):
            rng = np.random.default_rng([seed, of_seed, number])
            return [
                [f"open the {color} door" for color in rng.choice(colors, 3, replace=False)]
                for _ in states
            ]

        return propose

    monkeypatch.setattr(build, "from_vocabulary", three_doors)
    config = small_config(
        **{
            "games.train": (SILENT,),
            "freeform.k": 3,
            "freeform.source": "vocabulary",
            "engine.num_actions": 8,
            "prior.num_features": 64,
            "loop.updates_per_step": 2,
            "num_steps": 900,
            "eval_every": 300,
        }
    )
    summary = training.run(config, tmp_path)
    assert summary["random"]["success_rate"]["iqm"] < 0.1
    assert summary["dqn"]["success_rate"]["iqm"] > 0.9
    run = training.restore(tmp_path, "dqn", eval_episodes=1)
    assert [decision.success for decision in run.play(0, jax.random.key(0))][-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeform.k": 4, "freeform.source": "oracle"}, "'oracle'; use one of language_model"),
        ({"freeform.k": -1}, "-1"),
        ({"freeform.k": 4, "env": "FrozenLake-4x4", "games.train": ()}, "are listed"),
    ],
)
def test_proposals_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        validation.validate(training.to_settings(small_config(**changes)))


@pytest.mark.long
def test_alfworld_and_textworld_play_in_one_batch(tmp_path):
    pytest.importorskip("alfworld")
    from llmprior_jax.envs.alfworld import game_maker

    game_maker.make_games(tmp_path / "data", ["examine"], train=1, unseen=0, seed=3)
    game = tmp_path / "games" / "game.z8"
    maker = pathlib.Path(sys.executable).with_name("tw-make")
    command = [str(maker), "tw-simple", "--rewards=dense", "--goal=detailed", "--seed=1"]
    subprocess.run([*command, f"--output={game}"], check=True, capture_output=True, timeout=300)
    config = small_config(
        **{
            "games.train": (str(tmp_path / "data/json_2.1.1/train"), str(game.parent)),
            "agents": ("dqn_prior",),
            "engine.num_actions": 40,
            "engine.max_steps": 5,
            "num_seeds": 1,
            "loop.warmup_steps": 1,
            "num_steps": 10,
            "eval_every": 10,
            "eval_episodes": 2,
        }
    )
    training.run(config, tmp_path / "run")
    first, last = read_metrics(tmp_path / "run" / "dqn_prior")
    assert first["episode_length"] == [5]
    assert last["step"] == 10
    assert np.isfinite(last["loss"]).all()
