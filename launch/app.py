"""What all commands share: where compiled programs are kept, and how a user's mistake is told."""

import os
import pathlib
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from llmprior_jax.training import RestoreError

# What is raised for a user's mistake; its message says what is wrong, where, and what to do.
_MISTAKES = (ValueError, TypeError, FileNotFoundError, RestoreError)


def run(main: Callable[[Sequence[str]], None], max_arguments: int = 0) -> None:
    """Runs `main` as an absl app that takes flags and up to `max_arguments` other words."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 + max_arguments:
            sys.exit(f"error: unexpected argument {argv[-1]!r}; flags begin with --")
        cache = pathlib.Path.home() / ".cache" / "llmprior_jax" / "jax"
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        # The checkpoint library tells every step of every save at the level below.
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except _MISTAKES as error:
            sys.exit(f"error: {error}")

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A field that a config does not have ends in an AttributeError, with the nearest name.
        reason = str(error).strip("'").replace("\\n", "; ").replace("\\'", "'")
        sys.exit(f"error: {reason}\n--help lists the flags")
