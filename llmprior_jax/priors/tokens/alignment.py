"""Where the actions of a list begin: at one point of the text, whatever tokens span it."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmprior_jax.priors.tokens.encoding import encode
from llmprior_jax.priors.tokens.literals import MARK
from llmprior_jax.priors.tokens.remembering import OnceForEach, remember
from llmprior_jax.priors.tokens.words import words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Text whatever tokenizer reads it: not SentencePiece's space, nor the mark, which is dropped.
_TEXT = f"[^\\s\u2581{MARK}]"
_LAST_SPACE_IN_TEXT = re.compile(f"(?s:.*)({_TEXT}) (?={_TEXT})")
_ENDS_IN_TEXT, _BEGINS_PLAINLY = re.compile(f"(?s:.*){_TEXT}"), re.compile(f" {_TEXT}")
_MOST_REMEMBERED = 1 << 14


def align(
    tokenizer: PreTrainedTokenizerFast, prompt: str, actions: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """Moves the end of a prompt that tokens of actions swallow into the actions.

    A tokenizer may merge the end of a prompt with the beginning of an action: a space with the word
    after it, say. Then the probability of that end belongs to the action, and for a fair comparison
    to every action of the list. So the prompt ends, for all of them, with the longest text whose
    tokens begin the tokens of each prompt + action. `prompt + action` stays the same text, and a
    list that is aligned is not moved again, nor is any part of it.

    Examples:
      >>> from llmprior_jax.priors import tokens
      >>> tokens.align(models.load("tiny").tokenizer, "Next: ", ("wait", "go"))
      ('Next:', (' wait', ' go'))

    Args:
      tokenizer: of a decoder. An encoder-decoder reads prompt and action apart.
      prompt: the text before the action.
      actions: the actions of one list.

    Returns:
      The prompt without its swallowed end, and the actions with it.
    """
    actions = tuple(actions)
    num_moved = _alignment_of(tokenizer).num_moved(prompt, actions)
    if not num_moved:
        return prompt, actions
    kept, moved = prompt[:-num_moved], prompt[-num_moved:]
    return kept, tuple(moved + action for action in actions)


def begins_plainly(prompt: str, actions: Sequence[str]) -> bool:
    """Whether `align` leaves a list as it is with every tokenizer whose tokens end before spaces.

    That is where the prompt ends with text and each action begins with one space and text. Such are
    the tokenizers of all language models whose tokens do not go on over several words.
    """
    return _ENDS_IN_TEXT.fullmatch(prompt) is not None and all(map(_BEGINS_PLAINLY.match, actions))


class _Alignment:
    """How far the ends of prompts are swallowed by the actions after them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = weakref.ref(tokenizer)
        self._end_before_spaces = words_of(tokenizer).end_before_spaces
        self._moved: dict[tuple[str, tuple[str, ...]], int] = {}

    def num_moved(self, prompt: str, actions: tuple[str, ...]) -> int:
        """How many characters at the end of a prompt `align` moves."""
        start = 0
        if self._end_before_spaces:
            if begins_plainly(prompt, actions):
                return 0
            # All before the last space between text is beyond the reach of the actions.
            if match := _LAST_SPACE_IN_TEXT.match(prompt):
                start = match.start(1)
        end = prompt[start:]
        moved = self._moved.get((end, actions))
        if moved is None:
            moved = self._count_moved(end, actions)
            if start and moved >= len(end) - 1:
                return self._count_moved(prompt, actions)
            remember(self._moved, (end, actions), moved, _MOST_REMEMBERED)
        return moved

    def _count_moved(self, prompt: str, actions: tuple[str, ...]) -> int:
        tokenizer = self._tokenizer()
        assert tokenizer is not None  # It asks.
        texts = encode(tokenizer, [prompt + action for action in actions])
        for moved in range(len(prompt)):
            (begun,) = encode(tokenizer, [prompt[: len(prompt) - moved]])
            if all(ids[: len(begun)] == begun for ids in texts):
                return moved
        return len(prompt)


_alignment_of = OnceForEach(_Alignment)
