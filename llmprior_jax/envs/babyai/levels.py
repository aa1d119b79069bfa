"""BabyAI's levels: how rooms, things and missions are drawn.

The levels are those of BabyAI (Chevalier-Boisvert et al., "BabyAI: A Platform to Study the Sample
Efficiency of Grounded Language Learning", ICLR 2019, arXiv 1810.08272) as minigrid has them. The
mixed levels, which are GLAM's, are in `mixed`. A draw can fail, as when something is out of reach;
then it counts for nothing and the next is made.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.babyai import missions, tiles
from llmprior_jax.envs.babyai.dice import Dice
from llmprior_jax.envs.babyai.missions import NOTHING, Description, Mission, Side, Verb
from llmprior_jax.envs.babyai.rooms import Rooms, Things, add_doors, all_reachable, place_agent, put
from llmprior_jax.envs.babyai.view import FORWARD_X, FORWARD_Y

NUM_THINGS = missions.DOOR * len(tiles.COLORS)
"""Keys, balls and boxes of each color."""

_RED, _GREY = tiles.COLORS.index("red"), tiles.COLORS.index("grey")
_RED_BALL = tiles.tile_of(tiles.BALL, _RED)


class Draw(NamedTuple):
    """The beginning of an episode.

    Attributes:
      cells: u16[C], the grid; see `tiles`.
      position: i32[], the tile that the agent is on.
      direction: i32[], where it looks: right, down, left or up.
      mission: i32[missions.SIZE].
    """

    cells: jax.Array
    position: jax.Array
    direction: jax.Array
    mission: jax.Array


class Level(NamedTuple):
    """A level.

    Attributes:
      rooms: its rooms.
      limits: the time limit in steps of a mission of each `Verb`.
      draw: `(key, attempt) -> (Draw, valid bool[])`. All attempts of a key have in common what must
        not depend on how often a draw fails.
    """

    rooms: Rooms
    limits: tuple[int, ...]
    draw: Callable[[jax.Array, jax.Array], tuple[Draw, jax.Array]]


def _level(rooms: Rooms, draw: Callable[[Dice, Rooms], tuple[Draw, jax.Array]]) -> Level:
    """A level whose time limits are BabyAI's: as many steps as tiles, per thing to walk to."""
    limit = rooms.count * rooms.size**2
    limits = tuple(limit * (2 if verb in missions.TWO else 1) for verb in Verb)

    def attempt(key: jax.Array, number: jax.Array) -> tuple[Draw, jax.Array]:
        return draw(Dice(jax.random.fold_in(key, number)), rooms)

    return Level(rooms, limits, attempt)


def single_rooms() -> dict[str, Level]:
    """The levels in one room, by their names."""
    room = Rooms(8)
    draws = {
        "GoToRedBallGrey": functools.partial(_go_to_red_ball, others=7, grey=True),
        "GoToRedBall": functools.partial(_go_to_red_ball, others=7),
        "GoToRedBallNoDists": functools.partial(_go_to_red_ball, others=0),
        "GoToObj": functools.partial(_one_of, verb=Verb.GO_TO, number=1),
        "GoToLocal": functools.partial(_one_of, verb=Verb.GO_TO, number=8),
        "PickupLoc": functools.partial(_pick_up_by_side, number=8),
        "PutNextLocal": functools.partial(_put_next, number=8),
    }
    return {name: _level(room, draw) for name, draw in draws.items()}


def mazes() -> dict[str, Level]:
    """The levels in three by three rooms, by their names."""
    rooms = Rooms(8, columns=3, rows=3)
    draws = {
        "GoTo": functools.partial(_one_of, verb=Verb.GO_TO, number=18),
        "GoToOpen": functools.partial(_one_of, verb=Verb.GO_TO, number=18, doors_open=True),
        "Pickup": functools.partial(_one_of, verb=Verb.PICK_UP, number=18),
        "Open": functools.partial(_one_of, verb=Verb.OPEN, number=18),
    }
    return {name: _level(rooms, draw) for name, draw in draws.items()}


# ------------------------------------------------------------------- what levels are made of


def any_things(dice: Dice, rooms: Rooms, number: int) -> Things:
    """Things of any kind and color, in any room."""
    tile = tiles.FIRST_THING + dice.roll(NUM_THINGS, number)
    room = dice.roll(rooms.count, number)
    return Things(tile.astype(tiles.Cell), room, jnp.ones(number, bool))


def before(tile: jax.Array | int, room: jax.Array | int, things: Things) -> Things:
    """Things, and one that is put down before them."""
    first = jnp.asarray(tile, tiles.Cell), jnp.asarray(room, jnp.int32), jnp.bool_(True)
    pairs = zip(first, things, strict=True)
    return Things(*(jnp.concatenate([one[None], rest]) for one, rest in pairs))


def describe(grid: jax.Array, kind: jax.Array | int, color: jax.Array | int) -> Description:
    """Describes all things of a kind and a color."""
    several = missions.matches(grid.astype(jnp.int32), kind, color).sum() > 1
    return Description(kind, color, Side.ANY, several)


def describe_like(grid: jax.Array, tile: jax.Array) -> Description:
    """Describes all things of the same kind and color as that on a tile."""
    kind = jnp.minimum(tiles.kind_of(tile.astype(jnp.int32)), missions.DOOR)
    return describe(grid, kind, tiles.color_of(tile.astype(jnp.int32)))


def begin(
    grid: jax.Array,
    position: jax.Array,
    direction: jax.Array,
    mission: Mission,
    on_side: Callable[[jax.Array], jax.Array] | None = None,
) -> Draw:
    """The beginning of an episode, with what the mission means marked on the grid.

    Args:
      grid: u16[C], the tiles.
      position: where the agent is.
      direction: where it looks.
      mission: what is to be done.
      on_side: `side -> bool[C]`, the tiles on a side of the agent; None where no side is named.
    """
    cells, tile = grid, grid.astype(jnp.int32)
    used = True, jnp.isin(mission.verb, np.array(missions.TWO))
    for index, description in enumerate((mission.first, mission.second)):
        meant = missions.matches(tile, description.kind, description.color) & used[index]
        if on_side is not None:
            meant &= on_side(description.side)
        bits = tiles.MEANT[index] | tiles.KNOWN[index]
        cells |= jnp.where(meant, bits, 0).astype(tiles.Cell)
    return Draw(cells, position, direction, missions.encode(mission))


def are_next(rooms: Rooms, cells: jax.Array) -> jax.Array:
    """Whether any of what the first description means is next to any of the second: bool[]."""
    first, second = (cells & np.array(bit, tiles.Cell) != 0 for bit in tiles.MEANT)
    return jnp.stack([first & jnp.roll(second, step) for step in rooms.steps.tolist()]).any()


# ---------------------------------------------------------------------------------- levels


def _go_to_red_ball(
    dice: Dice, rooms: Rooms, others: int, grey: bool = False
) -> tuple[Draw, jax.Array]:
    """A red ball, and other things, which may be red balls, too, unless all of them are grey."""
    position, direction = rooms.place_agent_first(dice)
    things = any_things(dice, rooms, others)
    if grey:
        kind = tiles.kind_of(things.tile.astype(jnp.int32))
        things = things._replace(tile=tiles.tile_of(kind, _GREY).astype(tiles.Cell))
    things = before(_RED_BALL, 0, things)
    grid, fit = put(dice, rooms, rooms.empty(), rooms.far_from(position), things)
    mission = Mission(Verb.GO_TO, describe(grid, tiles.BALL, _RED), NOTHING)
    return begin(grid, position, direction, mission), fit & all_reachable(rooms, grid, position)


def _one_of(
    dice: Dice, rooms: Rooms, verb: Verb, number: int, doors_open: bool = False
) -> tuple[Draw, jax.Array]:
    """Something is to be done with one of so many things, or a door. Closed doors join rooms."""
    position, direction = rooms.place_agent_first(dice)
    grid, doors = add_doors(dice, rooms, rooms.empty())
    things = any_things(dice, rooms, number)
    grid, fit = put(dice, rooms, grid, rooms.far_from(position), things)
    if verb == Verb.OPEN:
        target = grid[doors[dice.choose(doors < grid.shape[0])]]
    else:
        target = things.tile[0]  # All are alike in how they were drawn.
    mission = Mission(verb, describe_like(grid, target), NOTHING)
    reachable = all_reachable(rooms, grid, position)
    if doors_open:
        is_door = tiles.kind_of(grid.astype(jnp.int32)) == tiles.CLOSED
        opened = tiles.tile_of(tiles.OPEN, tiles.color_of(grid.astype(jnp.int32)))
        grid = jnp.where(is_door, opened.astype(tiles.Cell), grid)
    return begin(grid, position, direction, mission), fit & reachable


def _put_next(dice: Dice, rooms: Rooms, number: int) -> tuple[Draw, jax.Array]:
    """One of so many unlike things is to be put next to another that it is not next to already."""
    position, direction = rooms.place_agent_first(dice)
    tile = tiles.FIRST_THING + jnp.argsort(dice.shuffle(NUM_THINGS))[:number]
    room, exists = jnp.zeros(number, jnp.int32), jnp.ones(number, bool)
    things = Things(tile.astype(tiles.Cell), room, exists)
    grid, fit = put(dice, rooms, rooms.empty(), rooms.far_from(position), things)
    # Any two would do: all are alike in how they were drawn.
    first, second = (describe_like(grid, tile) for tile in things.tile[:2])
    draw = begin(grid, position, direction, Mission(Verb.PUT_NEXT_TO, first, second))
    valid = fit & all_reachable(rooms, grid, position) & ~are_next(rooms, draw.cells)
    return draw, valid


def _pick_up_by_side(dice: Dice, rooms: Rooms, number: int) -> tuple[Draw, jax.Array]:
    """One of so many things is to be picked up, and half of the missions name its side."""
    things = any_things(dice, rooms, number)
    grid, fit = put(dice, rooms, rooms.empty(), rooms.far_from(rooms.middle), things)
    position, direction = place_agent(dice, rooms, grid, rooms.room_of >= 0)

    # Descriptions are drawn until one means something, half of them with a side.
    kind, color, side = (
        each.ravel() for each in np.indices((missions.DOOR, missions.ANY_COLOR + 1, len(Side)))
    )
    on_side = functools.partial(_on_side, rooms, position, direction)
    tile = grid.astype(jnp.int32)
    meant = missions.matches(tile, kind[:, None], color[:, None]) & on_side(side)
    count = meant.sum(axis=1)
    weight = np.where(side == Side.ANY, len(Side) - 1, 1)
    index = dice.choose_by_weight(jnp.where(count > 0, weight, 0))
    kind, color, side = (jnp.asarray(column)[index] for column in (kind, color, side))
    mission = Mission(Verb.PICK_UP, Description(kind, color, side, count[index] > 1), NOTHING)
    draw = begin(grid, position, direction, mission, on_side)
    return draw, fit & all_reachable(rooms, grid, position)


def _on_side(rooms: Rooms, position: jax.Array, direction: jax.Array, side: jax.Array) -> jax.Array:
    """The tiles on a side of the agent: bool[..., C]."""
    x, y = rooms.x - position % rooms.width, rooms.y - position // rooms.width
    forward_x, forward_y = jnp.asarray(FORWARD_X)[direction], jnp.asarray(FORWARD_Y)[direction]
    ahead, right = forward_x * x + forward_y * y, forward_x * y - forward_y * x
    everywhere = jnp.ones_like(ahead, bool)
    return jnp.stack([everywhere, right < 0, right > 0, ahead > 0, ahead < 0])[side]
