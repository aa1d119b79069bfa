"""A random language model of one layer, for tests that need one and not what it knows."""

import tokenizers
import transformers
from flax import nnx

from llmprior_jax.models import Decoder, DecoderConfig, LanguageModel


def small_lm(texts: list[str]) -> LanguageModel:
    """A decoder whose tokens are the words of some texts and the spaces and marks between them."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r" ?\w+|\n|[^\w\s]"), "isolated"
    )
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=["?"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    config = DecoderConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    # Far from uniform predictions, so that a token in the wrong place shows.
    decoder = Decoder(config, rngs=nnx.Rngs(0), init=nnx.initializers.normal(0.3))
    graphdef, params = nnx.split(decoder)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    return LanguageModel(config, graphdef, params, fast, fingerprint="small")
