"""Frozen Lake in words: gymnax's dynamics, with what lies around the agent as text.

The lakes, rewards, time limits and slips are those of gymnax's `FrozenLake`, which follows
Gymnasium. What is added here is the text: the tile under the agent, the four tiles beside it, and
how far away the goal is. That much decides a good step, and a language model can tell which.
"""

from typing import Any

import jax
import numpy as np
from gymnax.environments.misc import frozen_lake

from llmprior_jax.envs import examples
from llmprior_jax.envs.base import Scene, TextEnvironment, Thing
from llmprior_jax.examples import Example
from llmprior_jax.types import TextState

# In the order of gymnax's actions, with the move in rows and columns that each stands for.
_MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
_TILES = {
    frozen_lake.START: "ice",
    frozen_lake.FROZEN: "ice",
    frozen_lake.HOLE: "a hole",
    frozen_lake.GOAL: "the goal",
}


class FrozenLake(frozen_lake.FrozenLake, TextEnvironment):
    """Frozen Lake with text.

    Observations are i32[]: row * columns + column. The actions are left, down, right, up.

    Args:
      map_name: "4x4" or "8x8".
      is_slippery: whether a step may go to either side of where it was meant to go. True is the
        default of Gymnasium and gymnax.
      success_rate: how often a step on slippery ice goes where it was meant to go.
      reward_schedule: the rewards for reaching the goal, a hole, and any other tile.
    """

    def __init__(
        self,
        map_name: str = "4x4",
        is_slippery: bool = True,
        success_rate: float = 1.0 / 3.0,
        reward_schedule: tuple[float, float, float] = (1.0, 0.0, 0.0),
    ):
        super().__init__(
            map_name=map_name,
            is_slippery=is_slippery,
            success_rate=success_rate,
            reward_schedule=reward_schedule,
        )
        self._map_name = map_name
        self._tiles = np.asarray(self.desc)

    @property
    def name(self) -> str:
        """The name `envs.make` knows this environment by."""
        return f"FrozenLake-{self._map_name}"

    def step_env(
        self,
        key: jax.Array,
        state: frozen_lake.EnvState,
        action: int | float | jax.Array,
        params: frozen_lake.EnvParams,
    ) -> tuple[jax.Array, frozen_lake.EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Takes one step, as gymnax does, and tells whether it reached the goal."""
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        success = self.desc.reshape(-1)[state.position] == frozen_lake.GOAL
        return observation, state, reward, terminated, {**info, "success": success}

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts a position into words; see `TextEnvironment.text_state`."""
        position = np.asarray(observation)
        if position.shape != () or not 0 <= position < self.n_states:
            raise ValueError(
                f"{self.name} observes a position, one integer in 0..{self.n_states - 1}; got "
                f"{np.array2string(position, threshold=8)} of shape {position.shape}."
            )
        row, column = divmod(int(position), self.ncol)
        return TextState(
            task="Cross the frozen lake to the goal and do not fall into a hole.",
            observation=self._describe(row, column),
            actions=tuple(f"go {direction}" for direction in _MOVES),
        )

    def examples(self) -> tuple[Example, ...]:
        """A walk over another lake: three by three, not slippery, its goal in another corner."""
        return examples.read("frozen_lake")

    def scene(self, state: frozen_lake.EnvState) -> Scene:
        """The lake, and who crosses it."""
        names = {frozen_lake.START: "start", frozen_lake.FROZEN: "ice"}
        names |= {frozen_lake.HOLE: "hole", frozen_lake.GOAL: "goal"}
        row, column = divmod(int(state.position), self.ncol)
        return Scene(
            tiles=tuple(tuple(names[tile] for tile in row) for row in self._tiles.tolist()),
            things=(Thing("agent", row, column),),
        )

    def list_observations(self) -> np.ndarray:
        """Lists every position of the lake, i32[rows * columns], the start first."""
        return np.arange(self.n_states, dtype=np.int32)

    def _describe(self, row: int, column: int) -> str:
        tile = self._tiles[row, column]
        if tile == frozen_lake.GOAL:
            return "You are at the goal."
        if tile == frozen_lake.HOLE:
            return "You fell into a hole."
        around = [
            f"{direction} is {self._tile_name(row + down, column + right)}"
            for direction, (down, right) in _MOVES.items()
        ]
        goal_row, goal_column = divmod(int(np.argmax(self._tiles == frozen_lake.GOAL)), self.ncol)
        to_goal = [
            _count_steps(distance, forward if distance > 0 else backward)
            for distance, forward, backward in (
                (goal_row - row, "down", "up"),
                (goal_column - column, "right", "left"),
            )
            if distance
        ]
        return (
            f"You stand on ice. {', '.join(around).capitalize()}. "
            f"The goal is {' and '.join(to_goal)}."
        )

    def _tile_name(self, row: int, column: int) -> str:
        if 0 <= row < self.nrow and 0 <= column < self.ncol:
            return _TILES[int(self._tiles[row, column])]
        return "the edge"


def _count_steps(distance: int, direction: str) -> str:
    steps = abs(distance)
    return f"{steps} step{'s' if steps > 1 else ''} {direction}"
