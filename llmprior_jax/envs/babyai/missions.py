"""What is to be done: missions as numbers, which things they mean, and when they are done.

A mission is a verb and up to two descriptions. A description means every thing of its kind that has
its color, if it names one, and that lay on the named side of where the agent started, if it names a
side. What is meant is settled when the episode begins.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.babyai import tiles
from llmprior_jax.envs.babyai.tiles import Array


class Verb(enum.IntEnum):
    """What is to be done with what the descriptions mean."""

    GO_TO = 0
    PICK_UP = 1
    OPEN = 2
    PUT_NEXT_TO = 3  # the first next to the second
    PICK_UP_THEN_GO_TO = 4  # the first, then the second
    GO_TO_AFTER_PICK_UP = 5  # the same, told the other way round


class Side(enum.IntEnum):
    """Where a thing lay, seen from where the agent started."""

    ANY = 0
    LEFT = 1
    RIGHT = 2
    AHEAD = 3
    BEHIND = 4


KINDS = ("key", "ball", "box", "door")
DOOR = KINDS.index("door")
ANY_COLOR = len(tiles.COLORS)

TWO = (Verb.PUT_NEXT_TO, Verb.PICK_UP_THEN_GO_TO, Verb.GO_TO_AFTER_PICK_UP)
"""The verbs of two descriptions."""


class Description(NamedTuple):
    """Which things are meant.

    Attributes:
      kind: i32[], index into `KINDS`.
      color: i32[], index into `tiles.COLORS`, or `ANY_COLOR`.
      side: i32[], a `Side`.
      several: i32[], 1 if it means more than one thing, otherwise 0.
    """

    kind: Array
    color: Array
    side: Array
    several: Array


class Mission(NamedTuple):
    """A mission; the second description is all zeros where the verb has one only.

    Attributes:
      verb: i32[], a `Verb`.
      first: the first description.
      second: the second.
    """

    verb: Array
    first: Description
    second: Description


NOTHING = Description(0, 0, 0, 0)
"""The second description of a mission that has one only."""

SIZE = 1 + 2 * len(Description._fields)
"""Numbers in a mission."""

LIMITS = (len(Verb), *2 * (len(KINDS), ANY_COLOR + 1, len(Side), 2))
"""What each of its numbers is below."""


def encode(mission: Mission) -> jax.Array:
    """A mission as i32[SIZE]."""
    return jnp.stack([mission.verb, *mission.first, *mission.second]).astype(jnp.int32)


def decode(numbers: Array) -> Mission:
    """The mission that i32[SIZE] stands for."""
    middle = 1 + len(Description._fields)
    return Mission(numbers[0], Description(*numbers[1:middle]), Description(*numbers[middle:]))


def matches(tile: Array, kind: Array, color: Array) -> jax.Array:
    """Whether there is a thing of a kind and a color on a tile: bool[...]."""
    is_kind = jnp.minimum(tiles.kind_of(tile), DOOR) == kind
    return is_kind & ((tiles.color_of(tile) == color) | (color == ANY_COLOR))


class Event(NamedTuple):
    """What a step did, as far as missions ask. Cells are as they are after it.

    Attributes:
      front: u16[], the cell in front of the agent.
      picked_up: u16[], the cell of what was picked up, or 0.
      toggled: bool[], whether the step was to open or close something.
      put_down: u16[], the cell of what was put down, or 0.
      beside: u16[4], the cells beside where it was put down.
    """

    front: jax.Array
    picked_up: jax.Array
    toggled: jax.Array
    put_down: jax.Array
    beside: jax.Array


def verify(verb: jax.Array, half_done: jax.Array, event: Event) -> tuple[jax.Array, jax.Array]:
    """Whether a mission is done, and whether the first half of one with an order is: bool[] each.

    Args:
      verb: i32[], the `Verb`.
      half_done: bool[], whether the first half was done before.
      event: the step.
    """
    meant, known = (np.array(bits, tiles.Cell) for bits in (tiles.MEANT, tiles.KNOWN))
    picked_up = event.picked_up & meant[0] != 0
    opened = event.toggled & (tiles.kind_of(event.front & tiles.TILE) == tiles.OPEN)
    put_next = (event.put_down & meant[0] != 0) & (event.beside & meant[1] != 0).any()
    ordered = (verb == Verb.PICK_UP_THEN_GO_TO) | (verb == Verb.GO_TO_AFTER_PICK_UP)
    half_done = half_done | (ordered & picked_up)
    done = jnp.stack(
        [
            (verb == Verb.GO_TO) & (event.front & known[0] != 0),
            (verb == Verb.PICK_UP) & picked_up,
            (verb == Verb.OPEN) & opened & (event.front & meant[0] != 0),
            (verb == Verb.PUT_NEXT_TO) & put_next,
            half_done & (event.front & known[1] != 0),
        ]
    )
    return done.any(), half_done
