"""Plays Gymnasium's environments whose observations are text.

Loaded by `worker` in a process of its own: nothing else of this library is imported, and `worker`
is there already.
"""

import collections
import functools
import reprlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from llmprior_jax.envs.engines.worker import MalformedAnswerError, UnknownCommandError

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer

# What the two methods of an environment return.
_RESET = ("observation", "info")
_STEP = ("observation", "reward", "terminated", "truncated", "info")


class GymnasiumEngine:
    """A Gymnasium environment whose observation is text.

    Its actions are either text, said as they are, or numbered; then the commands are the names
    that the environment's `get_action_meanings` gives them, or else their numbers. ``info`` may
    hold "task", "won", "admissible_commands" and, where actions are numbered, "action_mask".
    """

    def __init__(self, argument: str):
        # What Gymnasium's checker would see is refused here, or never was a fault.
        self._environment: Any = gymnasium.make(argument, disable_env_checker=True)
        _check_shapes(self._environment)
        if not isinstance(self._environment.observation_space, spaces.Text):
            raise ValueError(
                f"its observation is {self._environment.observation_space}, not text; "
                "wrap it so that its observation_space is gymnasium.spaces.Text"
            )
        actions = self._environment.action_space
        self._numbers: dict[str, int] | None = None  # of actions, by their names
        if isinstance(actions, spaces.Discrete):
            self._numbers = _numbers(self._environment, actions)
        elif not isinstance(actions, spaces.Text):
            raise ValueError(f"its actions are {actions}; only Text and Discrete can be said")
        self._task = ""

    def reset(self, seed: int, describe: bool) -> "Answer":
        del describe  # it has one text only
        observation, info = self._environment.reset(seed=seed)
        self._task = _checked_info(info).get("task", "")
        return self._read(observation, info)

    def step(self, command: str) -> "Answer":
        action: str | int = command
        if self._numbers is not None:
            if command not in self._numbers:
                raise UnknownCommandError(
                    f"it has no action {command!r}; its actions are {_shown(list(self._numbers))}"
                )
            action = self._numbers[command]
        observation, reward, terminated, truncated, info = self._environment.step(action)
        return self._read(observation, _checked_info(info), reward, terminated, truncated)

    def _read(
        self,
        observation: Any,
        info: dict[str, Any],
        reward: Any = 0.0,
        terminated: Any = False,
        truncated: Any = False,
    ) -> "Answer":
        # What is no text, number or flag is for `check_answer` to refuse.
        return {
            "task": self._task,
            "observation": observation.strip() if isinstance(observation, str) else observation,
            "commands": self._commands(info),
            "reward": _number(reward),
            "won": _flag(info.get("won", False)),
            "terminated": _flag(terminated),
            "truncated": _flag(truncated),
        }

    def _commands(self, info: dict[str, Any]) -> list[str]:
        commands = list(self._numbers or ())
        if "admissible_commands" in info:
            commands = _texts(info["admissible_commands"])
            for command in commands:
                if self._numbers is not None and command not in self._numbers:
                    raise MalformedAnswerError(
                        f"its info lists {command!r} in 'admissible_commands', which must be some "
                        f"of its actions: {_shown(list(self._numbers))}"
                    )
        mask = info.get("action_mask")
        if mask is None:
            return commands
        if self._numbers is None:
            raise MalformedAnswerError(
                "its info has an 'action_mask', but its actions are texts and have no numbers; "
                "list those that are admissible as 'admissible_commands'"
            )
        flags = np.array(mask, dtype=object)
        if flags.shape != (len(self._numbers),) or not all(flag in (0, 1) for flag in flags):
            raise MalformedAnswerError(
                f"its info has {_shown(mask)} as 'action_mask', which must be an array of "
                f"{len(self._numbers)} flags, 1 where an action is admissible"
            )
        allowed = {name for name, flag in zip(self._numbers, flags, strict=True) if flag}
        return [command for command in commands if command in allowed]


def _check_shapes(environment: Any) -> None:
    """Has the environment's own methods checked, below what Gymnasium wraps around each."""
    while isinstance(environment, OrderEnforcing | TimeLimit):
        environment = environment.env
    environment.reset = _checked(environment.reset, "reset", _RESET)
    environment.step = _checked(environment.step, "step", _STEP)


def _checked(method: Callable[..., Any], name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        several = isinstance(result, tuple | list)
        if not several or len(result) != len(fields):
            found = f"{len(result)} values" if several else _shown(result)
            raise MalformedAnswerError(
                f"its {name} returns {found}, which must be {len(fields)} values: "
                f"({', '.join(fields)})"
            )
        return result

    return checked


def _numbers(environment: Any, actions: spaces.Discrete[Any]) -> dict[str, int]:
    """The number of each action, by its name."""
    numbers = range(int(actions.start), int(actions.start + actions.n))
    if not environment.has_wrapper_attr("get_action_meanings"):
        return {str(number): number for number in numbers}
    names = environment.get_wrapper_attr("get_action_meanings")()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"its get_action_meanings returns {_shown(names)}, which must be a list of str"
        )
    if len(names) != len(numbers):
        raise ValueError(
            f"its get_action_meanings returns {len(names)} names, {_shown(names)}, for "
            f"{len(numbers)} actions; each must have one"
        )
    for name, times in collections.Counter(names).items():
        if times > 1:
            alike = [number for number, other in zip(numbers, names, strict=True) if other == name]
            raise ValueError(
                f"its actions {_shown(alike)} are all called {name!r} (get_action_meanings); a "
                "command says one action, so give each a name of its own"
            )
    return dict(zip(names, numbers, strict=True))


def _checked_info(info: Any) -> dict[str, Any]:
    if not isinstance(info, dict):
        raise MalformedAnswerError(f"its info is {_shown(info)}, which must be a dict")
    return info


def _texts(listed: Any) -> list[str]:
    """The commands that ``info`` lists."""
    texts = list(listed) if isinstance(listed, Iterable) else [listed]
    if isinstance(listed, str) or not all(isinstance(text, str) for text in texts):
        raise MalformedAnswerError(
            f"its info has {_shown(listed)} as 'admissible_commands', which must be a list of str"
        )
    return list(map(str, texts))


def _number(value: Any) -> Any:
    """What stands for a number, such as an array of one, as a float; anything else as it is."""
    if isinstance(value, str):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _flag(value: Any) -> Any:
    """What stands for true or false, such as NumPy's, as a bool; anything else as it is."""
    number = _number(value)
    return bool(number) if isinstance(number, float) and number in (0.0, 1.0) else value


def _shown(value: Any) -> str:
    return reprlib.repr(value)
