"""Features of (state, action): a language model's hidden states, or the vectors of a text encoder.

Hidden states are long, there is one for each action of each state, and all are kept. They are made
short on the device, before anything leaves it: a fixed random rotation gives all of their numbers
the same share of what there is to tell, however much a few of them stick out; an eighth of the
numbers is left out, and of the others 8 bits are kept. So they take less than a quarter of what
they took, and the 64 whitened features that are made of them (`whitening`) are mostly the same:
with SmolLM2 in states of a kitchen, 99% of the variance of each of the first 32 and 98% of all 64
on average. Short ones are kept whole, and 16 bits of each number.

What Q sees of a state and an action need not come from the model that the prior comes from. A text
encoder reads the prompt and the action as a pair of texts, so what it says of one depends on the
other.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.models import TextEncoder
from llmprior_jax.priors.tokens import visible

# What is longer than this is rotated. Other lengths or bits, or another rotation, make other
# numbers, which fingerprints have to tell (`models.checkpoint`).
_LONG = 256
_MOST = 127  # of 8 bits


def shorten(hidden: jax.Array, rotation: jax.Array | None) -> jax.Array:
    """Hidden states as they are used and kept.

    Examples:
      >>> from llmprior_jax.priors import features
      >>> features.shorten(jnp.ones((2, 896)), features.rotation(896)).shape
      (2, 784)

    Args:
      hidden: f[..., D].
      rotation: what `rotation(D)` gives.

    Returns:
      f32[..., P], rounded. Where there is no rotation, to float16, and to the largest number that
      it holds; else to whole multiples, 127 at most, of a power of two for each state.
    """
    hidden = hidden.astype(jnp.float32)
    if rotation is None:
        most = jnp.finfo(jnp.float16).max.astype(jnp.float32)
        return jnp.clip(hidden, -most, most).astype(jnp.float16).astype(jnp.float32)
    rotated = jnp.dot(hidden, rotation, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.max(jnp.abs(rotated), axis=-1, keepdims=True)
    _, exponent = jnp.frexp(largest / _MOST)
    step = jnp.ldexp(jnp.float32(1.0), exponent)
    multiples = jnp.round(rotated / step)
    return jnp.where(multiples == 0, 0.0, multiples * step)  # Whole numbers know no -0.0.


@functools.cache
def rotation(num_features: int) -> np.ndarray | None:
    """f32[D, P] with orthonormal columns, P = 7 / 8 D, the same everywhere; None for short states.

    It is the Q of the QR decomposition of random signs, which are raw bits of PCG64: NumPy promises
    never to change them.
    """
    if num_features <= _LONG:
        return None
    columns = num_features // 8 * 7
    words = np.random.PCG64(0).random_raw(-(-num_features * columns // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: num_features * columns]
    signs = 2.0 * bits.reshape(num_features, columns) - 1.0
    orthonormal, upper = np.linalg.qr(signs)
    # With a positive diagonal there is only one.
    return (orthonormal * np.sign(np.diag(upper))).astype(np.float32)


def encode_actions(
    encoder: TextEncoder, prompts: Sequence[str], actions: Sequence[Sequence[str]]
) -> jax.Array:
    """The vector of each prompt with each of its actions.

    Examples:
      >>> encoder = models.load_encoder("minilm")  # a directory, or a hub id
      >>> vectors = priors.encode_actions(encoder, ["The cup is dirty."], [["wash it", "wait"]])
      >>> vectors.shape == (1, 2, encoder.config.hidden_size)
      True

    Args:
      encoder: the text encoder.
      prompts: B texts.
      actions: for each prompt its admissible actions, A at most.

    Returns:
      f32[B, A, D], zero where no action is: `features` of an `ActionPrior`.

    Raises:
      TypeError, ValueError: see `TextEncoder.encode`.
    """
    if len(prompts) != len(actions):
        raise ValueError(
            f"{len(prompts)} prompts and {len(actions)} lists of actions; every prompt needs one"
        )
    places = [(b, a) for b, group in enumerate(actions) for a in range(len(group))]
    # Marks are for the special tokens of a language model; a text encoder has others.
    vectors = encoder.encode(
        [visible(prompts[b]) for b, _ in places], [visible(actions[b][a]) for b, a in places]
    )
    A = max(map(len, actions), default=0)
    features = np.zeros((len(prompts), A, encoder.config.hidden_size), np.float32)
    for (b, a), vector in zip(places, np.asarray(vectors), strict=True):
        features[b, a] = vector
    return jnp.asarray(features)
