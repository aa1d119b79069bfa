"""What a text environment adds to a gymnax environment: admissible actions, and its states as text.

The dynamics of an environment are arrays and run on the device, under jit and vmap, through the
interface of gymnax 1.0. A language model needs words instead. Text is made on the host from the
observation alone, so whoever holds an observation, of whatever age, can have its text; and an
environment whose observations can be listed can be put into words once, before training.
"""

import functools
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
    """What a picture of a state shows: tiles and the things on them, later ones in front.

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

    @functools.partial(jax.jit, static_argnames=("self",))
    def step(
        self,
        key: jax.Array,
        state: State,
        action: int | float | jax.Array,
        params: Any = None,
    ) -> tuple[Any, State, jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        """Takes one step, and begins a new episode where one ended; as in gymnax."""
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        reached, state, reward, terminated, info = self.step_env(key_step, state, action, params)
        truncated = self.is_truncated(state, params)
        ended = jnp.logical_or(terminated, truncated)
        observation, state = self.begin_where_ended(key_reset, ended, reached, state, params)
        info |= {"terminated": terminated, "truncated": truncated, "final_observation": reached}
        return observation, state, reward, terminated, truncated, info

    def begin_where_ended(
        self, key: jax.Array, ended: jax.Array, observation: Any, state: State, params: Params
    ) -> tuple[Any, State]:
        """Begins a new episode if the last one ended.

        Under `vmap` this resets every environment and keeps few of the resets. Environments that
        are costly to reset have another way.

        Args:
          key: random key of the reset.
          ended: bool[], whether the episode ended.
          observation: its last observation.
          state: its last state.
          params: the parameters.

        Returns:
          Observation and state to go on from.
        """
        reset = self.reset_env(key, params)
        return jax.tree.map(functools.partial(jax.lax.select, ended), reset, (observation, state))

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
