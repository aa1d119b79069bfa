"""Plays a batch of text games on engines that run on the host, each in a process of its own.

The environments of this package are arrays inside jit. Engines are not: ALFWorld's and
TextWorld's are Python and C, play some tens of steps a second, and now and then die. This module
puts a batch of them behind one small interface, `Bridge`: reset, step, and for every environment
its task, observation, admissible commands and whether it is won. A game is named by a string:

- a path ending in ``.tw-pddl``: an ALFWorld game; `find_games` lists those of a data directory,
- any other path: a game file for TextWorld, such as the ``.z8`` that ``tw-make`` writes,
- ``gymnasium:ID``: a registered Gymnasium environment whose observation is text; as Gymnasium has
  it, ``gymnasium:module:ID`` imports the module first.

The engines come with ``pip install 'llmprior-jax[alfworld]'``. Their processes exchange lines of
JSON with this one, never pickles.
"""

import dataclasses
import json
import logging
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmprior_jax.envs.engines import worker
from llmprior_jax.types import TextState

_LOG = logging.getLogger(__name__)
_SUFFIXES = re.compile(r"\.(tw-pddl|ulx|z[1-8])$")
_TRIES = 3  # processes started for one game before it is given up


class GameError(ValueError):
    """A game cannot be found, read, made or started; the message names it."""


@dataclasses.dataclass(frozen=True)
class HostStep:
    """What a batch of B environments shows after a reset or a step.

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
      >>> games = find_games("data", split="train")
      >>> with Bridge(num_environments=2, max_steps=50) as bridge:
      ...     seen = bridge.reset(games[:2])
      ...     seen = bridge.step([commands[0] for commands in seen.commands])

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
          seed: seed of whatever chance the engines have.
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
        self._workers = [_Worker() for _ in range(num_environments)]
        # The processes end with the bridge, whether or not anybody closes it.
        self.close = weakref.finalize(self, _end, self._workers)
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
          games: for each environment, the name of the game to start (see the module's
            description), or None to leave the environment as it is.
          seeds: for each environment the seed of its engine's chance, below 2**31; by default they
            follow from the bridge's own and from how many games the environment has played.

        Returns:
          The batch; environments left alone repeat their last texts, with reward 0.

        Raises:
          GameError: if a game is not there, is of no kind the engines play, or cannot be started;
            the message names it and says why.
        """
        self._check_length(games, "games")
        if seeds is not None:
            self._check_length(seeds, "seeds")
        requests = {}
        for index, game in enumerate(games):
            if game is not None:
                seed = self._next_seed(index) if seeds is None else int(seeds[index])
                requests[index] = {
                    "reset": check_game(os.fspath(game)),
                    "seed": seed,
                    "describe": self._describe,
                }
        answers = self._ask(requests)
        for _ in range(_TRIES - 1):
            lost = {index: requests[index] for index in requests if answers[index] is None}
            for index, request in lost.items():
                self._replace(index, f"while starting {request['reset']}")
            answers |= self._ask(lost)
        for index, request in requests.items():
            game, answer = request["reset"], answers[index]
            if answer is None:
                said = self._workers[index].last_words()
                self._replace(index, f"while starting {game}")
                raise GameError(
                    f"{game}: the engine's process ended {_TRIES} times on starting it, so the "
                    f"file is probably damaged or of another version. It said: {said or 'nothing'}"
                )
            if "error" in answer:
                raise GameError(f"{game}: {answer['error']}")
            self._rows[index] = answer
            self._lengths[index] = 0
            self._episodes[index] += 1
        return self._batch(requests)

    def step(self, commands: Sequence[str | None]) -> HostStep:
        """Says one command to each game.

        Args:
          commands: for each environment the command, or None to leave the environment as it is.

        Returns:
          The batch; environments left alone repeat their last texts, with reward 0.

        Raises:
          ValueError: if a command is for an environment whose episode is over.
        """
        self._check_length(commands, "commands")
        stepped = [index for index, command in enumerate(commands) if command is not None]
        for index in stepped:
            if self._rows[index]["terminated"] or self._rows[index]["truncated"]:
                raise ValueError(f"The episode of environment {index} is over: reset it first.")
        answers = self._ask({index: {"step": commands[index]} for index in stepped})
        for index in stepped:
            answer = answers[index]
            if answer is None or "error" in answer:
                self._replace(index, "during an episode" if answer is None else answer["error"])
                answer = self._rows[index] | _LOST
            self._lengths[index] += 1
            if self._max_steps is not None and self._lengths[index] >= self._max_steps:
                answer["truncated"] = answer["truncated"] or not answer["terminated"]
            self._rows[index] = answer
        return self._batch(stepped)

    def _next_seed(self, index: int) -> int:
        entropy = np.random.SeedSequence([self._seed, index, self._episodes[index]])
        return int(entropy.generate_state(1)[0] >> 1)

    def _ask(self, requests: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any] | None]:
        """Sends all requests, then awaits all answers; None where the process is lost."""
        for index, request in requests.items():
            self._workers[index].send(request)
        return {index: self._workers[index].receive(self._timeout) for index in requests}

    def _replace(self, index: int, circumstance: str) -> None:
        process = self._workers[index]
        said = process.last_words()
        _LOG.warning("Engine process %d was lost (%s); restarting. %s", index, circumstance, said)
        process.kill()
        self._workers[index] = _Worker()
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


class _Worker:
    """A process that plays one game at a time."""

    def __init__(self) -> None:
        # The script is run by path, so that the process never imports this package, nor JAX.
        path = os.pathsep.join([*filter(None, sys.path), os.getcwd()])
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended; `receive` will say so

    def receive(self, timeout: float) -> dict[str, Any] | None:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            return None
        return None if line is None else json.loads(line)

    def last_words(self) -> str:
        """The end of what the process wrote to standard error."""
        self._words.seek(0)
        return self._words.read()[-500:].decode("utf-8", "replace").strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        self._words.close()


def _end(workers: list[_Worker]) -> None:
    for process in workers:
        process.kill()


def check_game(game: str) -> str:
    """Returns the name of a game.

    Raises:
      GameError: no engine plays such a game, or there is no such file.
    """
    if game.startswith(worker.GYMNASIUM):
        return game
    if not _SUFFIXES.search(game):
        raise GameError(
            f"{game}: no engine plays this. Give an ALFWorld game (.tw-pddl), a TextWorld game "
            f"(.z8, .ulx) or the name of a Gymnasium environment ({worker.GYMNASIUM}ID)."
        )
    if not os.path.isfile(game):
        raise GameError(f"{game}: there is no such file.")
    return game


# ---------------------------------------------------------------------------------------------
# ALFWorld's data directory
# ---------------------------------------------------------------------------------------------


def find_games(
    data: str | os.PathLike[str] | None = None,
    split: str = "train",
    task_types: Sequence[str] | None = None,
) -> list[str]:
    """Lists the games of an ALFWorld data directory, as ALFWorld's own environment chooses them.

    Args:
      data: the data directory; by default ``$ALFWORLD_DATA``, else ``~/.cache/alfworld``.
      split: "train", "valid_seen" or "valid_unseen".
      task_types: ALFWorld's names of the tasks to list, such as "pick_and_place_simple"; by
        default all.

    Returns:
      Paths of ``game.tw-pddl`` files known to be solvable, sorted.

    Raises:
      GameError: if there is no such directory, a file is damaged, or no game is left.
    """
    default = os.environ.get("ALFWORLD_DATA", os.path.join("~", ".cache", "alfworld"))
    root = pathlib.Path(data if data is not None else default).expanduser()
    folder = root / "json_2.1.1" / split
    if not folder.is_dir():
        raise GameError(
            f"No ALFWorld games in {folder}. Get the official ones with `alfworld-download`, or "
            f"make some with `python -m launch.make_games --out={root}`; then set ALFWORLD_DATA "
            "to the directory that holds json_2.1.1."
        )
    paths = []
    for described in sorted(folder.glob("*/*/traj_data.json")):
        task = described.parent.parent.name
        path = described.with_name("game.tw-pddl")
        if "movable" in task or "Sliced" in task or not path.exists():
            continue
        try:
            task_type = json.loads(described.read_text(encoding="utf-8"))["task_type"]
        except (ValueError, KeyError, TypeError) as error:
            raise GameError(f"{described}: damaged or cut short ({error!r}).") from error
        if (task_types is None or task_type in task_types) and _is_solvable(path):
            paths.append(str(path))
    if not paths:
        raise GameError(f"No solvable game of {task_types or 'any task'} in {folder}.")
    return paths


def _is_solvable(path: pathlib.Path) -> bool:
    try:
        game = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GameError(
            f"{path}: damaged or cut short, not valid JSON ({error}). Fetch or make it again."
        ) from error
    return isinstance(game, dict) and bool(game.get("solvable"))
