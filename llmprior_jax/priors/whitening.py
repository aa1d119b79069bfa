"""Whitened hidden states: what makes them usable as features for Q.

Hidden states of language models lie close together along a few directions, so the differences that
tell two states of a task apart are tiny. Projecting them onto their principal components and giving
each the same variance brings those differences out (BERT-whitening: Su et al., 2021, arXiv
2103.15316); without it, a small Q head learns many times slower.
"""

from typing import NamedTuple

import numpy as np

# Components with less than this share of the largest one's spread are rounding, not information:
# features have 11 binary digits, and mostly lie farther from 0 than from one another.
_NEGLIGIBLE = 2e-4


class Whitening(NamedTuple):
    """An affine map from D hidden features to K whitened ones; make one with `fit`.

    Attributes:
      mean: f32[D].
      projection: f32[D, K].
    """

    mean: np.ndarray
    projection: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Maps f32[..., D] to f32[..., K]."""
        return (features - self.mean) @ self.projection


def fit(features: np.ndarray, num_features: int) -> Whitening:
    """The whitening of a sample of features.

    Args:
      features: f32[N, D], the sample.
      num_features: K, principal components to keep. Components that the sample does not have
        (beyond D, N - 1, or without spread) become features that are always 0.

    Returns:
      A map under which the sample has mean 0 and its first components variance 1, uncorrelated.
    """
    mean = features.mean(axis=0)
    # D x D at most, whatever N is; in float64, since squaring halves the digits.
    centered = (features - mean).astype(np.float64)
    variances, directions = np.linalg.eigh(centered.T @ centered / len(features))
    variances, directions = variances[::-1][:num_features], directions[:, ::-1][:, :num_features]
    spread = np.sqrt(np.maximum(variances, 0.0))
    # The sign of a direction is arbitrary; fixing it makes the same sample give the same features.
    directions = directions * np.sign(
        directions[np.abs(directions).argmax(axis=0), range(len(spread))]
    )
    real = spread > _NEGLIGIBLE * spread[0]
    projection = np.zeros((features.shape[1], num_features), np.float32)
    projection[:, : len(spread)] = np.where(real, directions / np.where(real, spread, 1.0), 0.0)
    return Whitening(mean, projection)
