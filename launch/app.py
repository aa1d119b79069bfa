"""What all commands share: where compiled programs are kept, how to stop, how mistakes are told."""

import os
import pathlib
import signal
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from llmprior_jax.training import InterruptedRunError, RestoreError

# What is raised for a user's mistake; its message says what is wrong, where, and what to do.
_MISTAKES = (ValueError, TypeError, FileNotFoundError, RestoreError)

_INTERRUPTED = 128 + signal.SIGINT  # what shells report of a command ended by Ctrl-C


class StopSignal:
    """Ctrl-C and SIGTERM as a wish to stop soon; a second one stops at once.

    Called, it says whether the wish was uttered. Use as a context manager, in the main thread.
    """

    def __enter__(self) -> "StopSignal":
        self._asked = False
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: object) -> None:
        del frame
        if self._asked:
            sys.exit(128 + number)
        self._asked = True
        print("\nstopping after this segment; once more to stop at once", file=sys.stderr)


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
        except InterruptedRunError as interruption:
            print(interruption, file=sys.stderr)
            sys.exit(_INTERRUPTED)

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: Sequence[str]) -> Sequence[str]:
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A field that a config does not have ends in an AttributeError, with the nearest name.
        reason = str(error).strip("'").replace("\\n", "; ").replace("\\'", "'")
        sys.exit(f"error: {reason}\n--help lists the flags")
