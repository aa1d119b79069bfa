"""A language model as the policy in games on engines: it learns, and can be stopped."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lm import small_lm

pytest.importorskip("gymnasium")

from llmprior_jax import models, training
from llmprior_jax.agents.policy_agent import advantage_estimates
from llmprior_jax.priors import prompts
from llmprior_jax.training import build, experiment
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.types import TextState

# Three rooms, each with two doors, of which one goes on: walking blindly, one in 8 gets out.
_ROOMS = """
import gymnasium
from gymnasium import spaces

RIGHT = ("white", "white", "white")

class Rooms(gymnasium.Env):
    observation_space = spaces.Text(100)
    action_space = spaces.Text(30)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = 0
        return self.text(), self.info()

    def step(self, action):
        right = action == RIGHT[self.room]
        self.room += right
        won = self.room == len(RIGHT)
        return self.text(), 0.5 * right, won or not right, False, self.info()

    def text(self):
        return "room 2, " + "the last one of all " * 4 if self.room == 2 else f"room {self.room}"

    def info(self):
        won = self.room == len(RIGHT)
        return {"task": "leave", "admissible_commands": ["red", "white"], "won": won}

gymnasium.register("Rooms-v0", Rooms, disable_env_checker=True)
"""
ROOMS = "gymnasium:text_rooms:Rooms-v0"
NUM_SEEDS, NUM_ENVS, ROLLOUT_STEPS = 2, 4, 8


def rooms_config(**changes) -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "engine",
            "games.train": (ROOMS,),
            "agents": ("random", "gflan"),
            "engine.num_actions": 2,
            "prior.num_features": 4,
            "num_seeds": NUM_SEEDS,
            "num_steps": 640,
            "eval_every": 128,
            "eval_episodes": 16,
            "checkpoint.every": 1,
            "loop.num_envs": NUM_ENVS,
            "policy.num_envs": NUM_ENVS,
            "policy.rollout_steps": ROLLOUT_STEPS,
            "policy.learning_rate": 0.01,
            "policy.minibatch_states": 4,
            "policy.hidden_sizes": (),
        }
        | changes
    )
    return config


@pytest.fixture(scope="module", autouse=True)
def rooms(tmp_path_factory):
    """Makes the game importable, here and in the engines' processes, and all models small ones."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "text_rooms.py").write_text(_ROOMS)
    texts = (*(f"room {room}" for room in range(4)), "room 2, the last one of all")
    states = [TextState("leave", text, (), ("red", "white")) for text in texts]
    asked = [prompts.plain(state) for state in states]
    lm = small_lm([text for prompt in asked for text in (prompt.text, *prompt.actions)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(models, "load", lambda name, dtype=None, **how: lm)
        patch.setattr(models, "fingerprint", lambda name, **kwargs: lm.fingerprint)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("rooms") / "finished"
    training.run(rooms_config(), workdir)
    return workdir


@pytest.fixture
def run(tmp_path):
    settings = training.to_settings(rooms_config())
    games, _ = build.make_environment(settings)
    priors = build.make_priors(settings, games, None, tmp_path / "prior_table")
    return build.make_run("gflan", settings, games, None, priors)


def final_state(workdir):
    return training.restore(workdir, "gflan", eval_episodes=1).state


@pytest.mark.long
def test_it_learns_what_random_play_does_not(finished):
    random, *_ = read_metrics(finished / "random")
    first, *_, last = read_metrics(finished / "gflan")
    assert np.max(random["success_rate"]) < 0.5
    assert np.max(first["success_rate"]) < 0.8
    assert np.min(last["success_rate"]) > 0.8
    assert last["step"] == 640


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(finished, tmp_path):
    def two_segments_are_over() -> bool:
        return len(read_metrics(tmp_path / "gflan")) > 2

    with pytest.raises(experiment.InterruptedRunError):
        training.run(rooms_config(), tmp_path, should_stop=two_segments_are_over)
    training.run(rooms_config(), tmp_path)
    assert read_metrics(tmp_path / "gflan") == read_metrics(finished / "gflan")
    left, right = (jax.tree.leaves(final_state(path)) for path in (tmp_path, finished))
    for ours, theirs in zip(left, right, strict=True):
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)


def played(run, monkeypatch, number: int = 0):
    """The rollout of that number of a run, and its steps."""
    kept = []
    make_rollout = run._rollout

    def keep(steps):
        kept.append((make_rollout(steps), steps))
        return kept[-1][0]

    monkeypatch.setattr(run, "_rollout", keep)
    run.train()
    (rollout, lost), steps = kept[number]
    assert len(steps) == ROLLOUT_STEPS
    return rollout, lost, steps


@pytest.mark.long
def test_a_rollout_tells_what_the_engines_showed(run, monkeypatch):
    rollout, lost, steps = played(run, monkeypatch)
    assert not lost.any()
    for time, step in enumerate(steps):
        for seed in range(NUM_SEEDS):
            for env in range(NUM_ENVS):
                index = seed * NUM_ENVS + env
                row = int(rollout.row[seed, time, env])
                seen = run.player.env.text_state(np.asarray(run.table.observations[row]))
                assert seen.observation == step.states[index].observation
                assert rollout.reward[seed, time, env] == step.seen.reward[index]
                assert rollout.terminated[seed, time, env] == step.seen.terminated[index]
    assert not rollout.truncated.any()
    np.testing.assert_array_equal(rollout.reached_value, 0)
    assert (rollout.log_prob < 0).all()


@pytest.mark.long
def test_of_a_step_whose_process_was_lost_nothing_is_learned(run, monkeypatch):
    bridge, calls = run.player.env.bridge, []
    step = bridge.step

    def step_and_kill(commands):
        calls.append(commands)
        if len(calls) == ROLLOUT_STEPS + 3:
            bridge._workers[1]._process.kill()
        return step(commands)

    monkeypatch.setattr(bridge, "step", step_and_kill)
    # In the second rollout, where states have a value and the policy has left the prior.
    rollout, lost, _ = played(run, monkeypatch, number=1)
    np.testing.assert_array_equal(lost, [1, 0])
    assert run.steps == 128 - 1
    # The third step of the second environment.
    place = 0, 2, 1
    for discount in (0.5, 1.0):
        of_seed = jax.tree.map(lambda leaf: leaf[0], rollout)
        advantage = advantage_estimates(of_seed, 0.3, discount, 0.95)
        assert advantage[place[1:]] == 0
        assert np.count_nonzero(advantage) == advantage.size - 1


@pytest.mark.long
def test_states_whose_words_are_not_kept_are_not_looked_at(finished):
    restored = training.restore(finished, "gflan", eval_episodes=1)
    with pytest.raises(ValueError, match="the words are not kept"):
        restored.player.policies(restored.state.agent, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loop.num_envs": 8}, "loop.num_envs is 8 where config.policy.num_envs, of gflan, is 4"),
        ({"freeform.k": 2}, "gflan chooses from the commands that an engine lists"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        training.run(rooms_config(**changes), tmp_path)
    assert not list(tmp_path.iterdir())
