"""Prompts and actions as the tokens that a language model reads.

Each text is tokenized as it stands, `prompt + action`. Where that is sure to give the same, a
prompt is tokenized once, and an action from the last place only at which the text can be cut
(`tokens.words`). What stands after that place comes again in many states, and is remembered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmprior_jax.models import EncoderDecoderConfig, LanguageModel
from llmprior_jax.priors.scoring import encoder_decoder, packing
from llmprior_jax.priors.tokens import (
    align,
    check_known,
    encode_from_start,
    last_cut,
    visible,
)
from llmprior_jax.priors.tokens.remembering import OnceForEach, remember

_MOST_ACTIONS, _MOST_LISTS = 1 << 16, 1 << 12

_Ids = list[int]


def tokenize(
    lm: LanguageModel, prompts: Sequence[str], actions: Sequence[Sequence[str]]
) -> list[packing.Sequences]:
    """Token ids of every `prompt + action`, and where in them the actions of the list begin.

    Raises:
      ValueError: a text is too long for the model, or has a token that it does not know; an action
        makes no token, or has none before it.
    """
    if isinstance(lm.config, EncoderDecoderConfig):
        return encoder_decoder.tokenize(lm.tokenizer, lm.config, prompts, actions)
    aligned = [align(lm.tokenizer, *each) for each in zip(prompts, actions, strict=True)]
    heads = encode_from_start(lm.tokenizer, [prompt for prompt, _ in aligned])
    remembered = _remembered_by(lm.tokenizer)
    states = []
    for b, ((prompt, group), head) in enumerate(zip(aligned, heads, strict=True)):
        tails = remembered.tails(lm.tokenizer, prompt, head, group)
        if tails is None:
            # Some token spans the end of the prompt, however far that is moved.
            texts = encode_from_start(lm.tokenizer, [prompt + action for action in group])
            length = min(_common(head, text) for text in texts)
            head, tails = head[:length], packing.lay_out([text[length:] for text in texts])
        state = packing.Sequences(np.asarray(head, np.int32), tails)
        _check(state, lm.config, actions[b], b)
        states.append(state)
    return states


class _Remembered:
    """The tokens of actions, by the end of the prompt that they may depend on."""

    def __init__(self):
        self._actions: dict[tuple[str, str], _Ids] = {}
        self._lists: dict[tuple[str, tuple[str, ...]], packing.Tails] = {}

    def tails(
        self, tokenizer: Any, prompt: str, head: _Ids, actions: tuple[str, ...]
    ) -> packing.Tails | None:
        """What the texts of a list go on with after the tokens of their prompt.

        Args:
          tokenizer: whose tokens they are.
          prompt: the text before the actions.
          head: its tokens.
          actions: the actions.

        Returns:
          None where the tokens of some text do not begin with those of the prompt.
        """
        cut = last_cut(tokenizer, prompt, actions)
        end = prompt[cut:]
        # Without a cut, what comes after it depends on all of the prompt.
        known = self._lists.get((end, actions)) if cut else None
        if known is not None:
            return known
        tails = {action: self._actions.get((end, action)) if cut else None for action in actions}
        new = [action for action, tail in tails.items() if not tail]
        texts = encode_from_start(tokenizer, [prompt + action for action in new])
        if any(text[: len(head)] != head for text in texts):
            return None
        of_new = {action: text[len(head) :] for action, text in zip(new, texts, strict=True)}
        laid_out = packing.lay_out([tails[action] or of_new[action] for action in actions])
        if cut:
            for action, tail in of_new.items():
                remember(self._actions, (end, action), tail, _MOST_ACTIONS)
            remember(self._lists, (end, actions), laid_out, _MOST_LISTS)
        return laid_out


_remembered_by = OnceForEach(lambda _: _Remembered())


def _common(a: _Ids, b: _Ids) -> int:
    return packing.common_prefix(np.asarray(a), np.asarray(b))


def _check(state: packing.Sequences, config: Any, actions: Sequence[str], b: int) -> None:
    """Refuses what cannot be scored, naming the first action that cannot."""
    lengths = state.tails.lengths
    longest = len(state.head) + int(lengths.max())

    def where(a: int) -> str:
        return f"action {a} of prompt {b} ({visible(actions[a])!r})"

    if longest > config.max_position_embeddings:
        raise ValueError(
            f"{where(int(lengths.argmax()))} makes {longest} tokens together with its prompt, and "
            f"the language model's context is {config.max_position_embeddings}; shorten the "
            "prompt, e.g. its history"
        )
    if not lengths.all():
        raise ValueError(
            f"{where(int(lengths.argmin()))} adds no token to its prompt, so it has no "
            "probability; the tokenizer drops it"
        )
    if not len(state.head):
        raise ValueError(
            f"{where(0)} has no token before it to be predicted from; begin the prompt with some "
            "text (this tokenizer has no beginning-of-text token)"
        )
    if max(state.head.max(), state.tails.tokens.max()) >= config.vocab_size:
        check_known(state.head, config.vocab_size, f"prompt {b}")
        for a in range(len(lengths)):
            check_known(state.tails.tokens[state.tails.path(a)], config.vocab_size, where(a))
