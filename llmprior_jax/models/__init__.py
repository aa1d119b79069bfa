"""Flax language models, read from Hugging Face checkpoints."""

from llmprior_jax.models.config import DecoderConfig
from llmprior_jax.models.decoder import Decoder
from llmprior_jax.models.language_model import LanguageModel

__all__ = ["Decoder", "DecoderConfig", "LanguageModel"]
