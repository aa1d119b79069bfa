"""Plays Gymnasium's environments whose observations are text.

Loaded by `worker` in a process of its own: nothing else of this library is imported.
"""

from typing import TYPE_CHECKING, Any

import gymnasium
from gymnasium import spaces

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer


class GymnasiumEngine:
    """A Gymnasium environment whose observation is text.

    Its actions are either text, said as they are, or numbered; then the commands are the names
    the environment gives them. ``info`` may hold "task", "admissible_commands" and "won".
    """

    def __init__(self, argument: str):
        self._environment: gymnasium.Env[Any, Any] = gymnasium.make(argument)
        if not isinstance(self._environment.observation_space, spaces.Text):
            raise ValueError(
                f"its observation is {self._environment.observation_space}, not text; "
                "wrap it so that its observation_space is gymnasium.spaces.Text"
            )
        actions = self._environment.action_space
        self._names: list[str] = []
        self._numbers: dict[str, int] | None = None
        if isinstance(actions, spaces.Discrete):
            meanings = getattr(self._environment.unwrapped, "get_action_meanings", None)
            numbers = range(int(actions.start), int(actions.start + actions.n))
            self._names = list(meanings()) if meanings else [str(number) for number in numbers]
            self._numbers = dict(zip(self._names, numbers, strict=True))
        elif not isinstance(actions, spaces.Text):
            raise ValueError(f"its actions are {actions}; only Text and Discrete can be said")
        self._task = ""

    def reset(self, seed: int, describe: bool) -> "Answer":
        del describe  # it has one text only
        observation, info = self._environment.reset(seed=seed)
        self._task = str(info.get("task", ""))
        return self._read(observation, info)

    def step(self, command: str) -> "Answer":
        action = command if self._numbers is None else self._numbers[command]
        step: Any = self._environment.step(action)
        observation, reward, terminated, truncated, info = step
        # No reward is for the bridge to refuse, which names the game.
        number: Any = reward if reward is None else float(reward)
        return self._read(observation, info, number, terminated, truncated)

    def _read(
        self,
        observation: Any,
        info: dict[str, Any],
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> "Answer":
        return {
            "task": self._task,
            "observation": str(observation).strip(),
            "commands": [str(command) for command in info.get("admissible_commands", self._names)],
            "reward": reward,
            "won": bool(info.get("won", False)),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
        }
