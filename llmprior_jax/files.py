"""Files that are whole: replaced in one step, and checked against a hash that is kept with them."""

import hashlib
import os
import pathlib

# Under this name files keep the hash of their content in their metadata.
DIGEST = "llmprior_jax.digest"


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

    What a kill leaves beside it is overwritten the next time.
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
