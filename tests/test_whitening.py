"""Whitening: unit, uncorrelated features, whatever the sample."""

import numpy as np
import pytest

from llmprior_jax.priors import whitening


def sample(num: int, rank: int, dims: int, seed: int = 0) -> np.ndarray:
    """Features near one point with wildly different spreads, as hidden states have."""
    rng = np.random.default_rng(seed)
    spread = np.logspace(0, -3, rank)
    mixed = (rng.normal(size=(num, rank)) * spread) @ rng.normal(size=(rank, dims))
    return (mixed + 50.0).astype(np.float32)


def test_whitened_features_have_mean_zero_and_identity_covariance():
    features = sample(2000, rank=12, dims=32)
    white = whitening.fit(features, 10)(features)
    np.testing.assert_allclose(white.mean(axis=0), 0.0, atol=1e-2)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(10), atol=1e-2)


def test_components_that_a_sample_does_not_have_are_zero():
    features = sample(500, rank=3, dims=8)
    white = whitening.fit(features, 20)(features)
    assert white.shape == (500, 20)
    np.testing.assert_allclose(white[:, 8:], 0.0)
    assert np.isfinite(white).all()


@pytest.mark.parametrize("num", [1, 2])
def test_a_sample_of_one_or_two_is_no_harm(num):
    features = sample(num, rank=3, dims=8)
    assert np.isfinite(whitening.fit(features, 4)(features)).all()


def test_a_new_point_is_mapped_by_the_sample_it_was_fitted_to():
    features = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0], [2.0, 0.0]], np.float32)
    white = whitening.fit(features, 1)
    np.testing.assert_allclose(white(np.array([4.0, 7.0])), [3.0], atol=1e-6)
