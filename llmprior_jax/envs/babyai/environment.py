"""BabyAI: an agent in rooms of keys, balls, boxes and doors, told what to do in a sentence.

BabyAI (Chevalier-Boisvert et al., ICLR 2019, arXiv 1810.08272) runs on minigrid, which makes some
thousands of steps a second. Its dynamics are followed to the letter: what a step does, what is
seen, when a mission is done, what it is worth and when time is up. Its words are not: what is seen
is told as in GLAM's BabyAI-Text (Carta et al., ICML 2023, arXiv 2302.02662), in words of our own.

Nothing is kept of the things but the grid. A mission asks only whether what it means is in front,
is carried, or is next to something, and the cells themselves say what is meant; see `tiles`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from llmprior_jax.envs import examples
from llmprior_jax.envs.babyai import missions, text, tiles
from llmprior_jax.envs.babyai.levels import mazes, single_rooms
from llmprior_jax.envs.babyai.mixed import mixed_levels
from llmprior_jax.envs.babyai.on_demand import on_demand
from llmprior_jax.envs.babyai.view import SIDE, see
from llmprior_jax.envs.base import Scene, TextEnvironment, Thing
from llmprior_jax.examples import Example
from llmprior_jax.registry import unknown
from llmprior_jax.types import TextState

LEVELS = single_rooms() | mazes() | mixed_levels()
"""The levels, by their names."""

_LEFT, _RIGHT, _FORWARD, _PICK_UP, _DROP, _TOGGLE = range(len(text.ACTIONS))


@struct.dataclass
class EnvState(environment.EnvState):
    """An episode in a grid of C tiles.

    Attributes:
      time: i32[], steps since the episode began.
      cells: u16[C], what is on each tile; see `tiles`.
      position: i32[], the tile that the agent is on.
      direction: i32[], where it looks: right, down, left or up.
      carried: u16[], the cell of what it carries, or an empty one.
      mission: i32[missions.SIZE], what is to be done.
      half_done: bool[], whether the first half of a mission with an order is done.
    """

    # gymnax says int, which holds only before the first step.
    time: jax.Array  # pyright: ignore[reportIncompatibleVariableOverride]
    cells: jax.Array
    position: jax.Array
    direction: jax.Array
    carried: jax.Array
    mission: jax.Array
    half_done: jax.Array


@struct.dataclass
class EnvParams(environment.EnvParams):
    """The time limit.

    Attributes:
      max_steps_in_episode: the time limit in steps, by default that of the level's longest
        missions. A mission for which BabyAI gives less time keeps its own limit.
    """

    max_steps_in_episode: int = 64


class BabyAI(TextEnvironment[EnvState, EnvParams]):
    """A level of BabyAI.

    The actions are turn left, turn right, go forward, pick up, drop and toggle, which opens and
    closes doors, unlocks one whose key is carried, and does away with a box.

    Observations are i32[58]: the 7 by 7 tiles before the agent as `tiles` numbers them, the
    farthest row first, with what the agent carries on its own tile; then the mission as `missions`
    numbers it. Where the agent is and which way it looks cannot be seen.

    Success terminates the episode and is worth 1 - 0.9 * steps / time limit. Everything else is
    worth 0. The time limit, which truncates it, is that of BabyAI: 64 steps per room and thing to
    walk to.

    Args:
      level: one of `LEVELS`, such as "GoToLocal".

    Raises:
      ValueError: there is no such level.
    """

    def __init__(self, level: str):
        if level not in LEVELS:
            raise ValueError(unknown("level of BabyAI", level, LEVELS))
        self._level_name, self._level = level, LEVELS[level]
        self._rooms = self._level.rooms
        self._begin = on_demand(self._attempt)

    @property
    def default_params(self) -> EnvParams:
        """BabyAI's time limit."""
        return EnvParams(max_steps_in_episode=max(self._level.limits))

    @property
    def name(self) -> str:
        """The name `envs.make` knows this environment by."""
        return f"BabyAI-{self._level_name}"

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return len(text.ACTIONS)

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Draws rooms, things and a mission."""
        del params
        shapes = jax.eval_shape(self._attempt, key, jnp.int32(0))[0]
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return self._begin(key, jnp.bool_(True), blank)

    def begin_where_ended(
        self,
        key: jax.Array,
        ended: jax.Array,
        observation: jax.Array,
        state: EnvState,
        params: EnvParams,
    ) -> tuple[jax.Array, EnvState]:
        """Draws only where an episode ended; see `TextEnvironment.begin_where_ended`."""
        del params
        return self._begin(key, ended, (observation, state))

    def step_env(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array,
        params: EnvParams,
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Takes one step; see the class for the actions."""
        action = jnp.asarray(action, jnp.int32)
        turn = jnp.where(action == _RIGHT, 1, 0) - jnp.where(action == _LEFT, 1, 0)
        direction = (state.direction + turn) % 4

        # What is in front before the step is all that it can change.
        front = state.position + jnp.asarray(self._rooms.steps)[state.direction]
        cell, carried = state.cells[front], state.carried
        tile, held = (each & tiles.TILE for each in (cell, carried))
        kind, color = tiles.kind_of(tile.astype(jnp.int32)), tiles.color_of(tile)
        walks = (action == _FORWARD) & ((tile == tiles.EMPTY) | (kind == tiles.OPEN))
        picks_up = (action == _PICK_UP) & _can_be_carried(kind) & (held == tiles.EMPTY)
        drops = (action == _DROP) & (tile == tiles.EMPTY) & (held != tiles.EMPTY)
        toggles = action == _TOGGLE
        unlocks = (kind == tiles.LOCKED) & (held == tiles.tile_of(tiles.KEY, color))
        becomes = jnp.where(kind == tiles.OPEN, tiles.tile_of(tiles.CLOSED, color), tile)
        opens = (kind == tiles.CLOSED) | unlocks
        becomes = jnp.where(opens, tiles.tile_of(tiles.OPEN, color), becomes)

        # The bits of what is meant go with a thing; those of where it was known to be stay.
        known, thing = cell & _KNOWN, cell & ~_KNOWN
        thing = jnp.where(toggles, thing & ~_TILE | becomes.astype(tiles.Cell), thing)
        gone = picks_up | (toggles & (kind == tiles.BOX))
        thing = jnp.where(gone, _EMPTY, jnp.where(drops, carried & ~_KNOWN, thing))
        tile_index = jnp.arange(state.cells.shape[0])
        cells = jnp.where(tile_index == front, known | thing, state.cells)
        # When anything is to be dropped, it is seen anew where what is meant is.
        anew = cells & ~_KNOWN | (cells & _MEANT) << _KNOWN_ABOVE_MEANT
        cells = jnp.where(action == _DROP, anew, cells)

        position = jnp.where(walks, front, state.position)
        now_front = position + jnp.asarray(self._rooms.steps)[direction]
        event = missions.Event(
            front=cells[now_front],
            picked_up=jnp.where(picks_up, cell, 0),
            toggled=toggles,
            put_down=jnp.where(drops, carried, 0),
            beside=cells[front + jnp.asarray(self._rooms.steps)],
        )
        success, half_done = missions.verify(state.mission[0], state.half_done, event)
        carried = jnp.where(picks_up, cell & ~_KNOWN, jnp.where(drops, _EMPTY, carried))
        state = dataclasses.replace(
            state,
            time=state.time + 1,
            cells=cells,
            position=position,
            direction=direction,
            carried=carried,
            half_done=half_done,
        )
        worth = 1.0 - 0.9 * state.time / self._limit(state, params)
        reward = jnp.where(success, worth, 0.0)
        return (
            self.observe(key, state, action, params),
            state,
            reward,
            success,
            {"success": success},
        )

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether time is up for this mission."""
        return state.time >= self._limit(state, params)

    def observe(
        self,
        key: jax.Array,
        state: EnvState,
        action: int | float | jax.Array | None,
        params: EnvParams,
    ) -> jax.Array:
        """Returns what the agent sees, and its mission."""
        del key, action, params
        return self._observe(state)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Tiles, then the numbers of the mission."""
        del params
        high = np.array([*[tiles.NUM_TILES] * SIDE**2, *missions.LIMITS]) - 1
        return spaces.Box(
            jnp.zeros(high.shape, jnp.int32), jnp.asarray(high), high.shape, jnp.int32
        )

    def state_space(self, params: EnvParams | None = None) -> spaces.Dict:
        """The fields of `EnvState`."""
        limit = (params or self.default_params).max_steps_in_episode
        size = self._rooms.walls.size
        high = jnp.asarray(missions.LIMITS) - 1
        return spaces.Dict(
            {
                "time": spaces.Discrete(limit + 1),
                "cells": spaces.Box(0, tiles.CELL, (size,), jnp.uint16),
                "position": spaces.Discrete(size),
                "direction": spaces.Discrete(4),
                "carried": spaces.Box(0, tiles.CELL, (), jnp.uint16),
                "mission": spaces.Box(jnp.zeros_like(high), high, high.shape, jnp.int32),
                "half_done": spaces.Box(False, True, (), jnp.bool_),
            }
        )

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts an observation into words; see `TextEnvironment.text_state`."""
        array, size = np.asarray(observation), SIDE**2 + missions.SIZE
        if array.shape != (size,) or array.dtype.kind not in "iu":
            raise ValueError(
                f"{self.name} observes {size} integers; got {array.dtype}{list(array.shape)}."
            )
        try:
            return self._tell(array)
        except ValueError as error:
            raise ValueError(f"This is no observation of {self.name}: {error}.") from error

    def examples(self) -> tuple[Example, ...]:
        """An episode with a mission that this level does not have."""
        return examples.for_babyai(self._level_name)

    def scene(self, state: EnvState) -> Scene:
        """All rooms, their things, and the agent with what it carries."""
        width, tile = self._rooms.width, np.asarray(state.cells) & tiles.TILE
        grid = tile.reshape(-1, width)
        things = [
            Thing(tiles.name_of(grid[row, column]), row, column)
            for row, column in np.argwhere(grid >= tiles.FIRST_THING).tolist()
        ]
        row, column = divmod(int(state.position), width)
        facing = ("right", "down", "left", "up")[int(state.direction)]
        things.append(Thing(f"{facing} agent", row, column))
        if (carried := int(state.carried) & tiles.TILE) != tiles.EMPTY:
            things.append(Thing(tiles.name_of(carried), row, column))
        kinds = np.where(grid == tiles.WALL, "wall", "floor")
        return Scene(tuple(tuple(map(str, row)) for row in kinds), tuple(things))

    def _tell(self, array: np.ndarray) -> TextState:
        return TextState(
            task=text.task(array[SIDE**2 :]),
            observation=text.observation(array[: SIDE**2]),
            actions=text.ACTIONS,
        )

    def _attempt(
        self, key: jax.Array, number: jax.Array
    ) -> tuple[tuple[jax.Array, EnvState], jax.Array]:
        """Tries to begin an episode; see `on_demand`."""
        draw, valid = self._level.draw(key, number)
        state = EnvState(
            time=jnp.int32(0),
            cells=draw.cells,
            position=draw.position,
            direction=draw.direction,
            carried=_EMPTY,
            mission=draw.mission,
            half_done=jnp.bool_(False),
        )
        return (self._observe(state), state), valid

    def _observe(self, state: EnvState) -> jax.Array:
        width = self._rooms.width
        seen = see(state.cells, width, state.position, state.direction, state.carried)
        return jnp.concatenate([seen, state.mission])

    def _limit(self, state: EnvState, params: EnvParams) -> jax.Array:
        own = jnp.asarray(self._level.limits)[state.mission[0]]
        return jnp.minimum(own, params.max_steps_in_episode)


_TILE, _EMPTY = tiles.Cell(tiles.TILE), jnp.uint16(tiles.EMPTY)
_MEANT, _KNOWN = tiles.Cell(sum(tiles.MEANT)), tiles.Cell(sum(tiles.KNOWN))
_KNOWN_ABOVE_MEANT = tiles.Cell(len(tiles.MEANT))


def _can_be_carried(kind: jax.Array) -> jax.Array:
    return (kind >= 0) & (kind < tiles.OPEN)
