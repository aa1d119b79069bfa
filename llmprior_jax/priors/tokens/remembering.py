"""What is found out about a tokenizer once, and kept for as long as the tokenizer lives.

One thread may read texts ahead while another is at work, so all of this may be used by several.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

_Found = TypeVar("_Found")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_LOCK = threading.RLock()  # What is found out of one thing may rest on what is of another.


class OnceForEach(Generic[_Found]):
    """Gives each tokenizer the one object that is made of it.

    The object must not hold the tokenizer, or neither would ever go.
    """

    def __init__(self, make: Callable[[Any], _Found]):
        self._make = make
        self._found: weakref.WeakKeyDictionary[Any, _Found] = weakref.WeakKeyDictionary()

    def __call__(self, tokenizer: Any) -> _Found:
        with _LOCK:
            found = self._found.get(tokenizer)
            if found is None:
                found = self._found[tokenizer] = self._make(tokenizer)
            return found


def remember(memory: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Adds to a memory of a size; what came first goes first."""
    with _LOCK:
        while len(memory) >= most:
            del memory[next(iter(memory))]
        memory[key] = value
