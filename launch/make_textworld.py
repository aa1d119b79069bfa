"""Makes TextWorld games: fetch things out of what is closed, in a kitchen.

    python -m launch.make_textworld --games=1 --things=2 --out=games

Each game has one room and as many closed containers, with a thing in each; the task is to take all
of them. Taking one is worth a point, so with two things an episode is won by four commands: open,
take, open, take. They are TextWorld's own games, compiled to its format (`.z8`, with a `.json`
beside), and played through its parser; which things and where follows from --seed.
"""

import pathlib
import random
from collections.abc import Sequence

from absl import flags

from launch import app

_OUT = flags.DEFINE_string("out", None, "Directory for the games.", required=True)
_GAMES = flags.DEFINE_integer("games", 1, "How many games.", lower_bound=1)
_THINGS = flags.DEFINE_integer("things", 2, "Things to fetch in each.", 1, 4)
_SEED = flags.DEFINE_integer("seed", 0, "Which games.", lower_bound=0)

_CONTAINERS = ("box", "cabinet", "cupboard", "drawer")
_PORTABLES = ("bowl", "plate", "knife", "mug")


def make_game(path: pathlib.Path, num_things: int, rng: random.Random) -> None:
    """Makes one game.

    Args:
      path: file to write, ending in `.z8`.
      num_things: things to fetch, at most 4.
      rng: chooses them and their places.

    Raises:
      ImportError: TextWorld is not installed.
    """
    try:
        from textworld import GameMaker, GameOptions
    except ImportError as error:
        raise ImportError("games are made with: pip install 'llmprior-jax[alfworld]'") from error
    options = GameOptions()
    options.seeds = rng.randrange(2**16)
    maker = GameMaker(options)
    kitchen = maker.new_room("kitchen")
    maker.set_player(kitchen)
    quests = []
    things = rng.sample(_PORTABLES, num_things)
    for name, where in zip(things, rng.sample(_CONTAINERS, num_things), strict=True):
        container = maker.new(type="c", name=where)
        container.add_property("closed")
        container.add(maker.new(type="o", name=name))  # pyright: ignore[reportArgumentType]
        kitchen.add(container)  # pyright: ignore[reportArgumentType]
        quests.append([f"open {where}", f"take {name} from {where}"])
    maker.quests = [maker.new_quest_using_commands(commands) for commands in quests]
    maker.compile(str(path))


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(_GAMES.value):
        path = out / f"fetch-{_SEED.value}-{number}.z8"
        make_game(path, _THINGS.value, random.Random(f"{_SEED.value} {number}"))
        print(path)


if __name__ == "__main__":
    app.run(main)
