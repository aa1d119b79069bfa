"""JSON read with care.

What comes from a file of JSON is what its type says, and texts in it can be written again; whatever
else it holds is an error that names the file. An object that is kept has a hash of its fields
beside them (`sealed`), which is compared where it is there.
"""

import json
import numbers
import os
import pathlib
import re
import reprlib
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import logging

from llmprior_jax.files.whole import DIGEST, check_text, digest

# How JSON spells halves of characters.
_SPELLED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


class _ChangedError(ValueError):
    """What was read is not what was written."""


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an object of JSON, and a hash of them.

    Examples:
      >>> kept = json.dumps(files.sealed({"alpha": 0.1}))
      >>> files.parse_json(kept, "run.json")
      {'alpha': 0.1}
      >>> files.parse_json(kept.replace("0.1", "0.7"), "run.json")
      Traceback (most recent call last):
      ValueError: run.json: its content does not match the hash kept with it, ...
    """
    return {**fields, DIGEST: _hash(fields)}


def read_json(path: str | os.PathLike[str], kind: Any = Any) -> Any:
    """What a file of JSON holds.

    Args:
      path: the file.
      kind: see `typed`.

    Raises:
      OSError: the file cannot be read.
      ValueError: see `parse_json`.
    """
    return parse_json(pathlib.Path(path).read_bytes(), path, kind)


def parse_json(content: bytes | str, where: object, kind: Any = Any) -> Any:
    """What a text of JSON says.

    Args:
      content: the text, in UTF-8 if it is bytes; a byte-order mark before it is nothing.
      where: what errors begin with, such as the file's path.
      kind: what it is to be, see `typed`.

    Raises:
      ValueError: it is not UTF-8, no JSON, nested too deeply, has half of a character, or is
        something else than it is to be, or not as it was written (`sealed`).
    """
    try:
        return typed(kind, _unsealed(_loads(content)))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: this is not UTF-8 ({error.reason}); save the file in UTF-8"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{where}: this is nested too deeply") from error
    except _ChangedError as error:
        raise _ChangedError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def parse_lines(
    content: bytes, path: object, kind: Any = Any, unit: str = "line"
) -> Iterator[tuple[int, Any]]:
    """What a file of JSON Lines holds: the number of each line, from 1 on, and what it says.

    Lines without anything are nothing, and so is a byte-order mark. Such a file is easily changed
    by hand: a line that is not as it was written (`sealed`) is read as it is, with a warning.

    Args:
      content: of the file.
      path: of the file, for errors.
      kind: what each line is to be, see `typed`.
      unit: what errors call a line.

    Raises:
      ValueError: see `parse_json`; it names the line.
    """
    for number, line in numbered_lines(content):
        where = f"{path}, {unit} {number}"
        try:
            yield number, parse_json(line, where, kind)
        except _ChangedError as error:
            logging.warning("%s; it is read as it is", error)
            without = {name: of for name, of in _loads(line).items() if name != DIGEST}
            yield number, parse_json(json.dumps(without), where, kind)


def _loads(content: bytes | str) -> Any:
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    # What we wrote has no name twice; where two lines have run together, it may.
    value = json.loads(text, object_pairs_hook=_unique if DIGEST in text else None)
    if _SPELLED_HALF.search(text):
        _check_texts(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in it")
    return fields


def _unsealed(value: Any) -> Any:
    """What was written, without its hash, which is compared if there is one."""
    if not isinstance(value, dict) or DIGEST not in value:
        return value
    kept = value.pop(DIGEST)
    if kept != _hash(value):
        raise _ChangedError(
            f"its content does not match the hash kept with it, {DIGEST}; take that out if the "
            "change was meant"
        )
    return value


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines of a text that have anything, and their numbers from 1 on."""
    # Not `splitlines`, which also breaks at marks that a JSON text may hold.
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def typed(kind: Any, value: Any, name: str = "") -> Any:
    """A value of JSON as its type has it: `7.0` is an `int`, too, and a list a `tuple`.

    Examples:
      >>> files.typed(tuple[int, ...], [3, 7.0], "sizes")
      (3, 7)
      >>> files.typed(tuple[int, ...], [3, "7"], "sizes")
      Traceback (most recent call last):
      ValueError: sizes[1] is '7', and no whole number

    Args:
      kind: `Any`, `str`, `int`, `float`, `bool`, one of these or `None`, a `Literal`, `list` or
        `tuple` of one type, `Mapping` from texts, or a `TypedDict`, which may have further fields.
      value: the value.
      name: what errors call it.

    Raises:
      TypeError: the type is none of these.
      ValueError: the value is something else; the message says where, and what.
    """
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain(value, name)
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin is Any:
        return value
    if type(None) in arguments:
        return None if value is None else typed(arguments[0], value, name)
    if origin is typing.Literal:
        if value not in arguments:
            choices = ", ".join(map(repr, arguments))
            raise ValueError(f"{name or 'this'} is {reprlib.repr(value)}; use one of {choices}")
        return value
    if origin in (list, tuple):
        entries = _expect(list | tuple, value, name, "list")
        of_each = arguments[0] if arguments else Any
        items = [typed(of_each, entry, f"{name}[{i}]") for i, entry in enumerate(entries)]
        return tuple(items) if origin is tuple else items
    if origin in (dict, Mapping):
        fields = _expect(Mapping, value, name, "object")
        of_each = arguments[1] if arguments else Any
        return {
            _text(field, "a name"): typed(of_each, inner, _of(name, field))
            for field, inner in fields.items()
        }
    if typing.is_typeddict(origin):
        return _typed_fields(origin, _expect(Mapping, value, name, "object"), name)
    raise TypeError(f"{kind} is no type that JSON has")


def _typed_fields(kind: Any, fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    needed = [field for field in hints if field in kind.__required_keys__]
    if missing := [field for field in needed if field not in fields]:
        within = f"{name}: " if name else ""
        raise ValueError(f"{within}there is no field {', '.join(missing)}")
    known = {field: of for field, of in hints.items() if field in fields}
    return {**fields, **{f: typed(of, fields[f], _of(name, f)) for f, of in known.items()}}


def _expect(kind: Any, value: Any, name: str, wanted: str) -> Any:
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, kind):
        raise ValueError(f"{name or 'this'} is {reprlib.repr(value)}, and no {wanted}")
    return value


def _text(value: Any, name: str) -> str:
    text = _expect(str, value, name, "text")
    check_text(text, name or "this")
    return text


def _truth(value: Any, name: str) -> bool:
    return _expect(bool, value, name, "truth value")


def _number(value: Any, name: str) -> float:
    try:
        return float(_expect(numbers.Real, value, name, "number"))
    except OverflowError as error:
        raise ValueError(
            f"{name or 'this'} is {reprlib.repr(value)}, too large a number"
        ) from error


def _whole_number(value: Any, name: str) -> int:
    if isinstance(value, numbers.Integral):
        return _expect(int | numbers.Integral, value, name, "whole number")
    is_whole = isinstance(value, float) and value.is_integer()
    return int(_expect(float if is_whole else int, value, name, "whole number"))


_PLAIN: dict[Any, Callable[[Any, str], Any]] = {
    bool: _truth,
    float: _number,
    int: _whole_number,
    str: _text,
}


def _of(name: str, field: str) -> str:
    return f"{name}.{field}" if name else field


def _check_texts(value: Any) -> None:
    """Raises a ValueError if a text at any depth has half of a character."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            check_text(inner, "a text")
        elif isinstance(inner, dict):
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list):
            waiting += inner


def _hash(fields: Mapping[str, Any]) -> str:
    return digest(json.dumps(fields, sort_keys=True)).hex()
