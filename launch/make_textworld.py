"""Generates TextWorld games: take the foods of a salad from a table.

    python -m launch.make_textworld --games=4 --out=data/salads

Each game has one room and a table with five foods on it; the task names those of a salad. Taking
one of them gives a point, and taking all wins the game. They are TextWorld's own games, compiled to
its format (`.z8`, with a `.json`), and played through its parser, which accepts many wordings and
offers no list of commands. --seed determines which foods are wanted.
"""

import pathlib
import random
from collections.abc import Sequence

from launch.common import app
from llmprior_jax.files import check_writable

FLAGS = app.Flags()
_OUT = FLAGS.string("out", None, "Directory for the games.", required=True)
_GAMES = FLAGS.integer("games", 1, "How many games.", lower_bound=1)
_WANTED = FLAGS.integer("wanted", 2, "Foods of each salad.", 1, 5)
_SEED = FLAGS.integer("seed", 0, "Which games.")

_FOODS = ("tomato", "carrot", "onion", "cucumber", "potato", "mushroom", "pepper", "celery")
_ON_TABLE = 5


def make_game(path: pathlib.Path, num_wanted: int, rng: random.Random) -> None:
    """Makes one game.

    Args:
      path: file to write, ending in `.z8`.
      num_wanted: foods of the salad, 1 to 5.
      rng: chooses the foods.

    Raises:
      ImportError: TextWorld is not installed.
    """
    try:
        from textworld import GameMaker, GameOptions
        from textworld.generator import compile_game
    except ImportError as error:
        raise ImportError("games are made with: pip install 'llmprior-jax[alfworld]'") from error
    options = GameOptions()
    options.seeds = rng.randrange(2**16)
    options.grammar.theme = "basic"  # Says what there is, and nothing for color.
    options.path, options.force_recompile = str(path), True
    maker = GameMaker(options)
    kitchen = maker.new_room("kitchen")
    maker.set_player(kitchen)
    table = maker.new(type="s", name="table")
    kitchen.add(table)  # pyright: ignore[reportArgumentType]
    foods = rng.sample(_FOODS, _ON_TABLE)
    for name in foods:
        table.add(maker.new(type="f", name=name))  # pyright: ignore[reportArgumentType]
    wanted = rng.sample(foods, num_wanted)
    maker.quests = [maker.new_quest_using_commands([f"take {food} from table"]) for food in wanted]
    game = maker.build()
    # TextWorld's own would tell the commands.
    game.objective = f"make a salad of {' and '.join(wanted)}"
    compile_game(game, options)


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value)
    paths = [out / f"salad-{_SEED.value}-{number}.z8" for number in range(_GAMES.value)]
    check_writable(paths[-1])
    out.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        make_game(path, _WANTED.value, random.Random(f"{_SEED.value} {number}"))
        print(path)


if __name__ == "__main__":
    app.run(main, FLAGS)
