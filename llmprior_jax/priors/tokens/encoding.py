"""Token ids of texts, with and without the special tokens around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmprior_jax.models import EncoderDecoderConfig
from llmprior_jax.priors.tokens.remembering import OnceForEach
from llmprior_jax.priors.tokens.words import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without the special tokens that a tokenizer may put around it."""
    return words_of(tokenizer).encode(texts) if texts else []


def encode_from_start(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that a decoder reads from their beginning: with BOS, for some.

    A text that carries it already, as those of chat templates do, gets no second one.
    """
    lead = leading_special_tokens(tokenizer)
    return [_led(lead, ids) for ids in encode(tokenizer, texts)]


def encode_whole(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text with all special tokens that the tokenizer puts around it."""
    lead, trail = _around(tokenizer)
    return [_led(lead, ids) + trail for ids in encode(tokenizer, texts)]


def count_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    """How many tokens a text makes, with the special ones that the tokenizer puts around it."""
    return len(encode_whole(tokenizer, [text])[0])


def leading_special_tokens(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What the tokenizer puts before a text (BOS, for some), without what it puts after."""
    return _around(tokenizer)[0]


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


def _led(lead: list[int], ids: list[int]) -> list[int]:
    return ids if ids[: len(lead)] == lead else lead + ids


def _find_around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and what after."""
    text = "a"
    (bare,) = encode(tokenizer, [text])
    full = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


_around = OnceForEach(_find_around)
