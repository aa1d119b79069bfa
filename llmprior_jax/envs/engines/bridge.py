"""Plays a batch of text games on engines that run on the host, each in a process of its own.

The environments of this package are arrays inside jit. Engines are not: ALFWorld's and
TextWorld's are Python and C, play some tens of steps a second, and now and then die. This module
puts a batch of them behind one small interface, `Bridge`: reset, step, and for every environment
its task, observation, admissible commands and whether it is won. Their processes exchange lines of
JSON with this one, never pickles.
"""

import dataclasses
import logging
import os
import time
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmprior_jax.envs.engines.games import GameError, locate
from llmprior_jax.envs.engines.process import EngineProcess
from llmprior_jax.types import TextState

_LOG = logging.getLogger(__name__)
_TRIES = 3  # processes started for one game before it is given up


@dataclasses.dataclass(frozen=True)
class HostStep:
    """What a batch of B environments shows after a reset or a step.

    Examples:
      >>> seen = envs.engines.HostStep(
      ...     tasks=("walk right",),
      ...     observations=("You are at 3.",),
      ...     commands=(("left", "right"),),
      ...     reward=np.ones(1, np.float32),
      ...     terminated=np.array([True]),
      ...     truncated=np.array([False]),
      ...     won=np.array([True]),
      ...     lost=np.array([False]),
      ... )
      >>> seen.done
      array([ True])
      >>> seen.text_states()[0].actions
      ('left', 'right')

    Attributes:
      tasks: what each game asks for; empty where the engine does not say.
      observations: the text of the last reset or step, as the engine wrote it.
      commands: the admissible commands, in the engine's order; empty once an engine has died.
      reward: f32[B], of this step.
      terminated: bool[B], the game is over.
      truncated: bool[B], the episode was cut: by the time limit, by the environment, or because
        its process died.
      won: bool[B], the game is won.
      lost: bool[B], the engine's process was lost and replaced, so that what came of the last
        command is not known.
    """

    tasks: tuple[str, ...]
    observations: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    won: np.ndarray
    lost: np.ndarray

    @property
    def done(self) -> np.ndarray:
        """bool[B], the episode has ended, one way or the other."""
        return self.terminated | self.truncated

    def text_states(self) -> tuple[TextState, ...]:
        """The B states as a prompt is made of them, without history."""
        return tuple(
            TextState(task=task, observation=observation, actions=commands)
            for task, observation, commands in zip(
                self.tasks, self.observations, self.commands, strict=True
            )
        )


class Bridge:
    """A batch of games on host engines.

    Examples:
      >>> _ = pathlib.Path("countdown.py").write_text('''
      ... class Countdown:
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
      ...         over = self.left == 0
      ...         answer = {"task": "", "observation": f"{self.left} to go.", "commands": ["count"]}
      ...         answer |= {"reward": 0.0, "won": over, "terminated": over, "truncated": False}
      ...         return answer
      ... ''')
      >>> games = ["engine:countdown:Countdown:1", "engine:countdown:Countdown:2"]
      >>> with envs.engines.Bridge(num_environments=2) as bridge:
      ...     seen = bridge.reset(games)
      ...     seen = bridge.step([commands[0] for commands in seen.commands])
      >>> seen.observations
      ('0 to go.', '1 to go.')
      >>> seen.won
      array([ True, False])

    An engine whose process dies, hangs or fails ends its episode as truncated; a new process
    takes its place, and `restarts` counts it. The others play on.

    Attributes:
      num_environments: batch size B.
      restarts: how many processes have been lost so far.
      close: ends all processes; so do the end of the bridge and of the program.
    """

    def __init__(
        self,
        num_environments: int,
        max_steps: int | None = None,
        seed: int = 0,
        timeout: float = 300.0,
        describe: bool = False,
    ):
        """Starts a process per environment.

        Args:
          num_environments: batch size B.
          max_steps: steps after which an episode is truncated.
          seed: RNG seed of the engines.
          timeout: seconds after which a process that does not answer is given up.
          describe: observe what TextWorld says of the state, the room and what is carried, instead
            of its answer to the last command. Other engines have one text only.
        """
        if num_environments < 1:
            raise ValueError(f"A bridge of {num_environments} environments plays nothing.")
        self.num_environments = num_environments
        self.restarts = 0
        self._max_steps = max_steps
        self._seed = seed
        self._timeout = timeout
        self._describe = describe
        self._workers = [EngineProcess() for _ in range(num_environments)]
        # The processes end with the bridge, whether or not anybody closes it.
        self.close = weakref.finalize(self, _end, self._workers)
        self._games = [""] * num_environments
        self._rows = [dict(_NOT_STARTED) for _ in range(num_environments)]
        self._lengths = [0] * num_environments
        self._episodes = [0] * num_environments

    def __enter__(self) -> "Bridge":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def reset(
        self,
        games: Sequence[str | os.PathLike[str] | None],
        seeds: Sequence[int] | None = None,
    ) -> HostStep:
        """Starts games.

        Args:
          games: for each environment, the name of the game to start (`envs.engines` says how games
            are named), or None to leave the environment as it is.
          seeds: for each environment the RNG seed of its engine, below 2**31; by default they
            follow from the bridge's own and from how many games the environment has played.

        Returns:
          The batch; environments left alone repeat their last texts, with reward 0.

        Raises:
          GameError: a game is not there, has no engine, or cannot be started, or its engine gives
            what is no answer; the message names the game and says why. The others have begun.
        """
        self._check_length(games, "games")
        if seeds is not None:
            self._check_length(seeds, "seeds")
        requests, named = {}, {}
        for index, game in enumerate(games):
            if game is not None:
                named[index] = os.fspath(game)
                engine, argument = locate(named[index])
                requests[index] = {
                    "reset": {
                        "engine": engine,
                        "argument": argument,
                        "seed": self._next_seed(index) if seeds is None else int(seeds[index]),
                        "describe": self._describe,
                    }
                }
        answers = self._ask(requests)
        for _ in range(_TRIES - 1):
            ended = {index: requests[index] for index in requests if answers[index] is None}
            for index in ended:
                self._replace(index, f"while starting {named[index]}")
            answers |= self._ask(ended)
        troubles: list[str] = []
        for index, game in named.items():
            answer = answers[index]
            if answer is None or "hung" in answer:
                said = self._workers[index].last_words() or "nothing"
                self._replace(index, f"while starting {game}")
                how = f"ended {_TRIES} times" if answer is None else answer["hung"]
                answer = {
                    "error": f"the engine's process {how} on starting it, so the file is probably "
                    f"damaged or of another version. It said: {said}"
                }
            trouble = answer.get("error") or answer.get("malformed") or answer.get("unknown")
            if trouble is not None:
                troubles.append(f"{game}: {trouble}")
                answer = dict(_NOT_STARTED)
            else:
                self._episodes[index] += 1
            self._games[index] = game
            self._rows[index] = answer
            self._lengths[index] = 0
        if troubles:  # The others have begun, and are now known to have.
            raise GameError("\n".join(troubles))
        return self._batch(named)

    def step(self, commands: Sequence[str | None]) -> HostStep:
        """Says one command to each game.

        Args:
          commands: for each environment the command, or None to leave the environment as it is.

        Returns:
          The batch; environments left alone repeat their last texts, with reward 0.

        Raises:
          ValueError: a command is for an environment whose episode is over.
          GameError: an engine gives what is no answer, which ends its episode, or a game has no
            such command, and waits for another; the message names the game and what is wanted.
        """
        self._check_length(commands, "commands")
        stepped = [index for index, command in enumerate(commands) if command is not None]
        for index in stepped:
            if self._rows[index]["terminated"] or self._rows[index]["truncated"]:
                raise ValueError(f"The episode of environment {index} is over: reset it first.")
        answers = self._ask({index: {"step": commands[index]} for index in stepped})
        troubles: list[str] = []
        for index in stepped:
            answer = answers[index]
            if answer is not None and "unknown" in answer:
                troubles.append(f"{self._games[index]}: {answer['unknown']}")
                continue  # It is where it was.
            if answer is not None and "malformed" in answer:
                troubles.append(f"{self._games[index]}: {answer['malformed']}")
                answer = self._rows[index] | _LOST
            elif answer is None or "error" in answer or "hung" in answer:
                how = "ended" if answer is None else answer.get("hung") or answer["error"]
                self._replace(index, f"during an episode: {how}")
                answer = self._rows[index] | _LOST
            self._lengths[index] += 1
            if self._max_steps is not None and self._lengths[index] >= self._max_steps:
                answer["truncated"] = answer["truncated"] or not answer["terminated"]
            self._rows[index] = answer
        if troubles:  # The others have moved, too, and are now known to have.
            raise GameError("\n".join(troubles))
        return self._batch(stepped)

    def _next_seed(self, index: int) -> int:
        entropy = np.random.SeedSequence([self._seed, index, self._episodes[index]])
        return int(entropy.generate_state(1)[0] >> 1)

    def _ask(self, requests: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any] | None]:
        """Sends all requests, then awaits all answers; None where the process has ended."""
        for index, request in requests.items():
            self._workers[index].send(request)
        deadline = time.monotonic() + self._timeout  # However many of them hang.
        return {index: self._receive(index, deadline) for index in requests}

    def _receive(self, index: int, deadline: float) -> dict[str, Any] | None:
        try:
            return self._workers[index].receive(deadline)
        except TimeoutError:
            return {"hung": f"did not answer within {self._timeout:g} seconds"}

    def _replace(self, index: int, circumstance: str) -> None:
        process = self._workers[index]
        said = process.last_words()
        _LOG.warning("Engine process %d was lost (%s); restarting. %s", index, circumstance, said)
        process.kill()
        self._workers[index] = EngineProcess()
        self.restarts += 1

    def _batch(self, moved: Iterable[int]) -> HostStep:
        moved, rows = set(moved), self._rows
        rewards = [row["reward"] if index in moved else 0.0 for index, row in enumerate(rows)]
        return HostStep(
            tasks=tuple(row["task"] for row in rows),
            observations=tuple(row["observation"] for row in rows),
            commands=tuple(tuple(row["commands"]) for row in rows),
            reward=np.array(rewards, np.float32),
            terminated=np.array([row["terminated"] for row in rows], bool),
            truncated=np.array([row["truncated"] for row in rows], bool),
            won=np.array([row["won"] for row in rows], bool),
            lost=np.array([row.get("lost", False) for row in rows], bool),
        )

    def _check_length(self, values: Sequence[Any], what: str) -> None:
        if len(values) != len(self._workers):
            raise ValueError(f"{len(values)} {what} for {len(self._workers)} environments.")


_NOT_STARTED = {
    "task": "",
    "observation": "",
    "commands": [],
    "reward": 0.0,
    "won": False,
    "terminated": False,
    "truncated": True,
}
_LOST = {"commands": [], "reward": 0.0, "truncated": True, "lost": True}


def _end(workers: list[EngineProcess]) -> None:
    for process in workers:
        process.kill()
