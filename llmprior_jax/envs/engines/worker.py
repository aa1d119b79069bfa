"""The process in which one engine plays: requests in, answers out, one line of JSON each.

Run as a script, by its path, so that it loads the engine and nothing else of ours: no JAX, no
arrays. It reads requests on standard input and answers on what was standard output; whatever an
engine prints goes to standard error instead. Nothing but JSON crosses the pipe in either direction.

Requests are ``{"reset": {"engine": path, "argument": text, "seed": n, "describe": flag}}``, which
names the engine's class by its import path, and ``{"step": command}``. What comes back is an
`Answer`; or ``{"error": text}`` when the engine failed; or ``{"malformed": text}`` when it gave
what is no answer; or ``{"unknown": text}`` when the game has no such command, and is where it was.
"""

import functools
import importlib
import importlib.util
import json
import numbers
import os
import reprlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypedDict


class Answer(TypedDict):
    """What an engine says after a reset or a step: a dictionary of plain Python values.

    Examples:
      >>> answer: envs.engines.Answer = {
      ...     "task": "Checkmate.",
      ...     "observation": "White has king and queen, Black a king in the corner.",
      ...     "commands": ["Qb7", "Qa5"],
      ...     "reward": 0.0,
      ...     "won": False,
      ...     "terminated": False,
      ...     "truncated": False,
      ... }

    Attributes:
      task: what the game asks for, or "".
      observation: what there is to see.
      commands: the commands that are admissible now; none if the engine cannot list them.
      reward: the reward of the last step, finite in float32; 0 after a reset.
      won: the game is won.
      terminated: the game is over, won or not.
      truncated: the engine has cut the episode.
    """

    task: str
    observation: str
    commands: list[str]
    reward: float
    won: bool
    terminated: bool
    truncated: bool


class Engine(Protocol):
    """What a class needs to play games; see `register`.

    Each object plays one game, over and over. It lives in a process of its own, where `Answer` is
    for the type checker only: a module that imports it under ``if TYPE_CHECKING`` loads no JAX.

    Examples:
      >>> class Countdown:
      ...     def __init__(self, argument):
      ...         self.start = int(argument)
      ...
      ...     def reset(self, seed, describe):
      ...         self.left = self.start
      ...         return self.answer()
      ...
      ...     def step(self, command):
      ...         self.left -= 1
      ...         return self.answer()
      ...
      ...     def answer(self):
      ...         return {
      ...             "task": "Count down to zero.",
      ...             "observation": f"{self.left} to go.",
      ...             "commands": ["count"],
      ...             "reward": 0.0,
      ...             "won": self.left == 0,
      ...             "terminated": self.left == 0,
      ...             "truncated": False,
      ...         }
      >>> engine: envs.engines.Engine = Countdown("2")
      >>> engine.reset(seed=0, describe=False)["observation"]
      '2 to go.'
      >>> engine.step("count")["won"]
      False
    """

    def __init__(self, argument: str):
        """Opens a game.

        Args:
          argument: what a game's name says after the name of its engine.
        """
        ...

    def reset(self, seed: int, describe: bool) -> Answer:
        """Starts the game from the beginning.

        Args:
          seed: RNG seed of the episode.
          describe: observe a description of the state instead of what the game says of the last
            command. An engine with one text only does not look at it.
        """
        ...

    def step(self, command: str) -> Answer:
        """Says one command to the game. It need not be admissible."""
        ...


class MalformedAnswerError(TypeError):
    """What an engine gave is no `Answer`."""


class UnknownCommandError(ValueError):
    """A game has no such command; the engine was told nothing, and its game is where it was."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not _is_flag(value)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


# What is true of each field, and how it is said.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("task", "observation"), (_is_text, "a str")),
    "commands": (_is_texts, "a list of str"),
    "reward": (_is_number, "a float"),
    **dict.fromkeys(("won", "terminated", "truncated"), (_is_flag, "a bool")),
}


_LARGEST_REWARD = (2 - 2**-23) * 2.0**127  # of float32


def check_answer(engine: str, answer: Any) -> dict[str, Any]:
    """Returns an answer as JSON can have it.

    Raises:
      MalformedAnswerError: a field is missing or of a wrong type, or the reward is not finite; the
        message names the engine and the field.
    """
    if not isinstance(answer, dict):
        raise MalformedAnswerError(f"{engine} answered {reprlib.repr(answer)}, which is no dict")
    for field, (is_valid, wanted) in _FIELDS.items():
        if field not in answer:
            raise MalformedAnswerError(f"the answer of {engine} has no {field!r}")
        value = answer[field]
        if not is_valid(value):
            raise MalformedAnswerError(
                f"the answer of {engine} has {reprlib.repr(value)} as {field!r}, which must be "
                f"{wanted}, not {type(value).__name__}"
            )
    # A comparison, since float() of a large whole number raises another error.
    if not abs(answer["reward"]) <= _LARGEST_REWARD:
        raise MalformedAnswerError(
            f"the answer of {engine} has {reprlib.repr(answer['reward'])} as 'reward', which must "
            "be finite in float32"
        )
    return {field: answer[field] for field in _FIELDS} | {"reward": float(answer["reward"])}


def open_engine(path: str, argument: str) -> Engine:
    """Opens a game.

    Args:
      path: where the engine's class is: `module:Class`, or `file.py:Class` for ours, whose package
        is not to be imported here.
      argument: what the class takes.

    Raises:
      ImportError: the class cannot be imported.
      TypeError: it is no engine.
    """
    engine = _load(path)(argument)
    for method in ("reset", "step"):
        if not callable(getattr(engine, method, None)):
            raise TypeError(f"{path} is no engine, it has no method {method!r}")
    return engine


@functools.cache
def _load(path: str) -> Callable[[str], Engine]:
    place, _, name = path.rpartition(":")
    is_ours = os.path.isabs(place)  # The others are modules.
    try:
        module = _run(place) if is_ours else importlib.import_module(place)
    except ImportError as error:
        remedy = (
            f"it comes with: pip install 'llmprior-jax[{_extra(place)}]'"
            if is_ours
            else "see that it is on Python's path (PYTHONPATH)"
        )
        raise ImportError(f"{path} cannot be imported: {error}; {remedy}") from error
    if not hasattr(module, name):
        raise ImportError(f"{path} cannot be imported: the module has no {name!r}")
    return getattr(module, name)


def _extra(file: str) -> str:
    """What of this package's extras brings one of our engines."""
    return "textworld_express" if "textworld_express" in os.path.basename(file) else "alfworld"


def _run(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _version(argument: str) -> tuple[int, int] | None:
    """Which version of a file an argument names, if it names one; another must be opened anew."""
    try:
        status = os.stat(argument)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def serve() -> None:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    opened, path, engine = None, "", None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "step" in request:
                assert engine is not None
                said = engine.step(request["step"])
            else:
                wanted = request["reset"]
                game = wanted["engine"], wanted["argument"], _version(wanted["argument"])
                if game != opened:
                    opened, path, engine = None, game[0], None
                    engine = open_engine(*game[:2])
                    opened = game
                assert engine is not None
                said = engine.reset(wanted["seed"], wanted["describe"])
            answer = check_answer(path, said)
        except UnknownCommandError as error:
            answer = {"unknown": str(error)}
        except MalformedAnswerError as error:
            opened, engine = None, None
            answer = {"malformed": str(error)}
        # The translator leaves by SystemExit when a problem is malformed.
        except (Exception, SystemExit) as error:
            opened, engine = None, None
            answer = {"error": f"{error} ({type(error).__name__})"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # By this name our engines know the errors above; importing it would load the package.
    sys.modules["llmprior_jax.envs.engines.worker"] = sys.modules[__name__]
    serve()
