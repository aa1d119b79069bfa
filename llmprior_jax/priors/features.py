"""Features of (state, action): a language model's hidden states, or the vectors of a text encoder.

Hidden states are long, there is one for each action of each state, and all are kept. They are made
short on the device, before anything leaves it, by a fixed random projection: distances survive it
(Johnson and Lindenstrauss, 1984), random signs do as well as any other matrix (Achlioptas, 2003,
doi 10.1016/S0022-0000(03)00025-4), and `whitening` makes the same of what is left. 16 bits hold
more than a model's own rounding leaves of them.

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

# Another length, or other signs, make other numbers, which fingerprints have to tell
# (`models.checkpoint`).
MOST_FEATURES = 256


def shorten(hidden: jax.Array) -> jax.Array:
    """Hidden states as they are used and kept: at most `MOST_FEATURES` numbers of 16 bits each.

    Longer ones are projected by a matrix of random signs, the same everywhere and always. Numbers
    beyond what float16 holds become the largest that it does.

    Examples:
      >>> from llmprior_jax.priors import features
      >>> features.shorten(jnp.ones((2, 896))).shape
      (2, 256)

    Args:
      hidden: f[..., D].

    Returns:
      f16[..., min(D, 256)], with distances that are those of `hidden`, about.
    """
    hidden = hidden.astype(jnp.float32)
    D = hidden.shape[-1]
    if D > MOST_FEATURES:
        signs = jnp.asarray(_signs(D), jnp.float32) / np.sqrt(MOST_FEATURES).astype(np.float32)
        hidden = jnp.dot(hidden, signs, precision=jax.lax.Precision.HIGHEST)
    most = jnp.finfo(jnp.float16).max.astype(jnp.float32)
    return jnp.clip(hidden, -most, most).astype(jnp.float16)


@functools.cache
def _signs(num_features: int) -> np.ndarray:
    """i8[num_features, MOST_FEATURES] of -1 and 1.

    They are raw bits of PCG64, which NumPy promises never to change.
    """
    size = num_features * MOST_FEATURES
    words = np.random.PCG64(0).random_raw(-(-size // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:size]
    return (2 * bits.astype(np.int8) - 1).reshape(num_features, MOST_FEATURES)


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
