"""Hidden states made short: the same everywhere, with the distances that they had."""

import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax.priors import PriorStore, StoredScores, whitening
from llmprior_jax.priors.features import rotation, shorten

D, P = 320, 280


@pytest.fixture(scope="module")
def hidden() -> np.ndarray:
    """States that lie close together, far from 0, and have a few numbers that stick out."""
    rng = np.random.default_rng(0)
    spread = 0.3 * np.exp(-np.arange(D) / 40)
    directions = np.linalg.qr(rng.normal(size=(D, D)))[0]
    offset = rng.normal(size=D) * np.where(np.arange(D) % 100 == 7, 20.0, 1.0)
    return (offset + (rng.normal(size=(600, D)) * spread) @ directions).astype(np.float32)


@pytest.fixture(scope="module")
def short(hidden) -> np.ndarray:
    return np.asarray(shorten(jnp.asarray(hidden), rotation(D)))


def test_whitened_features_are_mostly_the_same(hidden, short):
    before = whitening.fit(hidden, 16)(hidden)
    after = whitening.fit(short, 16)(short)
    explained = after @ np.linalg.lstsq(after, before, rcond=None)[0]
    # The last ones may have changed places with those that came after them.
    assert (np.var(before - explained, axis=0)[:12] < 0.1).all()  # of 1


def test_a_rotation_is_orthonormal_and_its_signs_are_bits_of_pcg64():
    """As NumPy promises them, word by word: of other signs would come other features."""
    by = rotation(D)
    np.testing.assert_allclose(by.T @ by, np.eye(P), atol=1e-5)
    generator = np.random.PCG64(0)
    octets = b"".join(generator.random_raw().to_bytes(8, "little") for _ in range(D * P // 64))
    signs = [1 if octet >> bit & 1 else -1 for octet in octets for bit in range(7, -1, -1)]
    first, second = np.array(signs, float).reshape(D, P).T[:2]
    # Gram and Schmidt.
    np.testing.assert_allclose(by[:, 0], first / np.linalg.norm(first), atol=1e-6)
    second -= first * (first @ second) / (first @ first)
    np.testing.assert_allclose(by[:, 1], second / np.linalg.norm(second), atol=1e-6)


def test_long_states_are_rounded_to_8_bits_of_their_largest_number(hidden, short):
    exact = hidden.astype(np.float64) @ rotation(D)
    step = 2.0 ** np.ceil(np.log2(np.abs(exact).max(axis=1, keepdims=True) / 127))
    np.testing.assert_allclose(short, exact, atol=1e-3 + step.max() / 2)
    multiples = short / step
    np.testing.assert_array_equal(multiples, np.round(multiples))
    assert np.abs(multiples).max() <= 127


def test_what_is_made_short_takes_a_byte_a_number(short, tmp_path):
    said = StoredScores(("a", "b"), np.zeros(2, np.float32), np.ones(2, np.int32), short[:2])
    with PriorStore(tmp_path / "priors.sqlite") as store:
        store.put_scores("f", "model", {"prompt": said})
        size = store._connection.execute("SELECT LENGTH(features) FROM scores").fetchone()[0]
        assert size == 2 * (P + 1)
        assert store.get_scores("f", ["prompt"])[0].features.tobytes() == short[:2].tobytes()


@pytest.mark.parametrize("width", [1, 128, 256])
def test_short_states_are_rounded_to_16_bits(width):
    assert rotation(width) is None
    states = np.random.default_rng(0).normal(size=(3, width)).astype(np.float32)
    np.testing.assert_array_equal(shorten(jnp.asarray(states), None), states.astype(np.float16))


def test_what_float16_does_not_hold_stays_finite():
    rounded = shorten(jnp.array([1e6, -1e6, 0.0], jnp.float32), None)
    np.testing.assert_array_equal(rounded, np.float32([65504, -65504, 0]))


def test_a_state_of_zeros_is_one_still():
    assert not np.asarray(shorten(jnp.zeros((1, D)), rotation(D))).any()
