"""What can be on a tile, as a number.

A tile is one of 39 codes: unseen, empty, wall, and then 6 kinds of things in 6 colors. A cell of
the grid is such a code in its low bits and, above them, what the mission's descriptions have to do
with it: whether the thing there is one that is meant, which goes where the thing goes, and whether
one was last known to be here, which stays. So no thing needs a name or an entry in a list.
"""

from typing import Any

import numpy as np

Array = Any  # of NumPy on the host, of JAX on the device

COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
KINDS = ("key", "ball", "box", "open door", "closed door", "locked door")
KEY, BALL, BOX, OPEN, CLOSED, LOCKED = range(len(KINDS))
UNSEEN, EMPTY, WALL, FIRST_THING = range(4)
FIRST_DOOR = FIRST_THING + len(COLORS) * OPEN  # before it, what can be carried
FIRST_SHUT = FIRST_THING + len(COLORS) * CLOSED  # from here on, doors that hide what is behind
NUM_TILES = FIRST_THING + len(COLORS) * len(KINDS)

TILE = (1 << 6) - 1  # the bits of a cell that are its tile
MEANT = (1 << 6, 1 << 7)  # the thing here is one that the first, or the second, description means
KNOWN = (1 << 8, 1 << 9)  # one that it means was last known to be here
CELL = TILE | sum(MEANT) | sum(KNOWN)  # all bits of a cell

Cell = np.uint16


def tile_of(kind: Array, color: Array) -> Array:
    """The tile of a thing."""
    return FIRST_THING + len(COLORS) * kind + color


def kind_of(tile: Array) -> Array:
    """The kind of thing on a tile, below 0 where there is none."""
    return (tile - FIRST_THING) // len(COLORS)


def color_of(tile: Array) -> Array:
    """The color of the thing on a tile, of no account where there is none."""
    return (tile - FIRST_THING) % len(COLORS)


def name_of(tile: int) -> str:
    """Names the thing on a tile, as in "closed red door" (host side)."""
    *state, kind = KINDS[kind_of(tile)].split()
    return " ".join([*state, COLORS[color_of(tile)], kind])
