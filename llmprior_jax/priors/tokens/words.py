"""Token ids of texts, put together from those of their words.

Tokenizing a text takes a tokenizer about two microseconds a token, and the states of one task say
the same words again and again. So each word is tokenized once, in a sentence of its own, and a text
whose words are all known is put together.

That is exact where tokens end at cuts. A text is cut before a space that has a plain letter, digit
or mark of ASCII on either side. If no token of the vocabulary goes on with a space after one of
these, there is the end of a token at each cut, and no merge, rule or normalization reaches over it.
Whether that is so is looked up in the vocabulary, and held against the tokens of the whole text
whenever a text has a new word. If they ever differ, texts are read whole from then on.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmprior_jax.files import check_text
from llmprior_jax.priors.tokens.literals import MARK, markup_of
from llmprior_jax.priors.tokens.remembering import OnceForEach

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

# What vocabularies write for a space: themselves, byte-level ones, and SentencePiece's.
_SPACE_AFTER_TEXT = re.compile("[^\\s\u0120\u010a\u2581][ \u0120\u2581]")
_BEFORE_CUT, _AFTER_CUT = "[A-Za-z0-9.,:;!?]", "[A-Za-z0-9]"
_CUT = re.compile(f"(?<={_BEFORE_CUT}) (?={_AFTER_CUT})")
_GOES_ON_OVER_CUT = re.compile(f"{_BEFORE_CUT}[ \u0120\u2581]")
_ENDS_AT_CUT = re.compile(f"{_BEFORE_CUT}\\Z")
_BEGINS_AT_CUT = re.compile(f" {_AFTER_CUT}")
_LAST_CUT = re.compile(f"(?s:.*{_BEFORE_CUT})(?= {_AFTER_CUT})")
_MOST_REMEMBERED = 1 << 16
_LONGEST_REMEMBERED = 256  # characters

_Ids = list[int]


def last_cut(tokenizer: PreTrainedTokenizerFast, prompt: str, actions: Sequence[str]) -> int:
    """How much of a prompt can make no difference to the tokens of the actions after it.

    Returns:
      An index of the prompt: its end, if each action begins with a space at which texts may be cut,
      or else the last such space in it. 0 if there is none.
    """
    if not words_of(tokenizer).are_sure:
        return 0
    if _ENDS_AT_CUT.search(prompt) and all(map(_BEGINS_AT_CUT.match, actions)):
        return len(prompt)
    found = _LAST_CUT.match(prompt)
    return found.end() if found else 0


class _Words:
    """The words that a tokenizer has read, each with its token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._backend: tokenizers.Tokenizer = tokenizer.backend_tokenizer
        self._markup = markup_of(tokenizer)
        vocabulary = self._backend.get_vocab()
        self.end_before_spaces = not any(map(_SPACE_AFTER_TEXT.search, vocabulary))
        # A token that swallows the spaces beside it could stand at a cut.
        self.are_sure = not any(map(_GOES_ON_OVER_CUT.search, vocabulary)) and not any(
            (token.lstrip or token.rstrip or token.single_word)
            and (_ENDS_AT_CUT.search(token.content) or re.match(_AFTER_CUT, token.content))
            for token in self._backend.get_added_tokens_decoder().values()
        )
        # A tokenizer that one thread reads with cannot be set up by another.
        self._lock = threading.Lock()
        self._begun: dict[str, _Ids] = {}  # What texts begin with.
        self._known: dict[str, _Ids] = {}  # The words after it, without their space.

    def encode(self, texts: Sequence[str]) -> list[_Ids]:
        """Token ids of each text, without special tokens around it."""
        with self._lock:
            return self._encode(texts)

    def _encode(self, texts: Sequence[str]) -> list[_Ids]:
        if not self.are_sure:
            return self._read(texts)
        split = [_CUT.split(text) for text in texts]
        encoded = [self._join(words) for words in split]
        new = [i for i, ids in enumerate(encoded) if ids is None]
        if new:
            whole = self._read([texts[i] for i in new])
            self._learn([split[i] for i in new], whole)
            for i, ids in zip(new, whole, strict=True):
                encoded[i] = ids
        return [ids for ids in encoded if ids is not None]

    def _join(self, words: list[str]) -> _Ids | None:
        first = self._begun.get(words[0])
        rest = [self._known.get(word) for word in itertools.islice(words, 1, None)]
        if first is None or None in rest:
            return None
        return [*first, *itertools.chain.from_iterable(ids for ids in rest if ids is not None)]

    def _learn(self, split: Sequence[list[str]], whole: Sequence[_Ids]) -> None:
        """Reads words that are new, and sees whether the texts put together are the same."""
        if len(self._begun) + len(self._known) > _MOST_REMEMBERED:
            self._begun.clear()
            self._known.clear()
        short = [i for i, words in enumerate(split) if max(map(len, words)) <= _LONGEST_REMEMBERED]
        begun = {split[i][0] for i in short} - self._begun.keys()
        known = {word for i in short for word in split[i][1:]} - self._known.keys()
        new = [(self._begun, word, "") for word in sorted(begun)]
        new += [(self._known, word, "a ") for word in sorted(known)]
        # What a word stands between matters where it is cut off.
        ends = [" a" if _ENDS_AT_CUT.search(word) else "" for _, word, _ in new]
        sentences = [
            before + word + after for (_, word, before), after in zip(new, ends, strict=True)
        ]
        a, two, *read = self._read(["a", "a a", *sentences])
        for (words, word, before), after, ids in zip(new, ends, read, strict=True):
            start = len(a) if before else 0
            end = len(ids) - (len(two) - len(a) if after else 0)
            words[word] = ids[start:end]
        if any(self._join(split[i]) != whole[i] for i in short):
            self.are_sure = False

    def _read(self, texts: Sequence[str]) -> list[_Ids]:
        """Token ids of each text as it stands."""
        if not any(MARK in text for text in texts):
            return _ids(self._backend, texts)
        # Apart, because what a tokenizer makes of a text does not depend on the others.
        reads_marks = self._markup.reads_marks
        return [_ids(reads_marks if MARK in text else self._backend, [text])[0] for text in texts]


def _ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[_Ids]:
    # Not the tokenizer's own call: it also finds where in the text each token stands, which takes
    # half as long again, and warns of long texts before our error does, saying less.
    backend.no_truncation()
    backend.no_padding()
    for text in texts:
        check_text(text, "a text for a language model")
    encoded = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [text.ids for text in encoded]


words_of = OnceForEach(_Words)
