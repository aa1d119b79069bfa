"""Plays TextWorld's games.

Loaded by `worker` in a process of its own: nothing else of this library is imported.
"""

import re
from typing import TYPE_CHECKING, Any

import textworld

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer

# The title in block letters that opens a game, and the status line the interpreter appends.
_TITLE = re.compile(r"-= .*? =-")
_DECORATION = re.compile(r"\A(?:[\s_$\\|/>]*\n)+|\n*>[^\n]*\Z")


class TextworldEngine:
    """A game file that TextWorld plays, such as ``tw-make`` produces."""

    def __init__(self, argument: str):
        request = textworld.EnvInfos(
            won=True,
            lost=True,
            admissible_commands=True,
            objective=True,
            score=True,
            description=True,
            inventory=True,
        )
        self._environment: Any = textworld.start(argument, request)
        self._score = 0.0
        self._describe = False

    def reset(self, seed: int, describe: bool) -> "Answer":
        self._environment.seed(seed)
        self._score = 0.0
        self._describe = describe
        return self._read(self._environment.reset(), False)

    def step(self, command: str) -> "Answer":
        state, _, done = self._environment.step(command)
        return self._read(state, done)

    def _read(self, state: Any, done: bool) -> "Answer":
        gained, self._score = (state.score or 0.0) - self._score, state.score or 0.0
        return {
            "task": (state.objective or "").strip(),
            "observation": self._seen(state),
            "commands": list(state.admissible_commands or ()),
            "reward": gained,
            "won": bool(state.won),
            "terminated": bool(done or state.won or state.lost),
            "truncated": False,
        }

    def _seen(self, state: Any) -> str:
        if not self._describe:
            return _DECORATION.sub("", state.feedback).strip()
        return " ".join(f"{_TITLE.sub('', state.description)} {state.inventory}".split())
