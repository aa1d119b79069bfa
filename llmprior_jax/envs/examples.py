"""Episodes of other tasks or places, which show a language model how to act in an environment.

A model that has seen one episode knows the words in which actions are said here. It is told no step
of the game that is played: kitchens show food of other kitchens, lakes one whose goal is in another
corner, and rooms another mission. Each family of environments has a file of its own in
`example_files`, in the format in which people write examples (`llmprior_jax.examples`).
"""

import functools
import pathlib
from collections.abc import Sequence

from llmprior_jax.envs.engines.games import engine_of
from llmprior_jax.examples import Example, read_examples

_FOLDER = pathlib.Path(__file__).parent / "example_files"
# What the folder of a game of ALFWorld begins with, in the order of the examples of such tasks.
_ALFWORLD_TASKS = ("pick_and_place_simple", "look_at_obj_in_light")


@functools.cache
def read(family: str) -> tuple[Example, ...]:
    """All examples of a family, such as "overcooked"."""
    return tuple(read_examples(_FOLDER / f"{family}.jsonl"))


def for_kitchen(num_ingredients: int) -> tuple[Example, ...]:
    """An example of a salad of as many ingredients as the one to be served does not have.

    So it cannot be served by doing again what is shown, with other words for the food.
    """
    one, several = read("overcooked")
    return (several if num_ingredients == 1 else one,)


def for_alfworld(games: Sequence[str]) -> tuple[Example, ...]:
    """An example of a kind of task that none of the games is of, () where there is none.

    Args:
      games: paths of games, which lie as in ALFWorld's data: in a folder named by the task.
    """
    shown = read("alfworld")
    folders = [pathlib.Path(game).parent.parent.name for game in games]
    other = [
        example
        for example, kind in zip(shown, _ALFWORLD_TASKS, strict=True)
        if not any(folder.startswith(kind) for folder in folders)
    ]
    return tuple(other[:1])


def for_babyai(level: str) -> tuple[Example, ...]:
    """An example of a mission that a level does not have: to go to something, or to open a door.

    The mixed levels have both, but in training no box is yellow, and in testing no door is blue.
    """
    goes, opens = read("babyai")
    return (opens if level.startswith("GoTo") or level == "MixedTestLocal" else goes,)


def for_engines(games: Sequence[str]) -> tuple[Example, ...]:
    """An example for games on engines, () where they are of several engines or none is at hand.

    Args:
      games: the games that are played, those to evaluate on too.
    """
    engines = set(map(engine_of, games))
    if engines == {"alfworld"}:
        shown = for_alfworld([game.removeprefix("alfworld:") for game in games])
        # As the commands of an engine are listed in play.
        return tuple(each._replace(options=tuple(map(_sorted, each.options))) for each in shown)
    return read("textworld") if engines == {"textworld"} else ()


def _sorted(commands: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(commands))
