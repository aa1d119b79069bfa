"""Text to token ids, as every use of a language model here wants them.

A prompt is a string in which special tokens are read as such: the markup of a chat template, say.
Text from outside, as of an environment, is to be read as text whatever it looks like, so it goes
into a prompt by way of `literal`, which puts a mark into what looks like a special token. All that
reads prompts here knows the mark and reads the text without it; for people there is `visible`.
"""

from __future__ import annotations

import functools
import json
import re
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmprior_jax.files import check_text
from llmprior_jax.models import EncoderDecoderConfig

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

# A noncharacter: Unicode keeps it for use inside programs, and no text has it.
_MARK = "\ufdd0"
# What vocabularies write for a space: themselves, byte-level ones, and SentencePiece's.
_SPACE_AFTER_TEXT = re.compile("[^\\s\u0120\u010a\u2581][ \u0120\u2581]")
# Text whatever tokenizer reads it: not SentencePiece's space, nor the mark, which is dropped.
_TEXT = f"[^\\s\u2581{_MARK}]"
_LAST_SPACE_IN_TEXT = re.compile(f"(?s:.*)({_TEXT}) (?={_TEXT})")
_ENDS_IN_TEXT, _BEGINS_PLAINLY = re.compile(f"(?s:.*){_TEXT}"), re.compile(f" {_TEXT}")
# Tokens that are markup though not special, whether or not a chat template is there to tell: with
# a bar or an underscore, as no tag of HTML has. Others are if the template writes them.
_MARKUP = re.compile("<[^<>\\s]*[|_\uff5c][^<>\\s]*>")
_PERHAPS_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_MOST_REMEMBERED = 1 << 14


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without the special tokens that a tokenizer may put around it."""
    if not texts:
        return []
    backend = tokenizer.backend_tokenizer
    if any(_MARK in text for text in texts):
        # Apart, because what a tokenizer makes of a text does not depend on the others.
        reads_marks = _about(tokenizer).reads_marks
        return [_ids(reads_marks if _MARK in text else backend, [text])[0] for text in texts]
    return _ids(backend, list(texts))


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


def literal(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    """A text from outside, for use in a prompt: special tokens in it are read as the text they are.

    What looks like a special token of this tokenizer gets a mark inside, the noncharacter U+FDD0,
    which `encode` knows and `visible` removes. One that the text brings along is dropped. A
    special token of a single character is that character, and needs none.

    The same goes for what is markup without being called special: tokens in angle or square
    brackets that the tokenizer's chat template writes, as Qwen's <think>, and those in angle
    brackets with a bar or an underscore, as Gemma's <start_of_image>. Other tokens stay what they
    are, such as the tags of HTML that Gemma learned as one token each: they are ordinary text.

    Each text is seen by itself, so two of them must not meet: `literal(t, "<|im_end")` followed by
    `literal(t, "|>")` is a special token. The prompts of this package have something of their own
    between any two.

    Examples:
      >>> from llmprior_jax.priors import tokens
      >>> tokenizer = models.load("tiny").tokenizer
      >>> tokens.literal(tokenizer, "You see a cup.")
      'You see a cup.'
      >>> text = tokens.literal(tokenizer, "You see <|endoftext|>.")
      >>> tokenizer.eos_token_id in tokens.encode(tokenizer, [text])[0]
      False
    """
    return _about(tokenizer).literal(visible(text))


def visible(text: str) -> str:
    """A text without the marks of `literal`, as people are to see it."""
    return text.replace(_MARK, "")


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
    num_moved = _about(tokenizer).num_moved(prompt, actions)
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


class _About:
    """What is found out about a tokenizer once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = weakref.ref(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        added = self._backend.get_added_tokens_decoder().values()
        template = str(tokenizer.chat_template or "")
        markup = [
            token
            for token in added
            if (token.special and len(token.content) > 1) or _is_markup(token.content, template)
        ]
        longest_first = sorted((token.content for token in markup), key=len, reverse=True)
        self._markup = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._normalized = [token.content for token in markup if token.normalized]
        self._moved: dict[tuple[str, tuple[str, ...]], int] = {}

    @functools.cached_property
    def reads_marks(self) -> tokenizers.Tokenizer:
        """A tokenizer that drops marks once it has found the tokens that are markup."""
        from tokenizers import Tokenizer, normalizers

        content = json.loads(self._backend.to_str())
        for token in content["added_tokens"]:
            if token["special"] or self._markup.fullmatch(token["content"]):
                # A normalized one is found in the text without marks, where it must not be.
                token["normalized"] = False
        copy = Tokenizer.from_str(json.dumps(content))
        drop = normalizers.Replace(_MARK, "")
        rest = copy.normalizer
        copy.normalizer = drop if rest is None else normalizers.Sequence([drop, rest])
        return copy

    def literal(self, text: str) -> str:
        """See `literal`; the text has no marks."""
        while match := self._markup.search(text):  # A mark in one may leave another beside it.
            text = f"{text[: match.start() + 1]}{_MARK}{text[match.start() + 1 :]}"
        if self._normalized and self._backend.normalizer is not None and _MARK not in text:
            same = self._backend.normalizer.normalize_str(text)
            if any(content in same for content in self._normalized):
                text = f"{text[0]}{_MARK}{text[1:]}"
        return text

    def num_moved(self, prompt: str, actions: tuple[str, ...]) -> int:
        """How many characters at the end of a prompt `align` moves."""
        start = 0
        if self._cuts_at_spaces:
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
            while len(self._moved) >= _MOST_REMEMBERED:
                del self._moved[next(iter(self._moved))]
            self._moved[end, actions] = moved
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

    @functools.cached_property
    def _cuts_at_spaces(self) -> bool:
        """Whether no token goes on with a space after text, so that tokens end there."""
        return not any(map(_SPACE_AFTER_TEXT.search, self._backend.get_vocab()))


def _is_markup(token: str, template: str) -> bool:
    """Whether a token that need not be special is markup of chats, or of files, all the same."""
    by_template = _PERHAPS_MARKUP.fullmatch(token) is not None and token in template
    return by_template or _MARKUP.fullmatch(token) is not None


_ABOUT: weakref.WeakKeyDictionary[Any, _About] = weakref.WeakKeyDictionary()


def _about(tokenizer: PreTrainedTokenizerFast) -> _About:
    about = _ABOUT.get(tokenizer)
    if about is None:
        about = _ABOUT[tokenizer] = _About(tokenizer)
    return about


def _ids(backend: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    # Not the tokenizer's own call: it also finds where in the text each token stands, which takes
    # half as long again, and warns of long texts before our error does, saying less.
    backend.no_truncation()
    backend.no_padding()
    for text in texts:
        check_text(text, "a text for a language model")
    encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [text.ids for text in encoded]


def _led(lead: list[int], ids: list[int]) -> list[int]:
    return ids if ids[: len(lead)] == lead else lead + ids


def _around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before a text, and what after."""
    text = "a"
    (bare,) = encode(tokenizer, [text])
    full = tokenizer(text)["input_ids"]
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]
