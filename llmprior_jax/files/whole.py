"""Files that are whole: replaced in one step, and checked against a hash that is kept with them."""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
from collections.abc import Generator

# Under this name files keep the hash of their content in their metadata.
DIGEST = "llmprior_jax.digest"
# Halves of characters: no text that UTF-8 can have.
_HALF = re.compile("[\ud800-\udfff]")


def digest(*parts: bytes | str) -> bytes:
    """BLAKE2b of some parts, 16 bytes.

    Each part goes in with its length, so that no two lists run together. It tells damage from what
    was written; it is no proof of who wrote it.

    Raises:
      TypeError: a part is neither bytes nor text.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(encoded).to_bytes(8, "little"))
        hashed.update(encoded)
    return hashed.digest()


def write_atomically(path: str | pathlib.Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step.

    Raises:
      OSError: it cannot be written; the error names `path`, which is as it was.
      ValueError: the content is a text that has half of a character.
    """
    if isinstance(content, str):
        check_text(content, f"what is to be written to {path}")
        content = content.encode()
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(content)


def check_text(text: str, name: str) -> None:
    """Raises a ValueError if a text has half of a character, which no file can have.

    Python makes such texts of file names and of JSON that are no proper UTF-8.
    """
    if not text.isascii() and (half := _HALF.search(text)):
        around = text[max(0, half.start() - 20) : half.end() + 20]
        raise ValueError(
            f"{name} has half of a character ({around!r}), which is no text; write it in UTF-8"
        )


@contextlib.contextmanager
def replaced(path: str | pathlib.Path) -> Generator[pathlib.Path]:
    """Gives a file to write, which replaces `path` in one step if nothing fails until the end.

    What a kill leaves of it is overwritten the next time.

    Raises:
      OSError: as for `write_atomically`.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    with naming(path, temporary):
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            _remove(temporary)
            raise


def append(path: pathlib.Path, line: str) -> None:
    """Adds a line to a file, which is made if need be.

    Raises:
      OSError: it cannot be written; the error names `path`.
    """
    with naming(path), path.open("a") as file:
        file.write(line + "\n")


def check_writable(path: str | pathlib.Path) -> None:
    """Raises an error if `path` cannot be written, so that long work need not end in one.

    Directories are made for that, and removed again: nothing is left.

    Raises:
      OSError: a directory on the way cannot be made, or not be written, or `path` is one, or has
        too long a name; the error names `path`.
    """
    path = pathlib.Path(path)
    attempt = path.with_name(f".{path.name}.attempt")  # As long as that of `replaced`.
    with naming(path, attempt):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        missing = [parent for parent in path.parents if not parent.exists()]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with attempt.open("wb") as file:
                file.write(b"\0")
        finally:
            _remove(attempt)
            for parent in missing:
                with contextlib.suppress(OSError):  # Another process may be writing there.
                    parent.rmdir()


@contextlib.contextmanager
def naming(path: str | pathlib.Path, instead_of: pathlib.Path | None = None) -> Generator[None]:
    """Has errors of the operating system name `path` that name nothing, as those of open files.

    Args:
      path: to name.
      instead_of: what else it is named in place of.
    """
    try:
        yield
    except OSError as error:
        named = None if error.filename is None else str(error.filename)
        if error.errno is None or named not in (
            None,
            None if instead_of is None else str(instead_of),
        ):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # Why it cannot be removed is why it cannot be written.
        path.unlink()
