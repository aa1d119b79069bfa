"""Training in ALFWorld: the games trained on, unseen ones, and what the engine says to it."""

import json

import jax
import numpy as np
import pytest

from llmprior_jax import envs, training
from llmprior_jax.envs.alfworld import replay
from llmprior_jax.envs.engines import GameError
from llmprior_jax.play import scored_states
from llmprior_jax.training import build
from llmprior_jax.training.metrics import read_metrics


@pytest.fixture(scope="module")
def config(alfworld_data) -> training.Config:
    """A few steps in two games, judged in a third one, too."""
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "ALFWorld",
            "games.train": (str(alfworld_data / "json_2.1.1" / "train"),),
            "games.unseen": (str(alfworld_data / "json_2.1.1" / "valid_unseen"),),
            "history": 2,
            "agents": ("dqn_prior",),
            "prior.num_features": 8,
            "loop.num_envs": 2,
            "loop.warmup_steps": 2,
            "num_seeds": 1,
            "num_steps": 16,
            "eval_every": 16,
            "eval_episodes": 2,
        }
    )
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored_states, "_EXPLORED_EPISODES", 2)  # Of which features are whitened.
        training.run(config, workdir)
    return workdir


@pytest.mark.long
def test_training_and_unseen_games_are_judged_apart(workdir):
    last = read_metrics(workdir / "dqn_prior")[-1]
    assert last["step"] >= 16
    for name in ("success_rate", "unseen_success_rate"):
        assert 0 <= last[name][0] <= 1
    assert "prompts_cut" in last
    summary = json.loads((workdir / "summary.json").read_text())["dqn_prior"]
    assert summary["unseen_success_rate"]["per_seed"] == last["unseen_success_rate"]


def test_an_agent_never_trains_in_unseen_games(config):
    settings = training.to_settings(config)
    env, params = build.make_environment(settings)
    unseen = build.unseen_params(settings.environment, params)
    train_names = {env.env.games[game] for game in params.games.tolist()}
    unseen_names = {env.env.games[game] for game in unseen.games.tolist()}
    assert all("/train/" in name for name in train_names)
    assert all("/valid_unseen/" in name for name in unseen_names)
    assert (len(train_names), len(unseen_names)) == (2, 1)


@pytest.mark.long
def test_an_evaluation_played_again_on_the_engine_tells_the_same(workdir):
    run = training.restore(workdir, "dqn_prior", eval_episodes=2)
    results = run.evaluate(fresh=True)
    assert set(run.evaluated) == {"", "unseen_"}
    for name, episodes in run.evaluated.items():
        start, actions = episodes.start[0], episodes.actions[0]
        again = replay.replay(run.player.env, run.player.env_params, start, actions)
        assert again.mismatches == ()
        assert again.won.tolist() == episodes.success[0].tolist()
        assert again.steps == episodes.length.sum()
        assert np.mean(again.won) == results[f"{name}success_rate"][0]


def test_an_episode_that_was_recorded_wrongly_is_found_out(alfworld_data):
    games = [str(path) for path in alfworld_data.rglob("train/*/*/game.tw-pddl")][:1]
    env, params = envs.make("ALFWorld", games=games)
    start, _ = env.reset(jax.random.key(0), params)
    too_short = np.array([[0, 0, -1, -1]])
    again = replay.replay(env, params, np.asarray(start)[None], too_short)
    (mismatch,) = again.mismatches
    assert games[0] in mismatch
    assert "another length" in mismatch
    assert not again.won[0]


def test_no_episodes_are_played_again_as_none(alfworld_data):
    games = [str(path) for path in alfworld_data.rglob("train/*/*/game.tw-pddl")][:1]
    env, params = envs.make("ALFWorld", games=games)
    again = replay.replay(env, params, np.zeros((0, 1)), np.zeros((0, 2)))
    assert (len(again.won), again.steps, again.mismatches) == (0, 0, ())


def test_only_alfworld_is_played_again(config):
    env, params = envs.make("FrozenLake-4x4")
    with pytest.raises(ValueError, match="FrozenLake-4x4 is played by no engine"):
        replay.replay(env, params, np.zeros((1, 1)), np.zeros((1, 1)))


def test_a_missing_data_directory_is_named_with_what_to_do(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.games.train = (str(tmp_path / "json_2.1.1" / "train"),)
    with pytest.raises(GameError, match=r"alfworld-download.*launch\.make_games"):
        training.run(config, tmp_path / "run")


def test_unseen_games_alone_are_refused(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.games.train = ()
    with pytest.raises(ValueError, match=r"games\.unseen has games"):
        training.run(config, tmp_path / "run")
