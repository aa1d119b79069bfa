"""Features of (state, action) from a text encoder, in place of a language model's hidden states.

What Q sees of a state and an action need not come from the model that the prior comes from. A text
encoder reads the prompt and the action as a pair of texts, so what it says of one depends on the
other.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.models import TextEncoder
from llmprior_jax.priors.tokens import visible


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
