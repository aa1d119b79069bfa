"""Pickles of plain values, read without unpickling.

A pickle is a program. Python's own reader runs it, whatever it does; this one takes its
instructions one by one, knows those that make lists, tuples, texts and numbers, and refuses all
others. So nothing in such a file is executed.
"""

import os
import pathlib
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

# Instructions are read at some millions a minute, and a value may be one byte long.
LARGEST = 64 * 2**20

_NOTHING = ("PROTO", "FRAME")
_VALUES = (
    *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_NEW: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEEP, _GET = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """What a pickle holds: lists, tuples, texts, numbers, truth values and None.

    Raises:
      OSError: the file cannot be read.
      ValueError: it holds anything else, is no pickle or only a part of one, or has more than
        `LARGEST` bytes; the message names the file.
    """
    path = pathlib.Path(path)
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(
            f"{path} has {size:,} bytes, and pickles of at most {LARGEST:,} are read; split it"
        )
    try:
        return _run(path.read_bytes())
    except (IndexError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is no whole pickle: its instructions do not fit") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _run(content: bytes) -> Any:
    """The value that a pickle's instructions make."""
    # What is made, since each mark; the last list grows.
    stacks: list[list[Any]] = [[]]
    kept: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        if len(stacks) == 1:
            raise IndexError
        return stacks.pop()

    argument: Any
    for instruction, argument, place in pickletools.genops(content):
        name = instruction.name
        if name in _NOTHING:
            continue
        if name == "STOP":
            break
        if name in _VALUES:
            stacks[-1].append(argument)
        elif name in _NEW:
            stacks[-1].append(_NEW[name]())
        elif name == "MARK":
            stacks.append([])
        elif name in _TUPLES:
            items = [stacks[-1].pop() for _ in range(_TUPLES[name])]
            stacks[-1].append(tuple(reversed(items)))
        elif name in ("TUPLE", "LIST"):
            items = since_mark()
            stacks[-1].append(tuple(items) if name == "TUPLE" else items)
        elif name in ("APPEND", "APPENDS"):
            items = [stacks[-1].pop()] if name == "APPEND" else since_mark()
            grown = stacks[-1][-1]
            if not isinstance(grown, list):
                raise IndexError
            grown.extend(items)
        elif name == "MEMOIZE":
            kept[len(kept)] = stacks[-1][-1]
        elif name in _KEEP:
            kept[argument] = stacks[-1][-1]
        elif name in _GET:
            stacks[-1].append(kept[argument])
        else:
            raise ValueError(
                f"it has the instruction {name} at byte {place}, which plain lists, tuples, texts "
                "and numbers do not need; nothing of it was executed"
            )
    if len(stacks) > 1 or len(stacks[0]) != 1:
        raise IndexError
    return stacks[0][0]
