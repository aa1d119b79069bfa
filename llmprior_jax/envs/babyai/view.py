"""What the agent sees: the 7 by 7 tiles before it, less what walls and doors hide.

Sight spreads row by row from the agent's own row to the farthest: a tile that is seen and can be
seen through shows the tiles beside it and the three before it. Rows are bit sets of 7, so all of
that is a few shifts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.babyai import tiles

SIDE = 7
"""Rows and columns of the view. The agent is in the middle of the last row, the nearest."""

AGENT = SIDE * (SIDE - 1) + SIDE // 2
"""Index of the agent's own tile in the view; it shows what the agent carries."""

# The step forward in each direction: right, down, left, up.
FORWARD_X = np.array([1, 0, -1, 0], np.int32)
FORWARD_Y = np.array([0, 1, 0, -1], np.int32)
# For each direction, where the tiles of the view are, seen from the agent: i32[4, 49].
_AHEAD = np.repeat(np.arange(SIDE - 1, -1, -1), SIDE)
_RIGHT = np.tile(np.arange(SIDE) - SIDE // 2, SIDE)
_VIEW_X = np.outer(FORWARD_X, _AHEAD) - np.outer(FORWARD_Y, _RIGHT)
_VIEW_Y = np.outer(FORWARD_Y, _AHEAD) + np.outer(FORWARD_X, _RIGHT)


def see(
    cells: jax.Array, width: int, position: jax.Array, direction: jax.Array, carried: jax.Array
) -> jax.Array:
    """Returns the tiles that are seen, `UNSEEN` where nothing is: i32[49], the farthest row first.

    Args:
      cells: u16[C], the grid, row by row. Its outermost tiles are walls.
      width: tiles in a row of it.
      position: i32[], where the agent is.
      direction: i32[], where it looks.
      carried: u16[], the cell that it carries.
    """
    # Beyond the outermost wall there is nothing but wall, so a look past it may end at it.
    x = jnp.clip(position % width + jnp.asarray(_VIEW_X)[direction], 0, width - 1)
    height = cells.shape[0] // width
    y = jnp.clip(position // width + jnp.asarray(_VIEW_Y)[direction], 0, height - 1)
    tile = (cells[y * width + x] & tiles.TILE).astype(jnp.int32)
    clear = (tile != tiles.WALL) & (tile < tiles.FIRST_SHUT)
    seen = _spread(clear.reshape(SIDE, SIDE)).ravel()
    return jnp.where(seen, tile, tiles.UNSEEN).at[AGENT].set(carried & tiles.TILE)


def _spread(clear: jax.Array) -> jax.Array:
    """Which tiles of the view are seen, where some are clear: bool[7, 7]."""
    columns = jnp.arange(SIDE, dtype=jnp.uint32)
    all_columns = jnp.uint32((1 << SIDE) - 1)
    # Going right, nothing spreads from the last column; coming back, nothing from the first.
    starts_right, starts_left = all_columns >> 1, all_columns - 1

    def spread(seen: jax.Array, through: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What is seen of the next row because of what is seen of this one."""
        for _ in range(SIDE - 1):
            seen |= (seen & through & starts_right) << 1
        rightward = seen & through & starts_right
        for _ in range(SIDE - 1):
            seen |= (seen & through & starts_left) >> 1
        leftward = seen & through & starts_left
        return rightward | rightward << 1 | leftward | leftward >> 1, seen

    through = (clear.astype(jnp.uint32) << columns).sum(axis=1, dtype=jnp.uint32)
    # A loop, since XLA would work out an unrolled one again for every tile.
    _, seen = jax.lax.scan(spread, jnp.uint32(1 << SIDE // 2), through, reverse=True)
    return (seen[:, None] >> columns & 1).astype(bool)
