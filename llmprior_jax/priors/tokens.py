"""Text to token ids, as every use of a language model here wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmprior_jax.models import EncoderDecoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without the special tokens that a tokenizer may put around it."""
    if not texts:
        return []
    # Not the tokenizer's own call: it also finds where in the text each token stands, which takes
    # half as long again, and warns of long texts before our error does, saying less.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [text.ids for text in encoded]


def literal(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """A text that is read as text, even where it looks like a special token."""
    del tokenizer
    return text


def visible(text: str) -> str:
    """A text as people are to see it, without the marks of `literal`."""
    return text


def count_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """How many tokens a text makes, with the special ones that the tokenizer puts around it."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def leading_special_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What the tokenizer puts before a text (BOS, for some), without what it puts after."""
    text = "a"
    (bare,) = encode(tokenizer, [text])
    full = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start]


def check_known(tokens: np.ndarray, vocab_size: int, where: str) -> None:
    """Raises a ValueError if a text has a token that the language model does not embed."""
    if tokens.max() >= vocab_size:
        raise ValueError(
            f"{where} has token {tokens.max()}, and the language model knows {vocab_size}; "
            "the tokenizer belongs to another model"
        )


def must_be_decoder(config: Any, what: str) -> None:
    """Raises a ValueError if a config is that of an encoder-decoder."""
    if isinstance(config, EncoderDecoderConfig):
        raise ValueError(
            f"{what} needs a language model that continues its prompt, and this one is an "
            "encoder-decoder; use another, e.g. a Qwen or a Llama"
        )
