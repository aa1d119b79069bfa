"""Measures of a prior: numbers by hand, closed forms, and another library's optimizer."""

import doctest

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from llmprior_jax import priors
from llmprior_jax.priors import measures

NO_ACTION = -np.inf


def random_priors(num_states: int, num_actions: int, seed: int = 0) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(num_actions), num_states))


def test_the_uniform_prior_is_over_the_actions_that_there_are():
    log_probs = np.array([[-0.1, -2.4, NO_ACTION], [-1.0, -1.0, -1.4]])
    expected = [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    np.testing.assert_allclose(np.exp(measures.uniform(log_probs)), expected)


def test_entropy_is_that_of_scipy_and_what_is_no_action_adds_nothing():
    log_probs = random_priors(5, 4)
    padded = np.pad(log_probs, [(0, 0), (0, 2)], constant_values=NO_ACTION)
    expected = scipy.stats.entropy(np.exp(log_probs), axis=1)
    np.testing.assert_allclose(measures.entropy(padded), expected)


def test_the_least_likely_action_is_one_that_there_is():
    log_probs = np.log([[0.7, 0.3], [0.01, 0.99]])
    padded = np.pad(log_probs, [(0, 0), (0, 1)], constant_values=NO_ACTION)
    np.testing.assert_allclose(measures.least_likely(padded), [0.3, 0.01])


def test_the_slope_by_length_is_that_of_a_regression_with_an_intercept_for_each_state():
    log_probs = random_priors(6, 3)
    num_tokens = np.random.default_rng(1).integers(1, 9, log_probs.shape)
    # Ordinary least squares with a column for each state.
    state = np.repeat(np.arange(6), 3)
    columns = np.column_stack([num_tokens.ravel(), state[:, None] == np.arange(6)])
    (expected, *_), *_ = np.linalg.lstsq(columns.astype(float), log_probs.ravel(), rcond=None)
    assert measures.length_slope(log_probs, num_tokens) == pytest.approx(expected)
    padded = np.pad(log_probs, [(0, 0), (0, 1)], constant_values=NO_ACTION)
    assert measures.length_slope(padded, np.pad(num_tokens, [(0, 0), (0, 1)])) == (
        pytest.approx(expected)
    )


def test_a_prior_by_length_alone_has_the_slope_it_was_made_by():
    num_tokens = np.array([[1, 2, 5], [3, 3, 4]])
    scores = -0.7 * num_tokens
    log_probs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    assert measures.length_slope(log_probs, num_tokens) == pytest.approx(-0.7)


def test_without_different_lengths_there_is_no_slope():
    assert np.isnan(measures.length_slope(np.log([[0.9, 0.1]]), np.array([[2, 2]])))


def test_likelihood_at_a_temperature_by_hand():
    log_probs = np.array([[*np.log([0.64, 0.36]), NO_ACTION]])
    # Square roots: 0.8 and 0.6.
    (got,) = measures.log_likelihood(log_probs, np.array([1]), temperature=2.0)
    assert np.exp(got) == pytest.approx(0.6 / 1.4)


def test_the_best_temperature_is_where_another_optimizer_finds_it():
    log_probs = random_priors(50, 5)
    rng = np.random.default_rng(2)
    flat = np.sqrt(np.exp(log_probs))  # Drawn at temperature 2, so that the best is about that.
    action = np.array([rng.choice(5, p=row / row.sum()) for row in flat])
    found = scipy.optimize.minimize_scalar(
        lambda log_t: -measures.log_likelihood(log_probs, action, np.exp(log_t)).mean(),
        bounds=(-4, 4),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert measures.best_temperature(log_probs, action) == pytest.approx(np.exp(found.x), rel=1e-4)


def test_a_prior_that_is_worse_than_uniform_is_best_when_it_is_uniform():
    log_probs = np.array([[*np.log([0.9, 0.1]), NO_ACTION]])
    assert measures.best_temperature(log_probs, np.array([1])) == np.inf
    (uniform,) = measures.log_likelihood(log_probs, np.array([1]), np.inf)
    assert uniform == pytest.approx(-np.log(2))


def test_a_prior_that_is_always_right_cannot_be_too_sure():
    assert measures.best_temperature(np.log([[0.9, 0.1]]), np.array([0])) == 1e-3


def test_what_has_no_probability_has_none_at_any_temperature():
    log_probs = np.array([[0.0, NO_ACTION]])
    assert np.isnan(measures.best_temperature(log_probs, np.array([1])))
    assert measures.log_likelihood(log_probs, np.array([1]))[0] == -np.inf


def test_the_examples_run():
    result = doctest.testmod(measures, extraglobs={"np": np, "priors": priors})
    assert result.attempted > 10
    assert result.failed == 0
