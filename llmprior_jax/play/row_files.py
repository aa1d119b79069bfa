"""The rows of a run's table on disk, in the order in which they were added.

A row number stands for a state in replay and checkpoints, so rows are only ever appended: a file
for each addition, beside one for how features are whitened and by which source all was scored. What
a language model said of each text is kept apart from runs (`priors.store`). With several processes,
the first alone reads and writes, and tells the others. Each file has a hash of its arrays in its
metadata, and is refused if it does not match; files of a version without hashes are taken as they
are. Features of empty action slots, which are most where a state can have many actions and has few,
are left out.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
import safetensors
import safetensors.numpy

from llmprior_jax.distributed.processes import from_first
from llmprior_jax.files import DIGEST, digest, parse_json, write_atomically
from llmprior_jax.models import CheckpointError
from llmprior_jax.priors.whitening import Whitening

_WHITENING = "whitening.safetensors"
# In a file, bool[M, A]: the actions whose features, f32[F, K], it has; without it, it has all.
_HELD = "held"
# Patterns of all that is made in the directory of a table, what a kill leaves included.
FILES = (_WHITENING, "rows-*.safetensors", ".*.safetensors.partial")
# Rows that are sent to other processes at once.
_ROWS_AT_ONCE = 1024


class Rows(NamedTuple):
    """M rows of a table on the host; the names are those in the files.

    Attributes:
      observations: [M, *O].
      log_probs: f32[M, A].
      features: f32[M, A, K], whitened.
      others: f32[M, J, A], log-probabilities of further priors; None is none.
    """

    observations: np.ndarray
    log_probs: np.ndarray
    features: np.ndarray
    others: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: "Sequence[Rows]") -> "Rows":
        """One after another, of one or more."""
        whole: Rows = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return whole


_Arrays = TypeVar("_Arrays", Rows, Whitening)


class RowFiles:
    """The files of one table.

    Args:
      directory: holds them; made when the first are added.
      read_only: leave the directory as it is.
    """

    def __init__(self, directory: str | pathlib.Path, read_only: bool = False):
        self._directory = pathlib.Path(directory)
        self._read_only = read_only
        # Where the last addition ended: no file begins there or beyond, since nobody else writes
        # here. None before the first addition.
        self._end: int | None = None

    @property
    def has_rows(self) -> bool:
        """Whether the first rows are there."""
        return bool(from_first(lambda: b"yes" if self._path(0).exists() else b""))

    @property
    def num_bytes(self) -> int:
        """What the rows take on disk."""
        return sum(path.stat().st_size for path in self._directory.glob("rows-*.safetensors"))

    def write_whitening(self, whitening: Whitening, identity: str) -> Whitening:
        """Keeps how features are whitened, and by which source all is scored.

        Returns it as it is in all processes, which may have computed other last bits.
        """

        def keep() -> bytes:
            content = _to_bytes(whitening, {"fingerprint": identity})
            if not self._read_only:
                self._directory.mkdir(parents=True, exist_ok=True)
                write_atomically(self._directory / _WHITENING, content)
            return content

        return _from_bytes(Whitening, from_first(keep))

    def read_whitening(self, identity: Callable[[], str]) -> Whitening:
        """How features are whitened.

        Args:
          identity: gives the source's, which must be the one that scored the rows.

        Raises:
          ValueError: it is another one, or the file is damaged.
        """
        path = self._directory / _WHITENING

        def check(about: Mapping[str, str]) -> None:
            self._check_source(about.get("fingerprint"), identity)

        return _from_bytes(Whitening, from_first(lambda: _read(path, Whitening, check)))

    def append(self, first: int, rows: Rows) -> Rows:
        """Keeps rows from number `first` on; those there, left by a run that was killed, go.

        Returns them as they are in all processes, which may have computed other last bits.
        """

        def keep() -> bytes:
            content = _to_bytes(rows)
            if not self._read_only:
                if first != self._end:  # Looking through thousands of files takes its time.
                    self._remove_beyond(first)
                write_atomically(self._path(first), content)
                self._end = first + len(rows.observations)
            return content

        return _from_bytes(Rows, from_first(keep))

    def _remove_beyond(self, first: int) -> None:
        """Removes additions that begin after row `first`."""
        last = self._path(first).name
        names = (path.name for path in self._directory.glob("rows-*.safetensors"))
        # The last first, so that what a kill leaves has no gap.
        for name in sorted((name for name in names if name > last), reverse=True):
            (self._directory / name).unlink()

    def appended(self, first: int) -> Rows | None:
        """The rows that one addition brought, by the number of the first; None if there is none.

        Raises:
          ValueError: their file is damaged.
        """
        path = self._path(first)
        content = from_first(lambda: _read(path, Rows) if path.exists() else b"")
        return _from_bytes(Rows, content) if content else None

    def read(self, size: int | None) -> Rows:
        """The first `size` rows, or all of them.

        Raises:
          ValueError: there are fewer, or they are damaged.
        """
        chunks: list[Rows] = []
        total = 0
        while size is None or total < size:
            rows = self.appended(total)
            if rows is None:
                break
            chunks.append(rows)
            total += len(rows.observations)
        if size is not None and total < size:
            raise ValueError(
                f"{self._directory} has {total} rows where {size} are needed; "
                "they are not those of this run. Start again with another --workdir"
            )
        return jax.tree.map(lambda leaf: leaf[:size], Rows.joined(chunks))

    def _path(self, first: int) -> pathlib.Path:
        return self._directory / f"rows-{first:09d}.safetensors"

    def _check_source(self, theirs: str | None, identity: Callable[[], str]) -> None:
        try:
            ours = identity()
        except CheckpointError:
            return  # Rows stand on their own; only new ones need the model, and say so.
        if ours != theirs:
            raise ValueError(
                f"the states in {self._directory} were scored by another source of priors "
                f"(identity {theirs}, now {ours}): its language model or its demonstrations are "
                "another version, or another version of llmprior_jax computed its numbers, and "
                "rows of both would not go together. Bring that version back to go on with the "
                "run or to evaluate it (provenance.jsonl beside its config.json says which "
                "llmprior_jax it was), or start again with another --workdir or --noresume"
            )


def of_first(rows: Rows) -> Rows:
    """Rows as the first process has them: the others may have computed other last bits."""
    if jax.process_count() == 1:
        return rows
    parts = [
        jax.tree.map(lambda leaf, at=at: leaf[at : at + _ROWS_AT_ONCE], rows)
        for at in range(0, max(len(rows.log_probs), 1), _ROWS_AT_ONCE)
    ]
    sent = [_from_bytes(Rows, from_first(lambda part=part: _to_bytes(part))) for part in parts]
    return Rows.joined(sent)


def _read(
    path: pathlib.Path,
    kind: type[Rows] | type[Whitening],
    check: Callable[[Mapping[str, str]], None] | None = None,
) -> bytes:
    """A file of arrays, whose hash is compared.

    Args:
      path: of the file.
      kind: what its arrays are.
      check: looks at the file's metadata, and may raise an error.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        content = path.read_bytes()
        about = _checked(content, kind)
    except (KeyError, OSError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); start the run again with --noresume"
        ) from error
    if check is not None:
        check(about)
    return content


def _checked(content: bytes, kind: type[Rows] | type[Whitening]) -> dict[str, str]:
    """The metadata of a safetensors file without its hash, which is compared.

    Raises:
      ValueError: the arrays, or the metadata, are not those that were written, or an array lacks.
    """
    arrays = safetensors.numpy.load(content)
    # The format: the length of a header in JSON, the header, the arrays.
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    about: dict[str, str] = parse_json(header, "its header", dict).get("__metadata__", {})
    kept = about.pop(DIGEST, None)
    if kept is not None and kept != _hash(arrays, about):
        raise ValueError("its content does not match the hash kept with it")
    needed = [name for name in kind._fields if name not in kind._field_defaults]
    if missing := [name for name in needed if name not in arrays]:
        raise ValueError(f"there is no array {', '.join(missing)}")
    return about


def _hash(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> str:
    parts: list[bytes | str] = [json.dumps(about, sort_keys=True)]
    for name, array in sorted(arrays.items()):
        parts += [f"{name} {array.dtype} {array.shape}", array.tobytes()]
    return digest(*parts).hex()


def _to_bytes(arrays: Rows | Whitening, about: dict[str, str] | None = None) -> bytes:
    """Arrays, and what is to be known about them, as the content of a safetensors file."""
    there = {name: array for name, array in arrays._asdict().items() if array is not None}
    if isinstance(arrays, Rows):
        held = np.any(arrays.features != 0, axis=-1)
        there |= {"features": arrays.features[held], _HELD: held}
    whole = {name: np.ascontiguousarray(array) for name, array in there.items()}
    about = about or {}
    return safetensors.numpy.save(whole, metadata={**about, DIGEST: _hash(whole, about)})


def _from_bytes(kind: type[_Arrays], content: bytes) -> _Arrays:
    arrays = safetensors.numpy.load(content)
    held = arrays.get(_HELD)
    if held is not None:
        features = arrays["features"]
        arrays["features"] = np.zeros((*held.shape, features.shape[-1]), features.dtype)
        arrays["features"][held] = features
    return kind(**{name: arrays[name] for name in kind._fields if name in arrays})
