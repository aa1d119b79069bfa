"""A language model as one value: decoder, parameters, tokenizer, and what identifies them."""

import dataclasses

from flax import nnx
from transformers import PreTrainedTokenizerFast

from llmprior_jax.models.config import DecoderConfig


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder with its parameters and its tokenizer.

    A pure function takes `params` as an argument and puts the decoder together inside:
    `nnx.merge(lm.graphdef, params)(tokens, positions, mask)`.

    Attributes:
      config: shape and variant of the decoder; `config.max_position_embeddings` is the longest
        context in tokens.
      graphdef: the decoder without its parameters (hashable, a static argument of `jax.jit`).
      params: the decoder's parameters, a pytree of arrays.
      tokenizer: the checkpoint's own fast tokenizer.
      fingerprint: SHA-256 over the checkpoint's config, tokenizer and weight files.
    """

    config: DecoderConfig
    graphdef: nnx.GraphDef
    params: nnx.State
    tokenizer: PreTrainedTokenizerFast
    fingerprint: str
