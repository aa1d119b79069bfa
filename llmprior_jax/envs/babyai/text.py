"""The words for what the agent sees, and for what it is told to do.

What is told is what GLAM's BabyAI-Text tells (Carta et al., ICML 2023, arXiv 2302.02662): every
thing in sight, how many steps ahead and to which side, the nearest wall ahead and to either side
where nothing is before it, and what is carried. The wording is our own.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from llmprior_jax.envs.babyai import missions, tiles
from llmprior_jax.envs.babyai.missions import Description, Side, Verb
from llmprior_jax.envs.babyai.view import AGENT, SIDE

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""The actions, by their numbers."""

_SIDES = {
    Side.ANY: "",
    Side.LEFT: " to your left",
    Side.RIGHT: " to your right",
    Side.AHEAD: " ahead of you",
    Side.BEHIND: " behind you",
}


def task(mission: np.ndarray) -> str:
    """Says what is to be done.

    Args:
      mission: i32[missions.SIZE].
    """
    verb, first, second = missions.decode(mission.tolist())
    one, other = _means(first), _means(second)
    match Verb(verb):
        case Verb.GO_TO:
            return f"Go to {one}."
        case Verb.PICK_UP:
            return f"Pick up {one}."
        case Verb.OPEN:
            return f"Open {one}."
        case Verb.PUT_NEXT_TO:
            return f"Put {one} next to {other}."
        case Verb.PICK_UP_THEN_GO_TO:
            return f"Pick up {one}, and then go to {other}."
        case Verb.GO_TO_AFTER_PICK_UP:
            return f"Go to {other}, but pick up {one} before."


def observation(seen: np.ndarray) -> str:
    """Says what is seen and what is carried.

    Args:
      seen: i32[49], see `view.see`.
    """
    view = seen.reshape(SIDE, SIDE)
    sights = sorted([*_things(view), *_walls(view)])
    told = [f"{name} {_where(ahead, right)}" for _, ahead, right, name in sights]
    sight = f"You see {_join(told)}." if told else "You see nothing but the floor."
    carried = int(seen[AGENT])
    hands = "Your hands are empty." if carried == tiles.EMPTY else f"You carry {_a(carried)}."
    return f"{sight} {hands}"


def _things(view: np.ndarray) -> Iterator[tuple[int, int, int, str]]:
    """Distance, steps ahead, steps to the right, and name of each thing in sight."""
    for row, column in np.argwhere(view >= tiles.FIRST_THING).tolist():
        ahead, right = SIDE - 1 - row, column - SIDE // 2
        if ahead or right:
            yield ahead + abs(right), ahead, right, _a(int(view[row, column]))


def _walls(view: np.ndarray) -> Iterator[tuple[int, int, int, str]]:
    """The same of the walls ahead and to either side that nothing is before."""
    own, middle = view[-1], SIDE // 2
    lines = (view[-2::-1, middle], 1, 0), (own[middle - 1 :: -1], 0, -1), (own[middle + 1 :], 0, 1)
    for line, ahead, right in lines:
        steps = next((step for step, tile in enumerate(line, 1) if tile > tiles.EMPTY), 0)
        if steps and line[steps - 1] == tiles.WALL:
            yield steps, steps * ahead, steps * right, "a wall"


def _where(ahead: int, right: int) -> str:
    """Says how far away something is, as in "2 steps ahead and 1 step to the left"."""
    side = f"to the {'right' if right > 0 else 'left'}"
    return " and ".join(
        f"{steps} step{'s' if steps > 1 else ''} {way}"
        for steps, way in ((ahead, "ahead"), (abs(right), side))
        if steps
    )


def _means(description: Description) -> str:
    color = f"{(*tiles.COLORS, '')[description.color]} ".lstrip()
    article = "a" if description.several else "the"
    side = _SIDES[Side(description.side)]
    return f"{article} {color}{missions.KINDS[description.kind]}{side}"


def _a(tile: int) -> str:
    """Names a thing with its article, as in "a closed red door"."""
    *state, kind = tiles.KINDS[tiles.kind_of(tile)].split()
    name = " ".join([*state, tiles.COLORS[tiles.color_of(tile)], kind])
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _join(names: Sequence[str]) -> str:
    """Joins names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
