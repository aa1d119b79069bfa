"""What a model said of one prompt, and how it is written in the columns of a database.

Hidden states are nearly all of what is written, so features take 8 or 16 bits where those hold them
exactly. They always do for `CachedModel`, which rounds features and makes them short before they
are used (`features.shorten`). What is read back is what was written, to the last bit.
"""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmprior_jax.files import check_text, parse_json

# What is written, in this order.
COLUMNS = ("actions", "log_probs", "num_tokens", "features", "format")
# What features are written in: whole multiples of a power of two for each action, and floats.
_WHOLE, _HALF, SINGLE = "i1", "<f2", "<f4"
_MOST = np.iinfo(np.int8).max
_LISTS_REMEMBERED = 1_024  # The same lists of actions come with many prompts.


class StoredScores(NamedTuple):
    """A model's scores of some actions after one prompt.

    Examples:
      >>> scores = priors.StoredScores(
      ...     (" wait",), np.float32([-1.5]), np.int32([1]), np.zeros((1, 4), np.float32)
      ... )
      >>> scores.check()

    Attributes:
      actions: A texts, each once.
      log_probs: f32[A], summed over each action's tokens.
      num_tokens: i32[A].
      features: f32[A, D], the hidden state at each action's last token. Those that float16 can
        hold exactly take half the room, multiples of a power of two, 127 at most, a quarter.
    """

    actions: tuple[str, ...]
    log_probs: np.ndarray
    num_tokens: np.ndarray
    features: np.ndarray

    def check(self) -> None:
        """Raises a ValueError if this cannot be what a model said: it may come from a file."""
        A = len(self.actions)
        if not A or not all(isinstance(action, str) for action in self.actions):
            raise ValueError("actions are missing, or are no texts")
        _check_actions(tuple(self.actions))
        for name, array, ndim, kinds in zip(
            ("log-probabilities", "numbers of tokens", "features"),
            (self.log_probs, self.num_tokens, self.features),
            (1, 1, 2),
            ("f", "iu", "f"),
            strict=True,
        ):
            if array.ndim != ndim or len(array) != A:
                raise ValueError(f"{A} actions have {name} of shape {array.shape}")
            if array.dtype.kind not in kinds:
                raise ValueError(f"{name} are of type {array.dtype}")
        if (self.num_tokens < 1).any():
            raise ValueError("an action has no token")
        if np.isnan(self.log_probs).any() or np.isnan(self.features).any():
            raise ValueError("an action has NaN for a log-probability or a feature")

    def merge(self, new: "StoredScores") -> "StoredScores":
        """These scores, followed by those of `new` whose actions are not among them."""
        held = set(self.actions)
        fresh = [a for a, action in enumerate(new.actions) if action not in held]
        return StoredScores(
            self.actions + tuple(new.actions[a] for a in fresh),
            *(
                np.concatenate([old, more[fresh]])
                for old, more in zip(self[1:], new[1:], strict=True)
            ),
        )


def unpack(columns: Sequence[Any]) -> StoredScores:
    """The scores that `COLUMNS` hold.

    Raises:
      ValueError, TypeError: they are not what `pack` writes.
    """
    texts, log_probs, num_tokens, features, written = columns
    actions = _read_actions(texts)
    log_probs = np.frombuffer(log_probs, "<f4")
    num_tokens = np.frombuffer(num_tokens, "<i4")
    features = _read_features(features, written, max(1, len(actions)))
    scores = StoredScores(actions, log_probs, num_tokens, features)
    scores.check()
    return scores


def pack(scores: StoredScores) -> tuple[str, bytes, bytes, bytes, str]:
    """What is written in the columns, in the shortest way that loses nothing."""
    log_probs = np.ascontiguousarray(scores.log_probs, "<f4")
    num_tokens = np.ascontiguousarray(scores.num_tokens, "<i4")
    features = np.ascontiguousarray(scores.features, SINGLE)
    written = next(each for each in _WAYS if each == SINGLE or _is_exact(features, each))
    arrays = log_probs.tobytes(), num_tokens.tobytes(), _WAYS[written](features)
    return json.dumps(scores.actions), *arrays, written


def _is_exact(features: np.ndarray, written: str) -> bool:
    read = _read_features(_WAYS[written](features), written, len(features))
    return read.tobytes() == features.tobytes()  # -0.0 is no 0.0 here.


def _as_whole(features: np.ndarray) -> bytes:
    """An exponent of 2 for each action, and then the multiples of all."""
    largest = np.abs(features).max(axis=1, initial=0.0)
    mantissas, exponents = np.frexp(largest / np.float32(_MOST))
    exponents -= mantissas == 0.5  # A power of two is 1 times itself here.
    exponents = exponents.clip(-128, _MOST).astype(np.int8)
    with np.errstate(invalid="ignore"):
        multiples = features / _powers(exponents)
        whole = np.nan_to_num(multiples).clip(-_MOST, _MOST).astype(np.int8)
    return exponents.tobytes() + whole.tobytes()


def _as_half(features: np.ndarray) -> bytes:
    with np.errstate(over="ignore"):
        return features.astype(_HALF).tobytes()


# How features f32[A, D] are written, the shortest way first.
_WAYS: dict[str, Callable[[np.ndarray], bytes]] = {
    _WHOLE: _as_whole,
    _HALF: _as_half,
    SINGLE: np.ndarray.tobytes,
}


# 2^-128 to 2^127, for exponents i8.
_POWERS = np.ldexp(np.float32(1.0), np.arange(-128, 128, dtype=np.int32))


def _read_features(content: bytes, written: str, num_actions: int) -> np.ndarray:
    """Features f32[A, D].

    Raises:
      ValueError: they are not of that format.
    """
    if written not in _WAYS:
        raise ValueError(f"its features are of the unknown format {written!r}")
    numbers = np.frombuffer(content, written)
    if written != _WHOLE:
        return numbers.astype(np.float32).reshape(num_actions, -1)
    exponents, whole = numbers[:num_actions], numbers[num_actions:].reshape(num_actions, -1)
    features = whole.astype(np.float32)
    features *= _powers(exponents)
    return features


def _powers(exponents: np.ndarray) -> np.ndarray:
    """Of 2, f32[A, 1]."""
    return _POWERS[exponents.astype(np.intp) + 128, None]


@functools.lru_cache(_LISTS_REMEMBERED)
def _check_actions(actions: tuple[str, ...]) -> None:
    """Raises a ValueError if one cannot be kept, or stands twice."""
    for action in actions:
        check_text(action, "an action")
    if len(set(actions)) < len(actions):
        twice = next(each for each in actions if actions.count(each) > 1)
        raise ValueError(f"the action {twice!r} stands twice")


@functools.lru_cache(_LISTS_REMEMBERED)
def _read_actions(written: str) -> tuple[str, ...]:
    """Raises a ValueError if it is no list of texts."""
    return parse_json(written, "its actions", tuple[str, ...])
