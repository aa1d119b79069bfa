"""Files: replaced in one step, checked against a hash kept with them, and JSON read with care."""

from llmprior_jax.files.records import (
    numbered_lines,
    parse_json,
    parse_lines,
    read_json,
    sealed,
    typed,
)
from llmprior_jax.files.whole import (
    DIGEST,
    append,
    check_text,
    check_writable,
    digest,
    naming,
    replaced,
    write_atomically,
)

__all__ = [
    "DIGEST",
    "append",
    "check_text",
    "check_writable",
    "digest",
    "naming",
    "numbered_lines",
    "parse_json",
    "parse_lines",
    "read_json",
    "replaced",
    "sealed",
    "typed",
    "write_atomically",
]
