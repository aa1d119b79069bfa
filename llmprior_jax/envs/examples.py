"""Episodes of other tasks, which show a language model how to act in a family of environments.

A model that has seen one episode knows the words in which actions are said here. Each family has a
file of its own in `example_files`, in the format in which people write examples
(`llmprior_jax.examples`).
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


def for_alfworld(games: Sequence[str]) -> tuple[Example, ...]:
    """An example of a kind of task that none of the games is of; any where they are of all kinds.

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
    return tuple(other or shown)[:1]


def for_engines(games: Sequence[str]) -> tuple[Example, ...]:
    """An example for games on engines, () where they are of several engines or of another one."""
    engines = set(map(engine_of, games))
    if engines == {"alfworld"}:
        return for_alfworld([game.removeprefix("alfworld:") for game in games])
    return read("textworld") if engines == {"textworld"} else ()
