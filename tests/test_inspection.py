"""What is told about a prior: the tokens of its actions, and whether it is calibrated."""

import itertools

import numpy as np
import pytest

from llmprior_jax import models, priors
from llmprior_jax.training.calibration import calibration

PROMPT = "Task: make tea\nNow: The kettle is empty.\nNext:"
ACTIONS = (" fill the kettle", " fill the big kettle", " go", " look around the kitchen")


@pytest.fixture(scope="module")
def tiny():
    return models.load("tiny")


@pytest.fixture(scope="module")
def read(tiny):
    return priors.inspect(tiny, PROMPT, ACTIONS)


def test_the_tokens_are_the_text(read):
    assert "".join(read.prompt) == PROMPT
    for action, tokens in zip(ACTIONS, read.actions, strict=True):
        assert "".join(token.text for token in tokens) == action


def test_the_log_probs_of_the_tokens_add_up_to_the_score(tiny, read):
    totals = [sum(token.log_prob for token in tokens) for tokens in read.actions]
    prior = np.asarray(priors.score_actions(tiny, [PROMPT], [ACTIONS]))[0]
    # Scores are normalized over the list, so only their differences can be compared.
    for a, b in itertools.pairwise(range(len(ACTIONS))):
        assert totals[a] - totals[b] == pytest.approx(prior[a] - prior[b], abs=1e-4)


def test_a_common_beginning_has_the_same_log_probs(read):
    for one, other in zip(read.actions[0][:2], read.actions[1][:2], strict=True):
        assert one.text == other.text
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-5)


def test_calibration_by_hand():
    # Three of ten per cent, one of which came true; one of ninety, which did not.
    curve = calibration(np.array([0.1, 0.1, 0.1, 0.9]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert curve.count.tolist() == [0, 3, 0, 0, 0, 0, 0, 0, 0, 1]
    assert curve.predicted[1] == pytest.approx(0.1)
    assert curve.observed[1] == pytest.approx(1 / 3)
    assert np.isnan(curve.observed[0])
    assert curve.error == pytest.approx((3 * (1 / 3 - 0.1) + 0.9) / 4)


def test_a_certain_and_right_prediction_is_calibrated():
    assert calibration(np.array([1.0, 0.0]), np.array([1.0, 0.0])).error == 0
