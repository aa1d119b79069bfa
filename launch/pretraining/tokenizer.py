"""A byte-level BPE tokenizer in the format of Qwen2, learned from a corpus.

Byte-level BPE (Sennrich et al., 2016, arXiv 1508.07909; the bytes are from GPT-2) can write any
text, also words that the corpus lacks. Words keep their leading space, so a prompt that ends
without a space and an action that begins with one meet at a boundary between tokens.
"""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, context: int) -> Qwen2Tokenizer:
    """Learns a tokenizer.

    Args:
      texts: the texts to learn the merges from; the order does not matter much, the content does.
      vocab_size: how many tokens to have, the end of text included.
      context: the longest text, in tokens, that the model is made for.

    Returns:
      A tokenizer whose `save_pretrained` writes `tokenizer.json` and `tokenizer_config.json`.
    """
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return Qwen2Tokenizer(
        tokenizer_object=bpe, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, model_max_length=context
    )
