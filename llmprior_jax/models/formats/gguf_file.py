"""GGUF, the format of llama.cpp's files: metadata, and tensors that are mostly quantized.

A file is a header (magic, version, counts), metadata (key, type, value), a list of tensors (name,
shape, number format, offset), and the tensors' bytes. Nothing in it is believed: every count and
offset is held against the size of the file before anything is read or laid out by it. The package
`gguf` knows the number formats; its reader is not used, since it trusts its file and makes several
objects for each of a quarter of a million tokens.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from llmprior_jax.models.checkpoint import Tensor, listed
from llmprior_jax.models.config import CheckpointError

ENDING = ".gguf"
# Number formats by their number in the file, all of which `gguf` can read.
QUANTIZATIONS = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    30: "BF16",
    34: "TQ1_0",
    35: "TQ2_0",
}

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_MOST_DIMENSIONS = 4
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_PART = re.compile(r"-(\d{5})-of-(\d{5})(\.gguf)$", re.IGNORECASE)


class GGUFFile(NamedTuple):
    """What the header of a file says.

    Attributes:
      path: the file.
      metadata: numbers, truth values, strings, arrays of numbers and lists of strings, by key.
      tensors: by name, as they lie in the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GGUFTensor]


@dataclasses.dataclass(frozen=True)
class GGUFTensor(Tensor):
    """A tensor of a GGUF file.

    Attributes:
      start: of its first byte in the file.
      row_bytes: what one row takes.
      add: what is added to its values.
      places: where each row belongs, if rows have another order in the file.
    """

    start: int
    row_bytes: int
    add: float = 0.0
    places: np.ndarray | None = None

    def read_rows(self, start: int, stop: int) -> tuple[Any, np.ndarray]:
        import gguf

        if len(self.shape) == 1:  # One row, whatever part of it is asked for.
            first, rows = 0, 1
        else:
            first, rows = start, stop - start
        raw = np.fromfile(
            self.file, np.uint8, rows * self.row_bytes, offset=self.start + first * self.row_bytes
        )
        if raw.size != rows * self.row_bytes:
            raise CheckpointError(str(self.file), [f"{self.name} is cut short"])
        kind = gguf.GGMLQuantizationType[self.dtype]
        with np.errstate(all="ignore"):  # What is not finite is found by who asks for values.
            values = gguf.quants.dequantize(raw.reshape(rows, self.row_bytes), kind)
            values = values.reshape(rows, -1)
            values = values[0, start:stop] if len(self.shape) == 1 else values
            if self.add:
                values = values + np.float32(self.add)
        place = slice(start, stop) if self.places is None else self.places[start:stop]
        return place, values


def read(path: Path) -> GGUFFile:
    """Reads the header of a file.

    Raises:
      CheckpointError: it cannot be read, is cut short, or says what cannot be.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(str(path), [f"it cannot be read: {error}"]) from error


def is_named_so(path: Path) -> bool:
    """Whether a file's name says that it is a GGUF file."""
    return path.suffix.lower() == ENDING


def part(path: Path) -> tuple[int, int] | None:
    """Which part of how many a file's name says that it is, from 1 on; None if it is whole."""
    found = _PART.search(path.name)
    return (int(found[1]), int(found[2])) if found else None


def parts(path: Path) -> list[Path]:
    """All parts of a split file of which one is named; the file itself if it is whole."""
    numbers = part(path)
    if numbers is None:
        return [path]
    count = numbers[1]
    if not 1 <= numbers[0] <= count:
        raise CheckpointError(
            str(path), [f"its name says that it is part {numbers[0]} of {count}; rename it"]
        )
    names = (
        _PART.sub(rf"-{number:05}-of-{count:05}\3", path.name) for number in range(1, count + 1)
    )
    return [path.with_name(name) for name in names]


def all_parts(pattern: str) -> str:
    """The pattern that all parts of the file of that name have."""
    return _PART.sub(r"-?????-of-\2\3", pattern)


def directory_part(directory: Path) -> Path | None:
    """The one GGUF file of a directory, or the first part of one that is split.

    Returns:
      None if there is none.

    Raises:
      CheckpointError: there are several.
    """
    files = sorted(path for path in directory.iterdir() if is_named_so(path))
    models: dict[str, Path] = {}
    for path in files:
        models.setdefault(all_parts(path.name), path)
    if len(models) > 1:
        names = listed([path.name for path in models.values()])
        raise CheckpointError(
            str(directory), [f"it holds {len(models)} GGUF models; name one of them: {names}"]
        )
    return next(iter(models.values()), None)


class _Header:
    """A reader at some place of a file's first bytes."""

    def __init__(self, path: Path, data: mmap.mmap):
        self.path = path
        self.data = data
        self.at = 0
        self.doing = "the header"

    def fail(self, problem: str) -> NoReturn:
        raise CheckpointError(str(self.path), [f"{self.doing}, at byte {self.at:,}: {problem}"])

    def read(self) -> GGUFFile:
        if self.data[:4] != _MAGIC:
            self.fail("it is no GGUF file, which begin with GGUF")
        self.at = 4
        version = self.scalar("I")
        if version not in _VERSIONS:
            wanted = " and ".join(map(str, _VERSIONS))
            order = "; its bytes are in big-endian order" if version & 0xFFFF == 0 else ""
            self.fail(f"its version is {version}; supported are {wanted}{order}")
        num_tensors, num_keys = self.scalar("Q"), self.scalar("Q")
        self.doing = "the metadata"
        self.check_count(num_keys, 8 + 4 + 1, "keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            self.doing = "the metadata"
            key = self.string()
            self.doing = f"metadata {key[:80]!r}"
            if key in metadata:
                self.fail("it is there twice")
            metadata[key] = self.value(self.scalar("I"))
        self.doing = "the list of tensors"
        self.check_count(num_tensors, 8 + 4 + 8 + 4 + 8, "tensors")
        listing = [self.tensor_entry() for _ in range(num_tensors)]
        self.doing = "the list of tensors"
        return GGUFFile(self.path, metadata, self.lay_out(listing, self.alignment(metadata)))

    def alignment(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment!r}; it must be a power of two")
        return alignment

    def take(self, size: int) -> int:
        """Goes on by so many bytes, and says where they begin."""
        if size > len(self.data) - self.at:
            self.fail(
                f"{size:,} bytes should follow, but the file ends after "
                f"{len(self.data) - self.at:,}; it is damaged or cut short"
            )
        start, self.at = self.at, self.at + size
        return start

    def scalar(self, code: str) -> Any:
        size = struct.calcsize(f"<{code}")
        return struct.unpack_from(f"<{code}", self.data, self.take(size))[0]

    def string(self) -> str:
        # The innermost loop: a quarter of a million of these are read for one vocabulary.
        (size,) = struct.unpack_from("<Q", self.data, self.take(8))
        start = self.take(size)
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError:
            self.fail("it is no text in UTF-8")

    def check_count(self, count: int, size: int, what: str) -> None:
        """Refuses a count of things of at least so many bytes that cannot all follow."""
        if count * size > len(self.data) - self.at:
            self.fail(
                f"{count:,} {what} should follow, for which the file is too short; it is damaged "
                "or cut short"
            )

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            self.fail(f"a value is of the unknown type {kind}")
        element, count = self.scalar("I"), self.scalar("Q")
        if element == _STRING:
            self.check_count(count, 8, "strings")
            return [self.string() for _ in range(count)]
        if element not in _SCALARS:
            self.fail(f"an array is of the unknown type {element}")
        dtype = np.dtype(_SCALARS[element]).newbyteorder("<")
        self.check_count(count, dtype.itemsize, "values")
        start = self.take(count * dtype.itemsize)
        return np.frombuffer(self.data[start : self.at], dtype)

    def tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        self.doing = "the list of tensors"
        name = self.string()
        self.doing = f"tensor {name[:80]!r}"
        dimensions = self.scalar("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            self.fail(f"it has {dimensions} dimensions; supported are 1 to {_MOST_DIMENSIONS}")
        # The fastest comes first.
        shape = tuple(self.scalar("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.scalar("I"), self.scalar("Q")

    def lay_out(
        self, listing: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, GGUFTensor]:
        import gguf

        tensors: dict[str, GGUFTensor] = {}
        beginning = -(-self.at // alignment) * alignment
        twice: list[str] = []
        unknown: list[str] = []
        uneven: list[str] = []
        beyond: list[str] = []
        for name, shape, kind, offset in listing:
            if name in tensors:
                twice.append(name[:80])
            if kind not in QUANTIZATIONS:
                unknown.append(f"{name[:80]} is {_quantization(kind)}")
                continue
            dtype = QUANTIZATIONS[kind]
            block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]]
            if shape[-1] % block:
                uneven.append(f"{name[:80]} has {shape[-1]:,}, and {dtype} takes {block} together")
                continue
            row_bytes = shape[-1] // block * size
            start = beginning + offset
            end = start + math.prod(shape[:-1]) * row_bytes
            if end > len(self.data):
                beyond.append(name[:80])
            tensors[name] = GGUFTensor(self.path, name, shape, dtype, start, row_bytes)
        known = f"; supported are {', '.join(QUANTIZATIONS.values())}"
        cut = "; it is damaged or cut short"
        wrong = [
            (twice, "are there twice", ""),
            (unknown, "are of a quantization that is not supported", known),
            (uneven, "have rows that do not divide into what is stored as one", ""),
            (beyond, f"end beyond the file's {len(self.data):,} bytes", cut),
        ]
        problems = [f"{len(of)} tensors {are}: {listed(of)}{end}" for of, are, end in wrong if of]
        if problems:
            raise CheckpointError(str(self.path), problems)
        return tensors


def _quantization(number: int) -> str:
    import gguf

    try:
        return gguf.GGMLQuantizationType(number).name
    except ValueError:
        return f"of the unknown kind {number}"
