"""What all commands share: where compiled programs are kept, how to stop, how mistakes are told."""

import difflib
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags, logging

from llmprior_jax.training import InterruptedRunError, OutOfMemoryError, RestoreError

_CONFIGS = pathlib.Path(__file__).parent / "configs"
_CONFIG_FLAG = re.compile(r"^--?config=(.*)$")
# What is raised for a user's mistake; its message says what is wrong, where, and what to do.
_MISTAKES = (ValueError, TypeError, FileNotFoundError, RestoreError, OutOfMemoryError)

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


def find_config(value: str) -> str:
    """The file that `--config` means: a path, or the bare name of one that comes with the package.

    Raises:
      FileNotFoundError: there is none; the message has the nearest name.
    """
    name, colon, argument = value.partition(":")
    path = pathlib.Path(name)
    packaged = _CONFIGS / f"{path.stem}.py"
    # As it is printed in documentation, the path means the packaged file wherever one stands.
    means_packaged = name == path.stem or path.parent == pathlib.Path("launch/configs")
    if path.is_file():
        return value
    if means_packaged and packaged.is_file():
        return f"{packaged}{colon}{argument}"
    names = sorted(file.stem for file in _CONFIGS.glob("[!_]*.py"))
    near = difflib.get_close_matches(packaged.stem, names, n=1, cutoff=0.0)[0]
    raise FileNotFoundError(
        f"--config={value}: there is no such file, and no config of that name comes with the "
        f"package; did you mean {near!r}? There are {', '.join(names)}"
    )


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
        return flags.FLAGS([_CONFIG_FLAG.sub(_found, word) for word in argv])
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A field that a config does not have ends in an AttributeError, with the nearest name.
        reason = str(error).strip("'").replace("\\n", "; ").replace("\\'", "'")
        sys.exit(f"error: {reason}\n--help lists the flags")


def _found(flag: re.Match[str]) -> str:
    return f"--config={find_config(flag[1])}"
