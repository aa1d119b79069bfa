"""Games by name: which engine plays them, and what games a directory holds."""

import collections
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import TypedDict

from llmprior_jax.files import read_json
from llmprior_jax.registry import Registry, unknown

_FOLDER = pathlib.Path(__file__).parent
_ENGINES: Registry[str] = Registry(
    "engine",
    {
        "alfworld": f"{_FOLDER / 'alfworld_engine.py'}:AlfworldEngine",
        "textworld": f"{_FOLDER / 'textworld_engine.py'}:TextworldEngine",
        "gymnasium": f"{_FOLDER / 'gymnasium_engine.py'}:GymnasiumEngine",
        "textworld_express": f"{_FOLDER / 'textworld_express_engine.py'}:TextworldExpressEngine",
    },
)
"""Where the class of each engine is, as `worker.open_engine` takes it."""

# What a game begins with whose engine has no name, but an import path.
_BY_PATH = "engine"
_TEXTWORLD = (".z8", ".ulx")
# The engines of files.
_SUFFIXES = {
    ".tw-pddl": "alfworld",
    ".ulx": "textworld",
    **{f".z{version}": "textworld" for version in range(1, 9)},
}


class _Described(TypedDict):
    """What is known of a game beside itself."""

    task_type: str


class GameError(ValueError):
    """A game cannot be found, read, made, started or played; the message names it."""


def register(name: str, engine: str) -> None:
    """Gives an engine of your own a name: it plays the games called `NAME:ARGUMENT`.

    The name holds in this program. Other programs name the engine by its import path,
    `engine:MODULE:CLASS:ARGUMENT`.

    Examples:
      >>> envs.engines.register("chess", "my_module:ChessEngine")
      >>> envs.engines.check_game("chess:king and queen")
      >>> envs.engines.check_game("engine:my_module:ChessEngine:king and queen")

    Args:
      name: the name, which no engine has yet.
      engine: import path `module:Class` of the engine, see `Engine`. The processes of the bridge
        import it, this one does not.

    Raises:
      ValueError: another engine has that name, or what is given is no import path.
    """
    if name == _BY_PATH:
        raise ValueError(f"no engine can be called {name!r}; choose another name")
    module, _, attribute = engine.partition(":")
    if not _is_path(module, attribute):
        raise ValueError(
            f"{engine!r} is no import path of an engine; give one such as 'my_module:ChessEngine'"
        )
    _ENGINES.register(name, engine)


def locate(game: str) -> tuple[str, str]:
    """Says who plays a game.

    Returns:
      Where the engine's class is, and what it is given, as `worker.open_engine` takes them.

    Raises:
      GameError: no engine plays such a game, or there is no such file.
    """
    name, colon, argument = game.partition(":")
    if colon and name in _ENGINES:
        if name in _SUFFIXES.values() and not os.path.isfile(argument):
            raise GameError(f"{game}: there is no such file.")
        return _ENGINES[name], argument
    if colon and name == _BY_PATH:
        return _by_path(game, argument)
    suffix = pathlib.PurePath(game).suffix
    if suffix in _SUFFIXES:
        if not os.path.isfile(game):
            raise GameError(f"{game}: there is no such file.")
        return _ENGINES[_SUFFIXES[suffix]], game
    if colon:
        raise GameError(f"{game}: {unknown('engine', name, _ENGINES)}")
    raise GameError(
        f"{game}: no engine plays this. Give an ALFWorld game (.tw-pddl), a TextWorld game "
        "(.z8, .ulx), the name of a Gymnasium environment (gymnasium:ID), a kind of games of "
        "TextWorldExpress (textworld_express:GAME:FOLD), or a game of an engine of your own "
        "(engine:MODULE:CLASS:ARGUMENT)."
    )


def engine_of(game: str) -> str:
    """The name of the engine that plays a game, "engine" for an import path, "" for none."""
    name, colon, _ = game.partition(":")
    return name if colon else _SUFFIXES.get(pathlib.PurePath(game).suffix, "")


def _is_path(module: str, attribute: str) -> bool:
    """Whether they make an import path; that of a file is none."""
    words = [*module.split("."), attribute]
    return all(map(str.isidentifier, words)) and not module.endswith(".py")


def _by_path(game: str, rest: str) -> tuple[str, str]:
    module, _, rest = rest.partition(":")
    name, _, argument = rest.partition(":")
    if not _is_path(module, name):
        raise GameError(
            f"{game}: name the class of the engine and what it plays, as in "
            "engine:my_module:ChessEngine:ARGUMENT"
        )
    return f"{module}:{name}", argument


def check_game(game: str) -> None:
    """Sees that a game has an engine and, if it is a file, that it is there.

    Examples:
      >>> envs.engines.check_game("gymnasium:my_module:Corridor-v0")
      >>> envs.engines.check_game("gymnasum:my_module:Corridor-v0")
      Traceback (most recent call last):
      GameError: gymnasum:my_module:Corridor-v0: there is no engine 'gymnasum'; did you mean ...

    Raises:
      GameError: no engine plays such a game, or there is no such file.
    """
    locate(game)


def list_games(entries: Iterable[str]) -> list[str]:
    """Lists the games that entries stand for.

    Examples:
      >>> envs.engines.list_games(["gymnasium:my_module:Corridor-v0", "game.tw-pddl"])
      ['gymnasium:my_module:Corridor-v0', 'game.tw-pddl']

    Args:
      entries: each one game, by its name; or a directory, which is either a
        split of an ALFWorld data directory (`DATA/json_2.1.1/train`) or holds the game files of
        TextWorld (`*.z8`, `*.ulx`).

    Returns:
      Names of games, those of a directory sorted.

    Raises:
      GameError: a directory has no games.
      ValueError: a game is named twice.
    """
    games = []
    for entry in entries:
        path = pathlib.Path(entry)
        if path.parent.name == "json_2.1.1":
            games.extend(find_games(path.parent.parent, path.name))
        elif not path.is_dir():
            games.append(entry)
        elif files := sorted(file for file in path.iterdir() if file.suffix in _TEXTWORLD):
            games.extend(map(str, files))
        else:
            raise GameError(
                f"{path}: no games. Give a split of an ALFWorld data directory, such as "
                "DATA/json_2.1.1/train, or a directory of TextWorld games (.z8, .ulx)."
            )
    for game, times in collections.Counter(games).items():
        if times > 1:
            raise ValueError(f"the game {game} is named twice")
    return games


def find_games(
    data: str | os.PathLike[str] | None = None,
    split: str = "train",
    task_types: Sequence[str] | None = None,
) -> list[str]:
    """Lists the games of an ALFWorld data directory, as ALFWorld's own environment chooses them.

    Examples:
      >>> envs.engines.find_games("nowhere", split="valid_unseen")
      Traceback (most recent call last):
      GameError: No ALFWorld games in nowhere/json_2.1.1/valid_unseen. Get the official ones ...

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
            task_type = read_json(described, _Described)["task_type"]
        except ValueError as error:
            raise GameError(f"{described}: damaged or cut short ({error}).") from error
        if (task_types is None or task_type in task_types) and _is_solvable(path):
            paths.append(str(path))
    if not paths:
        raise GameError(f"No solvable game of {task_types or 'any task'} in {folder}.")
    return paths


def _is_solvable(path: pathlib.Path) -> bool:
    try:
        game = read_json(path)
    except ValueError as error:
        raise GameError(
            f"{path}: damaged or cut short ({error}). Fetch or make it again."
        ) from error
    return isinstance(game, dict) and bool(game.get("solvable"))
