"""Examples for prompts: collected from successes only, kept, shown in a run's prompts."""

import jax
import numpy as np
import pytest
from test_proposer import small_config

from llmprior_jax import envs, training
from llmprior_jax.envs import TextEnvironment, frozen_lake
from llmprior_jax.learning.run import Decision
from llmprior_jax.priors import CachedModel
from llmprior_jax.priors.prompts import Example
from llmprior_jax.training import examples, work_directory
from llmprior_jax.types import TextState

KEY = jax.random.key(0)


class Played:
    """A run of two seeds whose episodes are told beforehand: (actions, success) of each."""

    state = np.zeros((2, 3))

    def __init__(self, *episodes):
        self.episodes = list(episodes)
        self.seeds = []

    def play(self, seed, key):
        self.seeds.append(seed)
        actions, success = self.episodes[len(self.seeds) - 1]
        for i, action in enumerate(actions):
            text = TextState("cross", f"Place {i}.", (), ("left", "right"))
            ends = success and i == len(actions) - 1
            none = np.zeros(2)
            yield Decision(text, none, none, none, action, 0.0, ends, False)


BOTH = ("left", "right")
LEFT = Example("cross", (("Place 0.", "left"),), (BOTH,))
LEFT_RIGHT = Example("cross", (("Place 0.", "left"), ("Place 1.", "right")), (BOTH, BOTH))


def test_successes_are_collected_each_once_from_all_seeds():
    run = Played(([1], False), ([0], True), ([0], True), ([0, 1], True), ([1], True))
    assert examples.collect(run, 2, KEY) == [LEFT, LEFT_RIGHT]
    assert run.seeds == [0, 1, 0, 1]


def test_an_agent_that_succeeds_too_rarely_is_no_example():
    run = Played(*[([0], True)] * 40)
    with pytest.raises(ValueError, match="of 40 episodes of the agent, 1 are different successes"):
        examples.collect(run, 2, KEY)


def test_examples_are_read_as_they_were_written(tmp_path):
    assert examples.read(tmp_path) is None
    examples.write(tmp_path, [LEFT, LEFT_RIGHT])
    assert examples.read(tmp_path) == [LEFT, LEFT_RIGHT]
    (tmp_path / examples.FILE).write_text('[["cross", [["Place 0.", "left"]]]]')  # of version 0.1
    assert examples.read(tmp_path) == [LEFT._replace(options=())]
    (tmp_path / examples.FILE).write_text("[[1]]")
    with pytest.raises(ValueError, match=r"examples\.json is damaged"):
        examples.read(tmp_path)


@pytest.fixture
def config(tmp_path):
    few_shot = {"prior.prompt": "few_shot", "prior.method": "score", "agents": ("prior",)}
    return small_config(tmp_path, **few_shot, **{"prior.examples.workdir": "elsewhere"})


def test_the_prompts_of_a_run_show_its_examples(config, tmp_path, monkeypatch):
    restored, asked = [], []

    def restore(workdir, name, eval_episodes, eval_mode):
        restored.append((workdir, name))
        return Played(([0, 1], True))

    def score(self, prompts, score=CachedModel.score):
        asked.extend(prompt.text for prompt in prompts)
        return score(self, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(work_directory, "restore", restore)
        patch.setattr(CachedModel, "score", score)
        training.run(config, tmp_path / "run")
        assert restored == [("elsewhere", "dqn_prior")]
        training.run(config, tmp_path / "run")
        assert len(restored) == 1  # The directory keeps them.
    shown = "Task: cross\nNow: Place 0.\nNext: left\nNow: Place 1.\nNext: right\n\nTask: "
    assert asked
    assert all(text.startswith(shown) for text in asked)
    training.restore(tmp_path / "run", "prior", eval_episodes=16)


def test_without_a_source_examples_are_the_environments_own(config, tmp_path, monkeypatch):
    config.prior.examples.workdir = ""
    with monkeypatch.context() as patch:
        patch.setattr(frozen_lake.FrozenLake, "examples", TextEnvironment.examples)
        with pytest.raises(ValueError, match=r"none of its own: name a file .*examples\.file"):
            training.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    training.run(config, tmp_path / "run")
    env, _ = envs.make("FrozenLake-4x4")
    assert examples.read(tmp_path / "run") == list(env.examples())


def test_a_source_of_examples_that_is_not_there_is_refused(config, tmp_path):
    config.prior.examples.workdir = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        training.run(config, tmp_path / "run")
