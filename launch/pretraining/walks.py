"""Walks over a field of squares: towards a target, around pits, in words."""

import random
from collections import deque

from launch.pretraining.phrases import Document, Piece, decisions, pick, sentence

_STEPS = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_BESIDE = {"left": "on the left", "right": "on the right", "up": "above", "down": "below"}
_TARGETS = ("flag", "tent", "chest", "house", "goal", "lantern", "gate", "exit")
_DANGERS = ("pit", "hole", "puddle", "trap", "ditch", "crack")
_GROUNDS = ("grass", "sand", "snow", "ice", "floor", "moss")

Square = tuple[int, int]


def _neighbors(size: int, here: Square) -> dict[str, Square | None]:
    """The squares around one by their side; None where the field ends."""
    around = {side: (here[0] + row, here[1] + column) for side, (row, column) in _STEPS.items()}
    return {
        side: there if all(0 <= x < size for x in there) else None for side, there in around.items()
    }


def _distances(size: int, pits: set[Square], target: Square) -> dict[Square, int]:
    found, queue = {target: 0}, deque([target])
    while queue:
        here = queue.popleft()
        for there in _neighbors(size, here).values():
            if there and there not in pits and there not in found:
                found[there] = found[here] + 1
                queue.append(there)
    return found


def _observation(
    rng: random.Random, style: str, here: Square, target: Square, around: dict[str, str], goal: str
) -> str:
    row, column = target[0] - here[0], target[1] - here[1]
    vertical = ("down", "below") if row > 0 else ("up", "above")
    horizontal = ("right", "to the right") if column > 0 else ("left", "to the left")
    ways = [(abs(n), words) for n, words in ((row, vertical), (column, horizontal)) if n]
    unit = rng.choice((" squares", " fields", ""))
    if style == "places":
        place = f"you stand in row {here[0] + 1}, column {here[1] + 1}."
        aim = f"the {goal} is in row {target[0] + 1}, column {target[1] + 1}."
    elif style == "bearing":
        place = ""
        bearing = " and ".join(f"{number}{unit} {way}" for number, (way, _) in ways)
        aim = f"the {goal} lies {bearing} from you."
    else:
        place = f"you are at {here[0] + 1}, {here[1] + 1}."
        aim = f"the {goal} is {' and '.join(where for _, (_, where) in ways)}."
    return " ".join(sentence(part) for part in (place, _sides(rng, around), aim) if part)


def _sides(rng: random.Random, around: dict[str, str]) -> str:
    sides = list(around)
    rng.shuffle(sides)
    if rng.random() < 0.5:
        return ", ".join(f"{around[side]} {_BESIDE[side]}" for side in sides) + "."
    return "; ".join(f"{side}: {around[side]}" for side in sides) + "."


def walk(rng: random.Random) -> Document:
    """A few steps of somebody who walks to a target and avoids what is dangerous."""
    size = rng.randint(3, 8)
    squares = [(row, column) for row in range(size) for column in range(size)]
    target = rng.choice(squares)
    count = rng.randrange(1, size * size // 4 + 1)
    pits = {square for square in rng.sample(squares, count) if square != target}
    far = _distances(size, pits, target)
    starts = [square for square in far if square != target]
    if not starts:
        return advice(rng)
    here = rng.choice(starts)
    goal, danger, ground = rng.choice(_TARGETS), rng.choice(_DANGERS), rng.choice(_GROUNDS)
    border = rng.choice(("a wall", "a fence", "the edge", "the edge of the field", "the lake"))
    style = pick(rng, (("bearing", 0.5), ("compass", 0.3), ("places", 0.2)))
    verb = rng.choice(("go", "move", "step", "walk", "head"))
    task = rng.choice(
        (
            f"reach the {goal} and stay out of every {danger}.",
            f"walk over the {ground} to the {goal}.",
            f"find the way to the {goal} past the {danger}s.",
        )
    )
    steps = []
    for _ in range(pick(rng, ((1, 0.6), (2, 0.2), (5, 0.2)))):
        beside = _neighbors(size, here)
        known = dict.fromkeys(pits, f"a {danger}") | {target: f"the {goal}", None: border}
        around = {side: known.get(there, ground) for side, there in beside.items()}
        safe = {side: there for side, there in beside.items() if there in far}
        best = [side for side, there in safe.items() if far[there] < far[here]]
        side = rng.choice(best if rng.random() < 0.88 else list(safe))
        steps.append((_observation(rng, style, here, target, around, goal), f"{verb} {side}"))
        here = safe[side]
        if here == target:
            break
    return decisions(rng, task, steps, "walk")


def questions(rng: random.Random) -> Document:
    """Four sides of a square, and what can be read off them."""
    danger, ground = rng.choice(_DANGERS), rng.choice(_GROUNDS)
    things = (ground, ground, f"a {danger}", "a wall", f"the {rng.choice(_TARGETS)}")
    around = {side: rng.choice(things) for side in _STEPS}
    sides = _sides(rng, around)
    pieces = [Piece(sentence(sides))]
    for side in rng.sample(list(_STEPS), 3):
        safe = around[side] not in (f"a {danger}", "a wall")
        question, answer = rng.choice(
            (
                (f"What is {_BESIDE[side]}?", around[side]),
                (f"Can you go {side}?", "yes" if safe else "no"),
            )
        )
        pieces += [Piece(f"\n{question}"), Piece(f" {answer}", decision=True)]
    return Document("walk", "", tuple(pieces))


def advice(rng: random.Random) -> Document:
    """General sentences about walking on squares."""
    goal, danger = rng.choice(_TARGETS), rng.choice(_DANGERS)
    pool = [
        f"If the {goal} is below you, go down.",
        f"If the {goal} is above you, go up.",
        f"If the {goal} is to the right, go right.",
        f"If the {goal} is to the left, go left.",
        f"Never step into the {danger}; walk around it.",
        "Nobody can walk through a wall.",
        f"When a {danger} is on the right, do not go right.",
        f"When a {danger} is below, do not go down.",
        "A larger row number is further down, a larger column number further right than yours.",
    ]
    return Document("walk", "", (Piece(" ".join(rng.sample(pool, rng.randint(3, 5)))),))
