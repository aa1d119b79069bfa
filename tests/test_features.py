"""Hidden states made short: the same everywhere, with the distances that they had."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax.priors.features import MOST_FEATURES, shorten

D = 896


def test_distances_survive():
    hidden = np.random.default_rng(0).normal(size=(20, D)).astype(np.float32)
    short = np.asarray(shorten(jnp.asarray(hidden)), np.float32)
    assert short.shape == (20, MOST_FEATURES)
    pairs = np.triu_indices(20, 1)

    def distances(points):
        return np.linalg.norm(points[:, None] - points, axis=-1)[pairs]

    # Of 190 distances, by a matrix of 256 columns: a standard deviation of 1 / sqrt(512) each.
    np.testing.assert_allclose(distances(short), distances(hidden), rtol=0.2)


def test_the_matrix_has_the_bits_of_pcg64():
    """As NumPy promises them, word by word; features of other signs would be other features."""
    generator = np.random.PCG64(0)
    first = generator.random_raw()
    assert first == 11749869230777074271
    octets = first.to_bytes(8, "little") + generator.random_raw().to_bytes(8, "little")
    signs = [1 if octet >> bit & 1 else -1 for octet in octets for bit in range(7, -1, -1)]
    of_first = np.asarray(shorten(jnp.eye(1, D)), np.float32)[0]
    np.testing.assert_array_equal(of_first[:128], np.array(signs) / 16)


@pytest.mark.parametrize("width", [1, 128, MOST_FEATURES])
def test_short_states_are_rounded_and_nothing_else(width):
    hidden = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    np.testing.assert_array_equal(shorten(jnp.asarray(hidden)), hidden.astype(np.float16))


def test_what_float16_does_not_hold_stays_finite():
    short = shorten(jnp.array([1e6, -1e6, 0.0], jnp.float32))
    np.testing.assert_array_equal(short, np.float16([65504, -65504, 0]))


def test_states_of_16_bits_are_projected_in_32():
    hidden = np.random.default_rng(0).normal(size=(3, D)).astype(np.float32)
    halved = jnp.asarray(hidden, jnp.bfloat16)
    np.testing.assert_array_equal(shorten(halved), shorten(halved.astype(jnp.float32)))
