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

# The verbs as they are named in error messages.
_VERBS = {verb: verb.name.lower().replace("_", " ") for verb in Verb}
_SIDES = {
    Side.ANY: "",
    Side.LEFT: " to your left",
    Side.RIGHT: " to your right",
    Side.AHEAD: " ahead of you",
    Side.BEHIND: " behind you",
}
_SENTENCES = {
    Verb.GO_TO: "Go to {one}.",
    Verb.PICK_UP: "Pick up {one}.",
    Verb.OPEN: "Open {one}.",
    Verb.PUT_NEXT_TO: "Put {one} next to {other}.",
    Verb.PICK_UP_THEN_GO_TO: "Pick up {one}, and then go to {other}.",
    Verb.GO_TO_AFTER_PICK_UP: "Go to {other}, but pick up {one} before.",
}


def task(mission: np.ndarray) -> str:
    """Says what is to be done.

    Args:
      mission: i32[missions.SIZE].

    Raises:
      ValueError: it is no mission of BabyAI.
    """
    verb, first, second = missions.decode(mission.tolist())
    _check(mission, verb, first, second)
    one, other = _means(first), _means(second)
    return _SENTENCES[Verb(verb)].format(one=one, other=other)


def observation(seen: np.ndarray) -> str:
    """Says what is seen and what is carried.

    Args:
      seen: i32[49], see `view.see`.

    Raises:
      ValueError: a tile is none, or the agent carries what cannot be carried.
    """
    wrong = np.flatnonzero((seen < 0) | (seen >= tiles.NUM_TILES))
    if wrong.size:
        raise ValueError(
            f"tile {wrong[0]} of the view is {seen[wrong[0]]}; tiles are 0 to {tiles.NUM_TILES - 1}"
        )
    if not tiles.EMPTY <= seen[AGENT] < tiles.FIRST_DOOR or seen[AGENT] == tiles.WALL:
        raise ValueError(
            f"tile {AGENT} of the view, which is what the agent carries, is {seen[AGENT]}; it is "
            f"{tiles.EMPTY} for nothing, or {tiles.FIRST_THING} to {tiles.FIRST_DOOR - 1}"
        )
    view = seen.reshape(SIDE, SIDE)
    sights = sorted([*_things(view), *_walls(view)])
    told = [f"{name} {_where(ahead, right)}" for _, ahead, right, name in sights]
    sight = f"You see {_join(told)}." if told else "You see nothing but the floor."
    carried = int(seen[AGENT])
    hands = "Your hands are empty." if carried == tiles.EMPTY else f"You carry {_a(carried)}."
    return f"{sight} {hands}"


def _check(mission: np.ndarray, verb: int, first: Description, second: Description) -> None:
    """Raises a ValueError that says why something is no mission."""
    wrong = np.flatnonzero((mission < 0) | (mission >= np.array(missions.LIMITS)))
    if wrong.size:
        name = ("verb", *[f"first {field}" for field in Description._fields])
        name += tuple(f"second {field}" for field in Description._fields)
        index = int(wrong[0])
        raise ValueError(
            f"the {name[index]} of the mission is {mission[index]}; there are 0 to "
            f"{missions.LIMITS[index] - 1}"
        )
    if (verb == Verb.OPEN) != (first.kind == missions.DOOR):
        raise ValueError(
            f"no mission says to {_VERBS[Verb(verb)]} {_means(first)}: doors are opened, and "
            "nothing else is"
        )
    if verb not in missions.TWO and any(second):
        raise ValueError(
            f"a mission to {_VERBS[Verb(verb)]} something has one description; the second is "
            f"{list(second)} and must be all zeros"
        )


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
    name = tiles.name_of(tile)
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _join(names: Sequence[str]) -> str:
    """Joins names as in "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
