"""What all commands share: flags, the set-up of JAX, how to stop, and what is said of mistakes.

A command is a module with flags of its own, `FLAGS`, a `main`, and `app.run(main, FLAGS)`.
Importing it changes nothing, so that any two can be imported in one process; `run` sets JAX up.
What starts JAX's devices when it is imported, as `llmprior_jax.envs` does (gymnax makes arrays), a
command therefore imports in the functions that use it.
"""

import contextlib
import errno
import functools
import os
import pathlib
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from llmprior_jax import ranges, stopping
from llmprior_jax.errors import (
    DivergedError,
    FirstProcessError,
    InterruptedRunError,
    InUseError,
    OutOfMemoryError,
    RestoreError,
    is_out_of_memory,
)
from llmprior_jax.registry import nearest, unknown

# What is raised for a user's mistake; its message says what is wrong, where, and what to do.
MISTAKES = (
    ValueError,
    TypeError,
    OverflowError,
    OSError,  # as far as `told` has words for it
    ImportError,  # of an extra, which the message names
    RestoreError,
    OutOfMemoryError,
    DivergedError,
    FirstProcessError,
    InUseError,
)

# What to do about what the operating system refuses.
_ADVICE = {
    errno.ENOSPC: "make room on its disk, and give the same command again",
    errno.EDQUOT: "make room on its disk, and give the same command again",
    errno.EACCES: "see to its permissions, or name another place",
    errno.EPERM: "see to its permissions, or name another place",
    errno.EROFS: "name another place",
    errno.EEXIST: "a file stands where a directory is to be; name another place",
    errno.ENOTDIR: "a file stands where a directory is to be; name another place",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "use a shorter name",
}
_CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
_CONFIG_FLAG = re.compile(r"^--?config=(.*)$")
_ELEMENT_FLAG = re.compile(r"^--?(config\.[\w.]+\[[^=]*)")
_HELP_FLAG = re.compile(r"^--?(help|helpshort|helpfull|h|\?)$")
_INTERRUPTED = 128 + signal.SIGINT  # what shells report of a command ended by Ctrl-C
_STOPPED = "stopped; the same command begins again, with what was kept until now"
_MOST_DEVICES = 8  # on CPUs; seeds, which are shared out among them, are seldom more

flags.disclaim_key_flags()  # In `--helpfull` flags defined through here are the command's.


class Flags(flags.FlagValues):
    """The flags of a command, each defined as by absl's function of that name: `DEFINE_string`, ...

    What defines a flag returns its holder: `_OUT = FLAGS.string("out", None, "File to write.")` is
    read as `_OUT.value` once the command line is parsed.
    """

    def config_file(self, help: str, required: bool = False) -> flags.FlagHolder[Any]:
        """Defines `--config`, and `--config.FIELD` for its fields."""
        holder = config_flags.DEFINE_config_file("config", None, help, flag_values=self)
        if required:
            flags.mark_flag_as_required("config", flag_values=self)
        return holder

    @property
    def boolean(self):
        return functools.partial(flags.DEFINE_boolean, flag_values=self)

    @property
    def enum(self):
        return functools.partial(flags.DEFINE_enum, flag_values=self)

    @property
    def float(self):
        return functools.partial(flags.DEFINE_float, flag_values=self)

    def integer(
        self,
        name: str,
        default: int | None,
        help: str,
        lower_bound: int = 0,
        upper_bound: int = ranges.LARGEST_COUNT,
    ) -> flags.FlagHolder[Any]:
        """Defines a flag for a number that is counted, which has bounds whether they are given."""
        return flags.DEFINE_integer(name, default, help, lower_bound, upper_bound, flag_values=self)

    @property
    def list(self):
        return functools.partial(flags.DEFINE_list, flag_values=self)

    @property
    def string(self):
        return functools.partial(flags.DEFINE_string, flag_values=self)


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
            raise stopping.TerminatedError(number)
        self._asked = True
        print("\nstopping; once more to stop at once", file=sys.stderr)


def set_up() -> None:
    """Sets JAX up for a command: a device per core, and compiled programs are kept on disk.

    A number of devices that somebody chose stays, and so does that of a JAX which runs already.
    """
    # torch is not needed, and its absence no news.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = pathlib.Path.home() / ".cache" / "llmprior_jax" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # Small programs, too: a command has hundreds of them.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # Shardy of jaxlib 0.11 crashes where a language model is the policy on several devices.
    if jax.__version_info__ >= (0, 11) and "JAX_USE_SHARDY_PARTITIONER" not in os.environ:
        jax.config.update("jax_use_shardy_partitioner", False)
    xla_flags = os.environ.get("XLA_FLAGS", "")
    is_chosen = jax.config.values["jax_num_cpu_devices"] >= 0
    if not is_chosen and "xla_force_host_platform_device_count" not in xla_flags:
        with contextlib.suppress(RuntimeError):  # JAX runs already.
            jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, _MOST_DEVICES))


def run(
    main: Callable[[Sequence[str]], None], own: flags.FlagValues, max_arguments: int = 0
) -> None:
    """Runs a command: parses the command line, sets JAX up, and says mistakes in a line.

    Args:
      main: the command; it gets the command line without flags, and its module's docstring is what
        `--help` begins with.
      own: its flags; those of absl are added.
      max_arguments: how many words there may be beside flags.
    """

    def guarded(argv: Sequence[str]) -> None:
        # The checkpoint library logs every step of every save at the level below.
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1 + max_arguments:
            sys.exit(f"error: unexpected argument {argv[-1]!r}; flags begin with --")
        guard(functools.partial(main, argv))

    set_up()
    doc = (sys.modules[main.__module__].__doc__ or "").strip()
    app.run(guarded, flags_parser=functools.partial(_parse_flags, own=own, doc=doc))


def told(error: Exception) -> str | None:
    """What is said of a mistake; None of an error that is nobody's.

    That is what is not among the `MISTAKES`, or what the operating system refused without a name.
    """
    if not isinstance(error, MISTAKES):
        return None
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    is_bare = error.filename is None and error.strerror == os.strerror(error.errno)
    if is_bare and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    advice = _ADVICE.get(error.errno)
    said = [error.filename and str(error.filename), error.strerror]
    return ": ".join(filter(None, said)) + (f"; {advice}" if advice else "")


def guard(act: Callable[[], None]) -> None:
    """Does what a command does; of a mistake it ends this process with a line that says which."""
    try:
        act()
    except MISTAKES as error:
        said = told(error)
        if said is None:
            raise
        sys.exit(f"error: {said}")
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
        sys.exit(f"error: there is too little memory; ask for less at a time ({reason})")
    except InterruptedRunError as interruption:
        end(str(interruption))
    except KeyboardInterrupt:
        end(f"\n{_STOPPED}")
    except stopping.TerminatedError as termination:
        end(_STOPPED, termination.status)


def never() -> bool:
    """Says no, to who asks whether to stop: in a command that Ctrl-C and SIGTERM end at once.

    What asks is interrupted all the same, and keeps what it did (`llmprior_jax.stopping`).
    """
    return False


def end(why: str, status: int = _INTERRUPTED) -> NoReturn:
    """Ends this process, whose work was interrupted, without waiting for what a device may be at.

    Args:
      why: what people are told.
      status: the exit status.
    """
    print(why, file=sys.stderr)
    leave(status)


def leave(status: int) -> NoReturn:
    """Ends this process, whatever another thread is still at (`stopping.TerminatedError`)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
    raise FileNotFoundError(
        f"--config={value}: there is no such file, and no config of that name comes with the "
        f"package; did you mean {nearest(path.stem, names)!r}? There are {', '.join(names)}"
    )


def help_text(doc: str, own: flags.FlagValues) -> str:
    """What `--help` says of a command: what it is for, and its own flags in their order.

    Args:
      doc: what it is for.
      own: its flags. Those of libraries are left to `--helpfull`.
    """
    lines = [doc, "", "flags:"]
    shown = _in_order(own)
    names = {
        flag.name: f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}" for flag in shown
    }
    if "config" in names:
        names["config"] = "--config, --config.FIELD"
    indent = " " * (4 + max(map(len, names.values()), default=0))
    width = min(shutil.get_terminal_size().columns, 100)
    for flag in shown:
        default = "" if flag.default in (None, "", [], False) else f" (default: {_default(flag)})"
        lines += textwrap.wrap(
            " ".join(f"{flag.help}{default}".split()),
            width,
            initial_indent=f"  {names[flag.name]:<{len(indent) - 4}}  ",
            subsequent_indent=indent,
        )
    return "\n".join([*lines, "", "more: --helpfull"])


def _in_order(own: flags.FlagValues) -> list[flags.Flag[Any]]:
    return [flag for of_module in own.flags_by_module_dict().values() for flag in of_module]


def _default(flag: flags.Flag[Any]) -> str:
    return ",".join(flag.default) if isinstance(flag.default, list) else str(flag.default)


def _parse_flags(argv: Sequence[str], own: flags.FlagValues, doc: str) -> Sequence[str]:
    """Parses the flags of a command and of libraries; returns the other words."""
    helps = [word.lstrip("-") for word in argv[1:] if _HELP_FLAG.match(word)]
    if "helpfull" in helps:
        print(f"{doc}\n\nflags:\n{own.get_help()}\n{flags.FLAGS.get_help()}")
        sys.exit()
    if helps:
        print(help_text(doc, own))
        sys.exit()
    names = [flag.name for flag in _in_order(own)]
    own.append_flag_values(flags.FLAGS)
    try:
        words = own(_with_config_files(argv))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config.") and "config" in names:
            sys.exit(
                f"error: --{error.flagname} sets a field of a configuration, and none is named; "
                "add one, such as --config=quickstart"
            )
        known = [f"--{name}" for name in names]
        sys.exit(f"error: {unknown('flag', f'--{error.flagname}', known)}")
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        if elements := list(filter(None, map(_ELEMENT_FLAG.match, argv))):
            sys.exit(
                f"error: --{elements[0][1]} is an element of a field, and only whole fields can be "
                "set; give all of it, as in --config.agents=\"('dqn','dqn_prior')\""
            )
        # A field that a config does not have ends in an AttributeError, with the nearest name.
        reason = str(error).strip("'").replace("\\n", "; ").replace("\\'", "'")
        sys.exit(f"error: {reason}\n--help lists the flags")
    flags.FLAGS.mark_as_parsed()
    return words


def _with_config_files(argv: Sequence[str]) -> list[str]:
    """A command line whose `--config`, in one word or two, names the file that is meant."""
    words = list(argv)
    for place, word in enumerate(words):
        if word == "--":
            break
        if config := _CONFIG_FLAG.match(word):
            words[place] = f"--config={find_config(config[1])}"
        elif word in ("--config", "-config") and place + 1 < len(words):
            words[place + 1] = find_config(words[place + 1])
    return words
