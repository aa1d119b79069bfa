"""Text to token ids, as every use of a language model here wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without the special tokens that a tokenizer may put around it."""
    if not texts:
        return []
    # Not verbose: its warning about long texts comes before our error, and says less.
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def leading_special_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What the tokenizer puts before a text (BOS, for some), without what it puts after."""
    text = "a"
    (bare,) = encode(tokenizer, [text])
    full = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start]
