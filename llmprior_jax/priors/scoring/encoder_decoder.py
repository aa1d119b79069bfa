"""Prompts and actions as an encoder-decoder reads them.

The encoder reads the prompt, once, as it was trained to: with all of the tokenizer's special tokens
(T5's end of text). The decoder starts with its start token and goes on with the tokens of the
action, for all actions of the prompt in one packed row. What an action's score counts is those
tokens: how probable it is that the model's answer begins with the action, as with a decoder.

The end of the answer does not count. With it, the score would be the probability that the answer is
the action and nothing else, and a model that likes to say more about some actions would dislike
them for that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmprior_jax.models import EncoderDecoderConfig
from llmprior_jax.priors.scoring import packing
from llmprior_jax.priors.tokens import check_known, encode, encode_whole, visible


def tokenize(
    tokenizer: Any,
    config: EncoderDecoderConfig,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
) -> list[packing.Sequences]:
    """Token ids of every prompt, and of its actions with the decoder's start token before them.

    Args:
      tokenizer: the model's own.
      config: the model's config.
      prompts: B texts.
      actions: for each prompt one or more texts.

    Returns:
      B states with prompts of their own.

    Raises:
      ValueError: a text is too long, makes no token, or has a token that the model does not know.
    """
    encoded = encode_whole(tokenizer, prompts)
    answers = iter(encode(tokenizer, [action for group in actions for action in group]))
    states: list[packing.Sequences] = []
    start = np.asarray([config.decoder_start_token_id], np.int32)
    for b, group in enumerate(actions):
        _check(encoded[b], config, f"prompt {b}", "encoder")
        tails = [next(answers) for _ in group]
        for a, answer in enumerate(tails):
            where = f"action {a} of prompt {b} ({visible(group[a])!r})"
            _check(answer, config, where, "decoder")
        prompt = np.asarray(encoded[b], np.int32)
        states.append(packing.Sequences(start, packing.lay_out(tails), prompt))
    return states


def _check(tokens: list[int], config: EncoderDecoderConfig, where: str, reader: str) -> None:
    if not tokens:
        raise ValueError(f"{where} makes no token, so there is nothing for the {reader} to read")
    if len(tokens) > config.max_position_embeddings:
        raise ValueError(
            f"{where} makes {len(tokens)} tokens, and the language model's {reader} was trained "
            f"with {config.max_position_embeddings}; shorten it, or raise the config's "
            "max_position_embeddings"
        )
    check_known(np.asarray(tokens), config.vocab_size, where)
