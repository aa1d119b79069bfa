"""A prior from demonstrations: counts by hand, the dial to uniform, what is refused."""

import numpy as np
import pytest
from lock_env import RIGHT, Lock

from llmprior_jax import datasets, training
from llmprior_jax.play import collecting
from llmprior_jax.play.collecting import Part
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors import (
    Demonstrated,
    Prompt,
    SourceContext,
    TextScores,
    make_source,
    prompts,
)
from llmprior_jax.settings import PriorSettings
from llmprior_jax.types import TextState

ACTIONS = (" chop", " wait", " look")
SEEN = Prompt("Task: make a salad\nNow: You see a tomato.\nNext:", ACTIONS)
UNSEEN = Prompt("Task: wash up\nNow: You see a sink.\nNext:", ACTIONS[:2])
COUNTS = {SEEN.text: {" chop": 6, " look": 1, " sing": 9}}


class Featureless:
    """Stands in for a language model that makes nothing of what it reads."""

    identity = "f"

    def score(self, asked):
        self.asked = asked
        shape = len(asked), max(len(prompt.actions) for prompt in asked)
        return TextScores(np.zeros(shape), np.ones(shape, int), np.eye(*shape)[..., None])


def demonstrated(counts, temperature=1.0):
    return Demonstrated(Featureless(), counts, temperature)


def test_the_prior_is_what_was_shown_by_the_rule_of_succession():
    log_probs = demonstrated(COUNTS).score([SEEN, UNSEEN]).log_probs
    np.testing.assert_allclose(np.exp(log_probs[0]), [7 / 10, 1 / 10, 2 / 10], rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_probs[1]), [1 / 2, 1 / 2, 0], rtol=1e-6)


def test_the_temperature_is_a_dial_from_uniform():
    log_probs = demonstrated(COUNTS, temperature=2.0).score([SEEN]).log_probs
    roots = np.sqrt([7.0, 1.0, 2.0])
    np.testing.assert_allclose(np.exp(log_probs[0]), roots / roots.sum(), rtol=1e-6)


def test_other_demonstrations_are_another_prior():
    assert demonstrated(COUNTS).identity != demonstrated({}).identity


class Kitchen:
    """Two states that differ in what no model has room for."""

    num_actions = 3

    def text_state(self, observation):
        past = (f"You see a sink {observation}.", "wait"), ("You see a knife.", "look")
        return TextState("make a salad", "You see a tomato.", past, ("chop", "wait", "look"))


def test_a_state_is_recognized_by_a_history_that_a_language_model_has_no_room_for(tmp_path):
    states, model = Kitchen(), Featureless()
    counts = {prompts.plain(states.text_state(1)).text: {" wait": 3}}
    # There is room for one pair of the history only.
    build = prompts.fitting(prompts.plain, lambda prompt: prompt.text.count("Seen:") == 1)
    source = Demonstrated(model, counts)
    scored = ScoredStates(states, lambda: np.arange(2), source, build, 2, RowFiles(tmp_path))
    log_probs = np.asarray(scored.load().log_probs)[:2]
    first, second = model.asked
    assert first.text == second.text, "the model has read more than it has room for"
    np.testing.assert_allclose(np.exp(log_probs), [[1 / 3] * 3, [1 / 6, 4 / 6, 1 / 6]], rtol=1e-6)


def test_a_run_without_demonstrations_to_imitate_is_refused(tmp_path):
    config = training.default_config()
    config.prior.method = "imitate"
    with pytest.raises(ValueError, match=r"name a dataset \(config.prior.demonstrations\)"):
        training.run(config, tmp_path)


def test_a_run_s_prior_does_what_the_dataset_shows(tmp_path):
    lock = Lock()
    expert = collecting.expert_behavior(lock, lock.default_params)
    dataset = collecting.collect(lock, lock.default_params, [Part(expert, 1.0)], num_episodes=3)
    states = [lock.text_state(np.array(wheel)) for wheel in range(len(RIGHT))]
    counts = datasets.count_actions(dataset)
    for state, right in zip(states, RIGHT, strict=True):
        assert counts[state] == {f"turn it to {right}": 3}
    datasets.write(tmp_path / "shown.jsonl", dataset)
    settings = PriorSettings(method="imitate", demonstrations=str(tmp_path / "shown.jsonl"))
    source = make_source(SourceContext(Featureless(), settings, prompts.plain))
    log_probs = source.score([prompts.plain(state) for state in states]).log_probs
    np.testing.assert_array_equal(log_probs.argmax(axis=1), RIGHT)
    np.testing.assert_allclose(np.exp(log_probs.max(axis=1)), 4 / 9, rtol=1e-6)
