"""Random language models of one layer, for tests that need one and not what it knows."""

import pathlib
import zlib

import tokenizers
import transformers
from flax import nnx

from llmprior_jax import models
from llmprior_jax.models import (
    Decoder,
    DecoderConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    LanguageModel,
)

# The embedded model as any other, which is not asked as the embedded one.
TINY = str(pathlib.Path(models.__file__).parent / "tiny")
# Far from uniform predictions, so that a token in the wrong place shows.
INIT = nnx.initializers.normal(0.3)


def small_lm(texts: list[str], encoder_decoder: bool = False, context: int = 128) -> LanguageModel:
    """A model whose tokens are the words of some texts and the marks between them."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r" ?\w+|\n|[^\w\s]"), "isolated"
    )
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=["?"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    shape = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": context,
    }
    if encoder_decoder:
        config = EncoderDecoderConfig(**shape, num_decoder_layers=1)
        model = EncoderDecoder(config, rngs=nnx.Rngs(0), init=INIT)
    else:
        config = DecoderConfig(**shape, num_key_value_heads=1, tie_word_embeddings=True)
        model = Decoder(config, rngs=nnx.Rngs(0), init=INIT)
    graphdef, params = nnx.split(model)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    return LanguageModel(
        config, graphdef, params, fast, fingerprint=f"small {zlib.crc32(repr(texts).encode())}"
    )
