"""Text from outside inside a prompt: what looks like a special token there is read as text."""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING

from llmprior_jax.priors.tokens.remembering import OnceForEach

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

# A noncharacter: Unicode keeps it for use inside programs, and no text has it.
MARK = "\ufdd0"
# Tokens that are markup though not special, whether or not a chat template is there to tell: with
# a bar or an underscore, as no tag of HTML has. Others are if the template writes them.
_MARKUP = re.compile("<[^<>\\s]*[|_\uff5c][^<>\\s]*>")
_PERHAPS_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


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
    return markup_of(tokenizer).literal(visible(text))


def visible(text: str) -> str:
    """A text without the marks of `literal`, as people are to see it."""
    return text.replace(MARK, "")


class _Markup:
    """The special tokens of a tokenizer, and what is markup beside them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
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
        drop = normalizers.Replace(MARK, "")
        rest = copy.normalizer
        copy.normalizer = drop if rest is None else normalizers.Sequence([drop, rest])
        return copy

    def literal(self, text: str) -> str:
        """See `literal`; the text has no marks."""
        while match := self._markup.search(text):  # A mark in one may leave another beside it.
            text = f"{text[: match.start() + 1]}{MARK}{text[match.start() + 1 :]}"
        if self._normalized and self._backend.normalizer is not None and MARK not in text:
            same = self._backend.normalizer.normalize_str(text)
            if any(content in same for content in self._normalized):
                text = f"{text[0]}{MARK}{text[1:]}"
        return text


def _is_markup(token: str, template: str) -> bool:
    """Whether a token that need not be special is markup of chats, or of files, all the same."""
    by_template = _PERHAPS_MARKUP.fullmatch(token) is not None and token in template
    return by_template or _MARKUP.fullmatch(token) is not None


markup_of = OnceForEach(_Markup)
