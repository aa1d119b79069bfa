"""Plays TextWorld's games.

A game is run by an interpreter of old, the Z-machine's, which takes some commands for itself. They
write and read files, begin the game anew, end it, or take a move back, and none of that is known
to who counts the rewards of an episode. So these are not passed on, and the game plays in an empty
folder of its own, which ends with the episode.

Loaded by `worker` in a process of its own: nothing else of this library is imported.
"""

import contextlib
import os
import re
import tempfile
from typing import TYPE_CHECKING, Any

import textworld

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer

# The title in block letters that opens a game, and the status line the interpreter appends.
_TITLE = re.compile(r"-= .*? =-")
_DECORATION = re.compile(r"\A(?:[\s_$\\|/>]*\n)+|\n*>[^\n]*\Z")

# What a command begins with that is not for the game.
_NOT_FOR_THE_GAME = (
    # These write and read files, and so the state of other episodes.
    *("save", "restore", "script", "noscript", "unscript", "transcript", "recording", "replay"),
    # These begin and end the game, and take moves back, unseen by who follows its state.
    *("restart", "quit", "q", "die", "undo"),
    # These cut the descriptions of rooms, of which `describe` makes a state.
    *("short", "superbrief"),
    # These are between TextWorld and its games, as is all that begins with "tw-".
    *("restrict commands", "print_state", "enable print state", "disable print state"),
)
_MARKS = ("tw-", "#", "$")  # The latter two begin commands for testers.
# After these a new command begins.
_SEPARATOR = re.compile(r"[.,;\"]|\b(?:then|and|oops|o)\b")
# What ends a line begins another command; a backslash begins one to the interpreter's terminal.
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")


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
        path = os.path.abspath(argument)
        self._folder = tempfile.TemporaryDirectory()
        with contextlib.chdir(self._folder.name):
            self._environment: Any = textworld.start(path, request)
        # Games of TextWorld's own come in wrappers.
        self._emulator = getattr(self._environment, "unwrapped", self._environment)._jericho
        with open(path, "rb") as file:
            version = file.read(1)[0]
        # So much of a word the game looks at.
        self._letters = 6 if version <= 3 else 9
        self._score = 0.0
        self._describe = False
        self._answer: Answer

    def reset(self, seed: int, describe: bool) -> "Answer":
        self._environment.seed(seed)
        self._score = 0.0
        self._describe = describe
        self._folder.cleanup()
        self._folder = tempfile.TemporaryDirectory()
        with contextlib.chdir(self._folder.name):
            state = self._environment.reset()
        if describe and state.description is None:
            raise ValueError(
                "TextWorld describes the states of its own games only, which have a .json beside "
                "them; leave out 'describe' (engine.describe)"
            )
        return self._read(state, False)

    def step(self, command: str) -> "Answer":
        refusal = None if command in self._answer["commands"] else self._refusal(command)
        if refusal is not None:
            seen = self._answer["observation"] if self._describe else refusal
            return {**self._answer, "observation": seen, "reward": 0.0}
        with contextlib.chdir(self._folder.name):
            # It passes bytes on, and may cut one that is part of a letter from the others.
            state, _, done = self._environment.step(command.encode("ascii", "replace").decode())
        return self._read(state, done)

    def _refusal(self, command: str) -> str | None:
        """Says why a command is not passed on, if it is not."""
        if _NO_TEXT.search(command):
            return "A command is one line of text, without backslashes."
        for part in _SEPARATOR.split(command.lower()):
            words = [word[: self._letters] for word in part.split()]
            for reserved in _NOT_FOR_THE_GAME:
                beginning = [word[: self._letters] for word in reserved.split()]
                if words[: len(beginning)] == beginning:
                    return f'"{reserved}" is no command of this game.'
            if words and words[0].startswith(_MARKS):
                return f'"{words[0]}" is no command of this game.'
        return None

    def _read(self, state: Any, done: bool) -> "Answer":
        if self._emulator._emulator_halted():
            raise RuntimeError(
                "the emulator halted on an instruction that is none, so the file is probably "
                "damaged or of another version"
            )
        gained, self._score = (state.score or 0.0) - self._score, state.score or 0.0
        self._answer = {
            "task": (state.objective or "").strip(),
            "observation": self._seen(state),
            "commands": list(state.admissible_commands or ()),
            "reward": gained,
            "won": bool(state.won),
            "terminated": bool(done or state.won or state.lost),
            "truncated": False,
        }
        return self._answer

    def _seen(self, state: Any) -> str:
        if not self._describe:
            return _DECORATION.sub("", state.feedback).strip()
        return " ".join(f"{_TITLE.sub('', state.description)} {state.inventory}".split())
