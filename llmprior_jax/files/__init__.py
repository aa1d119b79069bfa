"""Files: replaced in one step, checked against a hash, and JSON and pickles read with care."""

from llmprior_jax.files.pickled import read_pickle
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
    "read_pickle",
    "replaced",
    "sealed",
    "typed",
    "write_atomically",
]
