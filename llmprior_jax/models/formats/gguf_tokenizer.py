"""Tokenizers out of the metadata of GGUF files, built with the `tokenizers` library.

Two kinds of vocabulary are known. Byte-level BPE ("gpt2") has merges, and the name of a way to
split text first. SentencePiece's BPE ("llama") has a score for each piece and no merges: two
neighbors are merged if together they are a piece, the best one first. What merges there can be is
found from the pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

TOKENS = "tokenizer.ggml.tokens"
_MODEL, _PRE = "tokenizer.ggml.model", "tokenizer.ggml.pre"
_TYPES, _SCORES, _MERGES = (f"tokenizer.ggml.{name}" for name in ("token_type", "scores", "merges"))
_CHAT_TEMPLATE = "tokenizer.chat_template"
# Types of tokens.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# Longer pieces are no words; a few megabytes long, they would take forever to cut.
_LONGEST_PIECE = 1024

_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}

# How text is split before merging, by `tokenizer.ggml.pre`: expressions that are applied in turn,
# each to what the ones before left whole.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS = (r"\p{N}", _GPT2)
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = (_WORDS + r"|\p{N}{1,3}" + _TAIL,)
_QWEN2 = (_WORDS + r"|\p{N}" + _TAIL,)
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_SPLITS = {
    "default": _DEFAULT,
    "gpt-2": (_GPT2,),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "codeshell": _DIGITS,
    "exaone": _DIGITS,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "dbrx": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "tekken": _TEKKEN,
}
# Those that take a word that is a token as it is, whatever its merges, and begin every text with
# the token for that, if the file does not say.
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "tekken")
# Those whose texts are in Unicode's composed form, which llama.cpp leaves to its caller.
_COMPOSED = ("qwen2",)


def num_tokens(metadata: Mapping[str, Any]) -> int | None:
    """How many tokens there are; None without a tokenizer."""
    tokens = metadata.get(TOKENS)
    return len(tokens) if isinstance(tokens, list) and tokens else None


def make(metadata: Mapping[str, Any], problems: list[str]) -> PreTrainedTokenizerFast | None:
    """The tokenizer of a file, with its chat template.

    Args:
      metadata: all of the file's.
      problems: what is wrong is added to it.

    Returns:
      The tokenizer; None if something is wrong.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = _read_vocabulary(metadata, problems)
    special = _read_special(metadata, problems)
    template = metadata.get(_CHAT_TEMPLATE)
    if template is not None and not isinstance(template, str):
        problems.append(f"{_CHAT_TEMPLATE} is no text")
    if problems or vocabulary is None:
        return None
    # Filled only when it is wrapped, since who wraps a tokenizer copies it: with a vocabulary of a
    # quarter of a million tokens by way of 300 MB.
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), clean_up_tokenization_spaces=False
    )
    tokenizer = wrapped.backend_tokenizer
    if metadata[_MODEL] == "gpt2":
        _fill_byte_level(tokenizer, metadata, vocabulary, problems)
    else:
        _fill_sentencepiece(tokenizer, metadata, vocabulary, special.get("unk_token"), problems)
    _add_ends(tokenizer, metadata, vocabulary, special, problems)
    if problems:
        return None
    _add_tokens(tokenizer, vocabulary, set(special.values()))
    for name, token in special.items():
        setattr(wrapped, name, vocabulary.tokens[token])
    if template is not None:
        wrapped.chat_template = template
    return wrapped


class _Vocabulary(NamedTuple):
    """Tokens in the order of their ids, their types, and the ids of tokens."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]


def _read_vocabulary(metadata: Mapping[str, Any], problems: list[str]) -> _Vocabulary | None:
    model = metadata.get(_MODEL)
    if model not in ("gpt2", "llama"):
        problems.append(
            f"{_MODEL} is {model!r}; supported are 'gpt2' (byte-level BPE) and 'llama' "
            "(SentencePiece)"
        )
        return None
    count = num_tokens(metadata)
    if count is None:
        problems.append(f"{TOKENS} is missing: no tokenizer")
        return None
    tokens: list[str] = metadata[TOKENS]
    types = _read_array(metadata, _TYPES, "iu", count, problems)
    if types is None:
        return None
    if model == "llama":
        # A run of spaces is written as it is, and read in the spelling of all others.
        tokens = [
            _SPACE * len(token) if kind == _USER_DEFINED and not token.strip(" ") else token
            for token, kind in zip(tokens, types, strict=True)
        ]
    ids = {token: i for i, token in reversed(list(enumerate(tokens)))}
    if len(ids) < count:
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        problems.append(f"{TOKENS} has {twice[:80]!r} twice")
        return None
    return _Vocabulary(tokens, types, ids)


def _read_array(
    metadata: Mapping[str, Any], key: str, kinds: str, count: int, problems: list[str]
) -> list[Any] | None:
    values = metadata.get(key)
    if values is None and key == _TYPES:
        return [_NORMAL] * count
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds:
        problems.append(f"{key} is {'missing' if values is None else 'no array of numbers'}")
    elif len(values) != count:
        problems.append(f"{key} has {len(values)} values for {count} tokens")
    else:
        return values.tolist()
    return None


def _read_special(metadata: Mapping[str, Any], problems: list[str]) -> dict[str, int]:
    """The ids of special tokens by transformers' names."""
    count = num_tokens(metadata) or 0
    special = {name: metadata[key] for name, key in _SPECIAL.items() if key in metadata}
    for name, token in special.items():
        if type(token) is not int or not 0 <= token < count:
            problems.append(f"{_SPECIAL[name]} is {token!r}, and there are {count} tokens")
    return special


def _read_flag(metadata: Mapping[str, Any], key: str, default: bool, problems: list[str]) -> bool:
    value = metadata.get(key, default)
    if type(value) is not bool:
        problems.append(f"{key} is {value!r}; it must be true or false")
    return bool(value)


def _fill_byte_level(
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    vocabulary: _Vocabulary,
    problems: list[str],
) -> None:
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

    pre, merges = metadata.get(_PRE, "default"), metadata.get(_MERGES)
    if pre not in _SPLITS:
        problems.append(f"{_PRE} is {pre!r}; supported are {', '.join(map(repr, _SPLITS))}")
    if not isinstance(merges, list):
        problems.append(f"{_MERGES} is missing or no list of strings")
    if problems or not isinstance(merges, list):
        return
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.ids.keys():
            problems.append(f"{_MERGES} has {merge[:80]!r}, which does not merge two tokens to one")
            return
    tokenizer.model = models.BPE(
        vocab=vocabulary.ids, merges=pairs, ignore_merges=pre in _WHOLE_WORDS
    )
    if pre in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), "isolated") for split in _SPLITS[pre]),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()


def _fill_sentencepiece(
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    vocabulary: _Vocabulary,
    unknown: int | None,
    problems: list[str],
) -> None:
    from tokenizers import decoders, models, normalizers

    scores = _read_array(metadata, _SCORES, "f", len(vocabulary.tokens), problems)
    prefix = _read_flag(metadata, "tokenizer.ggml.add_space_prefix", True, problems)
    if problems or scores is None:
        return
    tokenizer.model = models.BPE(
        vocab=vocabulary.ids,
        merges=_find_merges(vocabulary, scores),
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    spell = normalizers.Replace(" ", _SPACE)
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend(_SPACE), spell]) if prefix else spell
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )


def _find_merges(vocabulary: _Vocabulary, scores: Sequence[float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece, in the order in which they are merged."""
    # What users defined is found before any merge, and has a score that means nothing.
    rank = [
        (kind == _USER_DEFINED, score) for kind, score in zip(vocabulary.types, scores, strict=True)
    ]
    pieces = {
        token: token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (_NORMAL, _USER_DEFINED) and len(token) <= _LONGEST_PIECE
    }
    merges: list[tuple[str, str]] = []
    # Equal ranks keep the order of ids.
    for i in sorted(range(len(rank)), key=rank.__getitem__, reverse=True):
        whole = vocabulary.tokens[i]
        if whole not in pieces:
            continue
        for cut in range(len(whole) - 1, 0, -1):
            # The vocabulary's own strings, so that no others are kept.
            left = pieces.get(whole[:cut])
            if left is not None and (right := pieces.get(whole[cut:])) is not None:
                merges.append((left, right))
    return merges


def _add_tokens(tokenizer: Tokenizer, vocabulary: _Vocabulary, special: set[int]) -> None:
    """Tokens that are found in a text before anything else is done with it."""
    from tokenizers import AddedToken

    control: list[AddedToken] = []
    others: list[AddedToken] = []
    for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if not token.strip(_SPACE):
            continue  # Nothing, or a run of spaces, which merges find.
        if kind == _CONTROL or i in special:
            control.append(AddedToken(token, special=True, normalized=False))
        elif kind == _USER_DEFINED:
            others.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(others)


def _add_ends(
    tokenizer: Tokenizer,
    metadata: Mapping[str, Any],
    vocabulary: _Vocabulary,
    special: Mapping[str, int],
    problems: list[str],
) -> None:
    """What every text begins and ends with."""
    from tokenizers import processors

    begins = metadata.get(_MODEL) == "llama" or metadata.get(_PRE) in _WHOLE_WORDS
    ends: dict[str, int] = {}
    for name, default in (("bos", begins), ("eos", False)):
        key = f"tokenizer.ggml.add_{name}_token"
        if not _read_flag(metadata, key, default, problems):
            continue
        if f"{name}_token" in special:
            ends[name] = special[f"{name}_token"]
        elif key in metadata:
            problems.append(f"{key} is true, but {_SPECIAL[f'{name}_token']} is missing")
    if problems or not ends:
        return

    def around(text: str, segment: int) -> list[str]:
        before, after = ([f"{name}:{segment}"] if name in ends else [] for name in ("bos", "eos"))
        return [*before, f"{text}:{segment}", *after]

    tokenizer.post_processor = processors.TemplateProcessing(
        single=around("$A", 0),
        pair=around("$A", 0) + around("$B", 1),
        special_tokens=[
            {"id": name, "ids": [token], "tokens": [vocabulary.tokens[token]]}
            for name, token in ends.items()
        ],
    )
