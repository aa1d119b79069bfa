"""Flax language models, read from Hugging Face checkpoints."""

from llmprior_jax.models import lora
from llmprior_jax.models.config import CheckpointError, DecoderConfig, RotaryConfig
from llmprior_jax.models.decoder import Decoder, KVCache
from llmprior_jax.models.language_model import LanguageModel, load

__all__ = [
    "CheckpointError",
    "Decoder",
    "DecoderConfig",
    "KVCache",
    "LanguageModel",
    "RotaryConfig",
    "load",
    "lora",
]
