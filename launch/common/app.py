"""What all commands share: where compiled programs are kept, how to stop, how mistakes are told."""

import contextlib
import difflib
import functools
import os
import pathlib
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
from absl import app, flags, logging

from llmprior_jax.errors import (
    FirstProcessError,
    InterruptedRunError,
    OutOfMemoryError,
    RestoreError,
)

_CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
_CONFIG_FLAG = re.compile(r"^--?config=(.*)$")
_HELP_FLAG = re.compile(r"^--?(help|helpshort|h|\?)$")
# What is raised for a user's mistake; its message says what is wrong, where, and what to do.
_MISTAKES = (
    ValueError,
    TypeError,
    FileNotFoundError,
    ImportError,  # of an extra, which the message names
    RestoreError,
    OutOfMemoryError,
    FirstProcessError,
)

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


@contextlib.contextmanager
def guard() -> Generator[None]:
    """What commands do their work in: programs are kept on disk, mistakes told in a line."""
    cache = pathlib.Path.home() / ".cache" / "llmprior_jax" / "jax"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # The checkpoint library tells every step of every save at the level below.
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    except _MISTAKES as error:
        sys.exit(f"error: {error}")
    except InterruptedRunError as interruption:
        print(interruption, file=sys.stderr)
        sys.exit(_INTERRUPTED)


def run(main: Callable[[Sequence[str]], None], max_arguments: int = 0) -> None:
    """Runs `main` as an absl app that takes flags and up to `max_arguments` other words."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1 + max_arguments:
            sys.exit(f"error: unexpected argument {argv[-1]!r}; flags begin with --")
        with guard():
            main(argv)

    app.run(guarded, flags_parser=functools.partial(_parse_flags, module=main.__module__))


def help_text(module: str) -> str:
    """What `--help` says of an app: what it is for, and its flags as its modules define them.

    Args:
      module: the app's; its docstring comes first, then its flags, then those of what it imports
        of `launch`. Flags of libraries are left to `--helpfull`.
    """
    told = _own_flags(module)
    lines = [(sys.modules[module].__doc__ or "").strip(), "", "flags:"]
    names = {flag.name: f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}" for flag in told}
    if "config" in names:
        names["config"] = "--config, --config.FIELD"
    indent = " " * (4 + max(map(len, names.values()), default=0))
    width = min(shutil.get_terminal_size().columns, 100)
    for flag in told:
        default = "" if flag.default in (None, "", [], False) else f" (default: {_shown(flag)})"
        head = f"  {names[flag.name]:<{len(indent) - 4}}  "
        lines += textwrap.wrap(
            " ".join(f"{flag.help}{default}".split()),
            width,
            initial_indent=head,
            subsequent_indent=indent,
        )
    return "\n".join([*lines, "", "more: --helpfull"])


def _own_flags(module: str) -> list[flags.Flag[Any]]:
    defined = flags.FLAGS.flags_by_module_dict()
    own = sys.argv[0] if module == "__main__" else module
    parts = [own, *sorted(name for name in defined if name.startswith("launch.") and name != own)]
    return [flag for part in parts for flag in defined.get(part, ())]


def _shown(flag: flags.Flag[Any]) -> str:
    return ",".join(flag.default) if isinstance(flag.default, list) else str(flag.default)


def _parse_flags(argv: Sequence[str], module: str) -> Sequence[str]:
    if any(map(_HELP_FLAG.match, argv[1:])):
        print(help_text(module))
        sys.exit()
    try:
        return flags.FLAGS(_with_config_files(argv))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    except flags.UnrecognizedFlagError as error:
        names = [flag.name for flag in _own_flags(module)]
        if error.flagname.startswith("config.") and "config" in names:
            sys.exit(
                f"error: --{error.flagname} sets a field of a configuration, and none is named; "
                "add one, such as --config=quickstart"
            )
        (near,) = difflib.get_close_matches(error.flagname, names, n=1, cutoff=0.0)
        sys.exit(
            f"error: there is no flag --{error.flagname}; did you mean --{near}?\n"
            "--help lists the flags"
        )
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # A field that a config does not have ends in an AttributeError, with the nearest name.
        reason = str(error).strip("'").replace("\\n", "; ").replace("\\'", "'")
        sys.exit(f"error: {reason}\n--help lists the flags")


def _with_config_files(argv: Sequence[str]) -> list[str]:
    """A command line whose `--config`, in one word or two, names the file that is meant."""
    words = list(argv)
    for place, word in enumerate(words):
        if word == "--":
            break
        if told := _CONFIG_FLAG.match(word):
            words[place] = f"--config={find_config(told[1])}"
        elif word in ("--config", "-config") and place + 1 < len(words):
            words[place + 1] = find_config(words[place + 1])
    return words
