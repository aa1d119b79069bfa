"""Rooms in rows and columns: their walls and doors, and drawing what is put into them.

Where minigrid tries tile after tile until one will do, here the tiles are shuffled once and the
first that will do is taken, which has the same distribution. The same goes for doors: minigrid
adds them at random until every room can be reached, and here the walls are shuffled.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.babyai import tiles
from llmprior_jax.envs.babyai.dice import Dice, first
from llmprior_jax.envs.babyai.tiles import Array
from llmprior_jax.envs.babyai.view import FORWARD_X, FORWARD_Y


class Rooms:
    """So many square rooms side by side, of which neighbors share a wall.

    Args:
      size: tiles along the side of a room, its walls included.
      columns: rooms in a row.
      rows: rows of rooms.

    Attributes:
      width: tiles in a row of the grid.
      height: rows of the grid.
      x: i32[C], the column of each tile.
      y: i32[C], its row.
      steps: i32[4], how far from a tile the next one is, to the right, below, to the left, above.
      walls: bool[C], the tiles that are walls as long as there are no doors.
      room_of: i32[C], the room that a tile lies in, -1 for walls.
      pairs: i32[W, 2], the rooms on both sides of each wall between two.
      doorways: i32[W, size - 2], the tiles of such a wall where its door may be.
    """

    def __init__(self, size: int, columns: int = 1, rows: int = 1):
        step = size - 1
        self.size, self.count = size, columns * rows
        self.width, self.height = columns * step + 1, rows * step + 1
        y, x = np.indices((self.height, self.width))
        self.x, self.y = x.ravel().astype(np.int32), y.ravel().astype(np.int32)
        self.steps = FORWARD_Y * self.width + FORWARD_X
        self.walls = (self.x % step == 0) | (self.y % step == 0)
        self.room_of = np.where(self.walls, -1, self.y // step * columns + self.x // step)
        along = np.arange(1, step)
        pairs, doorways = [], []
        for row in range(rows):
            for column in range(columns):
                room = row * columns + column
                if column < columns - 1:
                    pairs.append((room, room + 1))
                    doorways.append((row * step + along) * self.width + (column + 1) * step)
                if row < rows - 1:
                    pairs.append((room, room + columns))
                    doorways.append((row + 1) * step * self.width + column * step + along)
        self.pairs = np.array(pairs, np.int32).reshape(-1, 2)
        self.doorways = np.array(doorways, np.int32).reshape(-1, step - 1)

    @property
    def middle(self) -> int:
        """The tile in the middle of the middle room, or just after it."""
        step, half = self.size - 1, self.size // 2
        columns, rows = (self.width - 1) // step, (self.height - 1) // step
        return (rows // 2 * step + half) * self.width + columns // 2 * step + half

    def empty(self) -> jax.Array:
        """The tiles of rooms without doors: u16[C]."""
        return jnp.where(self.walls, tiles.WALL, tiles.EMPTY).astype(tiles.Cell)

    def far_from(self, position: jax.Array | int) -> jax.Array:
        """The tiles that are not this one and not beside it: bool[C]."""
        x, y = position % self.width, position // self.width
        return jnp.abs(self.x - x) + jnp.abs(self.y - y) > 1

    def place_agent_first(self, dice: Dice, rooms: int | None = None) -> tuple[Array, Array]:
        """Puts the agent anywhere in empty rooms: its position and direction, i32[] each.

        Args:
          dice: random decisions.
          rooms: in how many of the rooms, the first ones; in all by default.
        """
        inside = (self.room_of >= 0) & (self.room_of < (rooms or self.count))
        floor = np.flatnonzero(inside).astype(np.int32)
        return jnp.asarray(floor)[dice.roll(floor.size, 1)[0]], dice.roll(4, 1)[0]


class Things(NamedTuple):
    """N things to be put into rooms, one after the other.

    Attributes:
      tile: u16[N], what each is.
      room: i32[N], the room that each is for.
      exists: bool[N], whether there is such a thing at all.
    """

    tile: jax.Array
    room: jax.Array
    exists: jax.Array


def add_doors(dice: Dice, rooms: Rooms, grid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Adds closed doors of random colors to random walls until every room can be reached.

    Args:
      dice: random decisions.
      rooms: the rooms.
      grid: u16[C], their tiles.

    Returns:
      The tiles, and the tile of each wall's door: i32[W], C for a wall without one.
    """
    num_walls = len(rooms.pairs)
    if num_walls == 0:
        return grid, jnp.zeros(0, jnp.int32)

    def add(group: jax.Array, wall: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Rooms that can be reached from one another are of one group.
        one, other = group[jnp.asarray(rooms.pairs)[wall]]
        wanted = (group != group[0]).any()
        return jnp.where(wanted & (group == other), one, group), wanted

    order = jnp.argsort(dice.shuffle(num_walls))
    _, has_door = jax.lax.scan(add, jnp.arange(rooms.count), order)
    place = dice.roll(rooms.doorways.shape[1], num_walls)
    doors = jnp.asarray(rooms.doorways)[jnp.arange(num_walls), place]
    doors = doors.at[order].set(jnp.where(has_door, doors[order], grid.shape[0]))
    tile = tiles.tile_of(tiles.CLOSED, dice.roll(len(tiles.COLORS), num_walls)).astype(tiles.Cell)
    return grid.at[doors].set(tile, mode="drop"), doors


def put(
    dice: Dice, rooms: Rooms, grid: jax.Array, allowed: Array, things: Things
) -> tuple[jax.Array, jax.Array]:
    """Puts things on random empty tiles of their rooms.

    Args:
      dice: random decisions.
      rooms: the rooms.
      grid: u16[C], their tiles.
      allowed: bool[C], the tiles that things may be put on.
      things: the things.

    Returns:
      The tiles, and whether there was room for all things: bool[].
    """
    rank = dice.shuffle(grid.shape[0])

    def put_one(grid: jax.Array, thing: Things) -> tuple[jax.Array, jax.Array]:
        free = allowed & (grid == tiles.EMPTY) & (rooms.room_of == thing.room)
        tile = first(rank, free)
        fits = free.any() | ~thing.exists
        index = jnp.where(thing.exists & fits, tile, grid.shape[0])
        return grid.at[index].set(thing.tile, mode="drop"), fits

    grid, fit = jax.lax.scan(put_one, grid, things)
    return grid, fit.all()


def place_agent(
    dice: Dice, rooms: Rooms, grid: jax.Array, allowed: Array
) -> tuple[jax.Array, jax.Array]:
    """Puts the agent on an empty tile where it looks at an empty tile or a wall.

    Args:
      dice: random decisions.
      rooms: the rooms.
      grid: u16[C], their tiles.
      allowed: bool[C], the tiles that it may be put on.

    Returns:
      Position and direction: i32[] each.
    """
    front = jnp.stack([jnp.roll(grid, -step) for step in rooms.steps.tolist()])
    fits = allowed & (grid == tiles.EMPTY) & (front <= tiles.WALL)
    direction, position = jnp.divmod(dice.choose(fits.ravel()), grid.shape[0])
    return position, direction


def all_reachable(rooms: Rooms, grid: jax.Array, position: jax.Array) -> jax.Array:
    """Whether the agent can get beside everything without moving any of it: bool[]."""
    kind = tiles.kind_of(grid.astype(jnp.int32))
    passable = (grid == tiles.EMPTY) | (kind >= tiles.OPEN)
    columns = jnp.arange(rooms.width, dtype=jnp.uint32)

    def pack(tiles: jax.Array) -> jax.Array:
        """Rows as bit sets: u32[height]."""
        by_row = tiles.reshape(rooms.height, rooms.width).astype(jnp.uint32)
        return (by_row << columns).sum(axis=1, dtype=jnp.uint32)

    def grow(reached: jax.Array) -> jax.Array:
        """These tiles and those beside them. The outermost tiles are walls, so nothing wraps."""
        vertical = jnp.roll(reached, 1) | jnp.roll(reached, -1)
        return reached | reached << 1 | reached >> 1 | vertical

    def spread(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached, _ = carry
        return grow(reached) & floor, reached

    floor = pack(passable)
    start = pack(jnp.arange(grid.shape[0]) == position)
    reached, _ = jax.lax.while_loop(
        lambda carry: (carry[0] != carry[1]).any(), spread, (start, jnp.zeros_like(start))
    )
    return (pack(kind >= 0) & ~grow(reached) == 0).all()
