"""Flax language models and text encoders, read from Hugging Face checkpoints."""

from llmprior_jax.models import adapters, lora
from llmprior_jax.models.config import CheckpointError, DecoderConfig, RotaryConfig
from llmprior_jax.models.decoder import Decoder, KVCache
from llmprior_jax.models.encoder import Encoder, EncoderConfig
from llmprior_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from llmprior_jax.models.language_model import (
    LanguageModel,
    ModelConfig,
    fingerprint,
    load,
    load_tokenizer,
)
from llmprior_jax.models.partition import partition
from llmprior_jax.models.text_encoder import TextEncoder, load_encoder

__all__ = [
    "CheckpointError",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "KVCache",
    "LanguageModel",
    "ModelConfig",
    "RotaryConfig",
    "TextEncoder",
    "adapters",
    "fingerprint",
    "load",
    "load_encoder",
    "load_tokenizer",
    "lora",
    "partition",
]
