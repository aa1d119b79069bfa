"""What a text environment adds to a gymnax environment: admissible actions, and its states as text.

The dynamics of an environment are arrays and run on the device, under jit and vmap, through the
interface of gymnax 1.0. A language model needs words instead. Text is made on the host from the
observation alone, so whoever holds an observation, of whatever age, can have its text; and an
environment whose observations can be listed can be put into words once, before training.
"""

from typing import Any, Generic, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces
from typing_extensions import TypeVar

from llmprior_jax.examples import Example
from llmprior_jax.types import TextState

State = TypeVar("State", bound=environment.EnvState, default=Any)
Params = TypeVar("Params", bound=environment.EnvParams, default=Any)


class Thing(NamedTuple):
    """Something that stands on a tile: its name, such as "cook" or "chopped tomato", and where.

    Examples:
      >>> envs.Thing("cook", row=1, column=2)
      Thing(name='cook', row=1, column=2)
    """

    name: str
    row: int
    column: int


class Scene(NamedTuple):
    """What a picture of a state shows: a room of tiles, and things in it, later ones in front.

    Examples:
      >>> scene = envs.Scene(tiles=(("floor", "wall"),), things=(envs.Thing("cook", 0, 0),))
      >>> scene.tiles[0][1]
      'wall'

    Attributes:
      tiles: the kind of each tile, such as "floor" or "hole", as rows of columns.
      things: what stands on them.
    """

    tiles: tuple[tuple[str, ...], ...]
    things: tuple[Thing, ...]


class TextEnvironment(environment.Environment[State, Params], Generic[State, Params]):
    """A gymnax environment whose observations can be put into words.

    `reset` and `step` are gymnax's: `step` resets an environment that has ended and returns
    `(observation, state, reward, terminated, truncated, info)`, where `truncated` is true at a time
    limit only and `info["final_observation"]` is the observation before the reset. In addition
    every `info` has `"success"`, bool[]: the task was solved by this step.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> observation, state = env.reset(jax.random.key(0), params)
      >>> observation, state, reward, terminated, truncated, info = env.step(
      ...     jax.random.key(1), state, 1, params
      ... )
      >>> env.text_state(observation).actions
      ('go left', 'go down', 'go right', 'go up')
      >>> env.action_mask(state, params).shape, env.list_observations().shape
      ((4,), (16,))
    """

    def action_space(self, params: Params | None = None) -> spaces.Discrete:
        """The actions, of which a state may admit some only; see `action_mask`."""
        del params
        return spaces.Discrete(self.num_actions)

    def action_mask(self, state: State, params: Params) -> jax.Array:
        """Returns which actions are admissible: bool[A], here all of them.

        Admissible actions come first: slots `0 .. n-1` are true and the rest do not exist.
        """
        del state, params
        return jnp.ones(self.num_actions, dtype=bool)

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts one observation into words (host side, unbatched).

        Args:
          observation: one observation of this environment, as `reset` or `step` returns it.

        Returns:
          The task, what is observed, and the text of each admissible action.

        Raises:
          ValueError: if `observation` is not one observation of this environment.
        """
        raise NotImplementedError

    def examples(self) -> tuple[Example, ...]:
        """Episodes of other tasks or places, to show a language model how to act (host side).

        Returns:
          What the prompt "few_shot" shows where nobody names other examples; none, as here.
        """
        return ()

    def scene(self, state: State) -> Scene | None:
        """Says what a picture of a state shows, hidden things too (host side, unbatched).

        Returns:
          The scene, or None where there is nothing to draw, as here.
        """
        del state
        return None

    def list_observations(self) -> np.ndarray | None:
        """Lists every observation that can occur (host side).

        Returns:
          An array [N, ...] without duplicates, in an order that is always the same and with the
          observation after a reset first, or None if they cannot be listed.
        """
        return None
