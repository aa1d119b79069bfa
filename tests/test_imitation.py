"""A prior from demonstrations: counts by hand, the dial to uniform, what is refused."""

import numpy as np
import pytest
from lock_env import RIGHT, Lock

from llmprior_jax import training
from llmprior_jax.priors import Imitator, Prompt, Scorer, prompts
from llmprior_jax.training import collecting, datasets, making
from llmprior_jax.training.collecting import Part

ACTIONS = (" chop", " wait", " look")
SEEN = Prompt("Task: make a salad\nNow: You see a tomato.\nNext:", ACTIONS)
UNSEEN = Prompt("Task: wash up\nNow: You see a sink.\nNext:", ACTIONS[:2])
COUNTS = {SEEN.text: {" chop": 6, " look": 1, " sing": 9}}


@pytest.fixture(scope="module")
def scored():
    return Imitator("tiny", COUNTS).score([SEEN, UNSEEN])


def test_the_prior_is_what_was_shown_by_the_rule_of_succession(scored):
    log_probs, _ = scored
    np.testing.assert_allclose(np.exp(log_probs[0]), [7 / 10, 1 / 10, 2 / 10], rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_probs[1]), [1 / 2, 1 / 2, 0], rtol=1e-6)


def test_the_features_are_those_of_scoring(scored):
    np.testing.assert_array_equal(scored[1], Scorer("tiny").score([SEEN, UNSEEN])[1])


def test_the_temperature_is_a_dial_from_uniform():
    log_probs, _ = Imitator("tiny", COUNTS, temperature=2.0).score([SEEN])
    roots = np.sqrt([7.0, 1.0, 2.0])
    np.testing.assert_allclose(np.exp(log_probs[0]), roots / roots.sum(), rtol=1e-6)


def test_other_demonstrations_are_another_prior():
    assert Imitator("tiny", COUNTS).identity != Imitator("tiny", {}).identity


def test_a_run_without_demonstrations_to_imitate_is_refused(tmp_path):
    config = training.default_config()
    config.prior.method = "imitate"
    with pytest.raises(ValueError, match=r"name a dataset \(config.prior.demonstrations\)"):
        training.run(config, tmp_path)


def test_a_run_s_prior_does_what_the_dataset_shows(tmp_path):
    lock = Lock()
    expert = collecting.expert_behaviour(lock, lock.default_params)
    dataset = collecting.collect(lock, lock.default_params, [Part(expert, 1.0)], num_episodes=3)
    states = [lock.text_state(np.array(wheel)) for wheel in range(len(RIGHT))]
    counts = datasets.count_actions(dataset)
    for state, right in zip(states, RIGHT, strict=True):
        assert counts[state] == {f"turn it to {right}": 3}
    datasets.write(tmp_path / "shown.jsonl", dataset)
    config = training.default_config()
    config.prior.method, config.prior.store = "imitate", ""
    config.prior.demonstrations = str(tmp_path / "shown.jsonl")
    log_probs, _ = making.make_scorer(config).score([prompts.plain(state) for state in states])
    np.testing.assert_array_equal(log_probs.argmax(axis=1), RIGHT)
    np.testing.assert_allclose(np.exp(log_probs.max(axis=1)), 4 / 9, rtol=1e-6)
