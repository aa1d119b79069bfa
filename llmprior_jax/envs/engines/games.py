"""The games of a configuration: single ones, and whole directories of them."""

import pathlib
from collections.abc import Iterable

from llmprior_jax.envs.engines.bridge import GameError, find_games

_TEXTWORLD = (".z8", ".ulx")


def list_games(entries: Iterable[str]) -> list[str]:
    """Lists the games that entries stand for.

    Args:
      entries: each one game, named as `envs.bridge` names it; or a directory, which is either a
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
    for game in games:
        if games.count(game) > 1:
            raise ValueError(f"the game {game} is named twice")
    return games
