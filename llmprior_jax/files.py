"""Writing files so that a kill at any moment leaves the old one or the new one, whole."""

import os
import pathlib


def write_atomically(path: str | pathlib.Path, content: str | bytes) -> None:
    """Replaces `path` by `content` in one step.

    What a kill leaves beside it is overwritten the next time.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
