"""Pickles of plain values, read without unpickling.

A pickle is a program. Python's own reader runs it, whatever it does; this one takes its
instructions one by one, knows those that make lists, tuples, texts and numbers, and refuses all
others. So nothing in such a file is executed.
"""

import io
import os
import pathlib
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

LARGEST = 64 * 2**20
# A value may be one byte long: a million instructions take up to 80 MiB, and some seconds.
MOST_INSTRUCTIONS = 4_000_000
# The decimal digits of 64 bits, and a sign, an L.
_MOST_DIGITS = 22

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
      ValueError: it holds anything else, such as an integer beyond 64 bits, is no pickle or only a
        part of one, or has more than `LARGEST` bytes or `MOST_INSTRUCTIONS`; the message names the
        file.
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
    for instruction, argument, place in _instructions(content):
        name = instruction.name
        if name in _NOTHING:
            continue
        if name == "STOP":
            break
        if name in _VALUES:
            if isinstance(argument, int) and not -(2**63) <= argument < 2**64:
                raise ValueError(_too_large(place))
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


def _instructions(content: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """The instructions of a pickle, each with its argument and its place; not too many."""
    stream = io.BytesIO(content)
    instructions = pickletools.genops(stream)
    for _ in range(MOST_INSTRUCTIONS):
        begin = stream.tell()
        # In decimal digits, of which Python's own reader takes a few thousand.
        if content[begin : begin + 1] in (b"I", b"L"):
            stop = content.find(b"\n", begin)
            if stop - begin - 1 > _MOST_DIGITS:
                raise ValueError(_too_large(begin))
        if (instruction := next(instructions, None)) is None:
            return
        yield instruction
    raise ValueError(f"it has more than {MOST_INSTRUCTIONS:,} instructions; split it")


def _too_large(place: int | None) -> str:
    return f"it has an integer of more than 64 bits at byte {place}"
