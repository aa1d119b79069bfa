"""A wrapper that adds the last observations and actions to what an environment observes.

A text often tells only what is new, so what was seen before is worth a place in the prompt. The
wrapper keeps it in the observation array, so everything that reads observations, such as the text
of a state and the table of its prior, has it without knowing that it is there.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from llmprior_jax.envs.base import Scene, TextEnvironment
from llmprior_jax.examples import Example
from llmprior_jax.ranges import WIDTH
from llmprior_jax.types import TextState

_NO_ACTION = -1


@struct.dataclass
class HistoryState(environment.EnvState):
    """The state of an environment, and what led to it.

    Attributes:
      time: the time of the environment's own state.
      env_state: the environment's own state.
      observation: i32[H + 1, n], the last observations, flattened, the present one last.
      action: i32[H], the actions between them, -1 before the episode began.
    """

    # gymnax says int, which holds only before the first step.
    time: jax.Array  # pyright: ignore[reportIncompatibleVariableOverride]
    env_state: environment.EnvState
    observation: jax.Array
    action: jax.Array


class HistoryWrapper(TextEnvironment[HistoryState, environment.EnvParams]):
    """An environment whose observations also contain the last (observation, action) pairs.

    Observations are i32[(H + 1) * n + H]: the last H observations and the current one, flattened to
    n numbers each, oldest first, then the H actions between them. Before the beginning of the
    episode, observations are zero and actions -1.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4", is_slippery=False)
      >>> env = envs.HistoryWrapper(env, length=2)
      >>> observation, state = env.reset(jax.random.key(0), params)
      >>> observation, *_ = env.step(jax.random.key(1), state, 2, params)
      >>> len(observation)  # (H + 1) * n + H
      5
      >>> env.text_state(observation).history[0][1]
      'go right'

    Args:
      env: the environment. Its observations must be one array of integers.
      length: H, how many pairs there are, at least 1.

    Attributes:
      env: the environment without its history.

    Raises:
      ValueError: if the length is not positive, or the environment does not observe integers.
    """

    def __init__(self, env: TextEnvironment, length: int):
        WIDTH.check("the length of a history", length)
        self.env = env
        self._length = length
        observed, _ = jax.eval_shape(env.reset, jax.random.key(0), env.default_params)
        if not isinstance(observed, jax.ShapeDtypeStruct) or observed.dtype != jnp.int32:
            raise ValueError(
                f"A history can be kept of observations that are one array of int32; {env.name} "
                f"observes {observed}."
            )
        self._shape = observed.shape
        self._size = math.prod(observed.shape)

    @property
    def default_params(self) -> environment.EnvParams:
        """The parameters of the environment."""
        return self.env.default_params

    @property
    def name(self) -> str:
        """The name of the environment."""
        return self.env.name

    @property
    def num_actions(self) -> int:
        """Number of actions of the environment."""
        return self.env.num_actions

    def reset_env(
        self, key: jax.Array, params: environment.EnvParams
    ) -> tuple[jax.Array, HistoryState]:
        """Begins an episode with an empty history."""
        state = self._begin(*self.env.reset_env(key, params))
        return self.observe(key, state, None, params), state

    def step_env(
        self,
        key: jax.Array,
        state: HistoryState,
        action: int | float | jax.Array,
        params: environment.EnvParams,
    ) -> tuple[jax.Array, HistoryState, jax.Array, jax.Array, dict[str, Any]]:
        """Takes a step of the environment and remembers it."""
        observation, env_state, reward, terminated, info = self.env.step_env(
            key, state.env_state, action, params
        )
        action = jnp.asarray(action, jnp.int32)
        state = HistoryState(
            time=env_state.time,
            env_state=env_state,
            observation=jnp.concatenate([state.observation[1:], observation.reshape(1, -1)]),
            action=jnp.concatenate([state.action[1:], action[None]]),
        )
        return self.observe(key, state, action, params), state, reward, terminated, info

    def begin_where_ended(
        self,
        key: jax.Array,
        ended: jax.Array,
        observation: jax.Array,
        state: HistoryState,
        params: environment.EnvParams,
    ) -> tuple[jax.Array, HistoryState]:
        """Begins where an episode of the environment ended, with an empty history."""
        present, env_state = self.env.begin_where_ended(
            key, ended, state.observation[-1].reshape(self._shape), state.env_state, params
        )
        begun = self._begin(present, env_state)
        state = jax.tree.map(functools.partial(jnp.where, ended), begun, state)
        return self.observe(key, state, None, params), state

    def is_truncated(self, state: HistoryState, params: environment.EnvParams) -> jax.Array:
        """Whether the environment has reached its time limit."""
        return self.env.is_truncated(state.env_state, params)

    def observe(
        self,
        key: jax.Array,
        state: HistoryState,
        action: int | float | jax.Array | None,
        params: environment.EnvParams,
    ) -> jax.Array:
        """Returns the present observation and those before."""
        del key, action, params
        return jnp.concatenate([state.observation.ravel(), state.action])

    def action_mask(self, state: HistoryState, params: environment.EnvParams) -> jax.Array:
        """Which actions are admissible; see `TextEnvironment.action_mask`."""
        return self.env.action_mask(state.env_state, params)

    def examples(self) -> tuple[Example, ...]:
        """The environment's own."""
        return self.env.examples()

    def scene(self, state: HistoryState) -> Scene | None:
        """What a picture of the environment's own state shows."""
        return self.env.scene(state.env_state)

    def action_space(self, params: environment.EnvParams | None = None) -> Any:
        """The actions of the environment."""
        return self.env.action_space(params)

    def observation_space(self, params: environment.EnvParams | None = None) -> spaces.Box:
        """The last observations and actions."""
        del params
        limits = jnp.iinfo(jnp.int32)
        size = (self._length + 1) * self._size + self._length
        return spaces.Box(limits.min, limits.max, (size,), jnp.int32)

    def state_space(self, params: environment.EnvParams | None = None) -> spaces.Dict:
        """The fields of `HistoryState`, among them the state of the environment."""
        params = self.default_params if params is None else params
        limits, shape = jnp.iinfo(jnp.int32), (self._length + 1, self._size)
        return spaces.Dict(
            {
                "time": spaces.Box(0, limits.max, (), jnp.int32),
                "env_state": self.env.state_space(params),
                "observation": spaces.Box(limits.min, limits.max, shape, jnp.int32),
                "action": spaces.Box(_NO_ACTION, self.num_actions - 1, (self._length,), jnp.int32),
            }
        )

    def text_state(self, observation: np.ndarray | jax.Array) -> TextState:
        """Puts an observation and its history into words; see `TextEnvironment.text_state`."""
        observations, actions = self._read(observation)
        history = []
        for past, action in zip(observations, actions.tolist(), strict=False):
            if action != _NO_ACTION:
                text = self.env.text_state(past)
                history.append((text.observation, text.actions[min(action, len(text.actions) - 1)]))
        return self.env.text_state(observations[-1])._replace(history=tuple(history))

    def present(self, observation: np.ndarray | jax.Array) -> np.ndarray:
        """The environment's own last observation, without what was before (host side).

        Raises:
          ValueError: if `observation` is not one of this environment.
        """
        return self._read(observation)[0][-1]

    def _begin(self, observation: jax.Array, env_state: environment.EnvState) -> HistoryState:
        past = jnp.zeros((self._length, self._size), jnp.int32)
        return HistoryState(
            time=jnp.asarray(env_state.time),
            env_state=env_state,
            observation=jnp.concatenate([past, observation.reshape(1, -1)]),
            action=jnp.full(self._length, _NO_ACTION, jnp.int32),
        )

    def _read(self, observation: np.ndarray | jax.Array) -> tuple[np.ndarray, np.ndarray]:
        """The H + 1 observations and H actions that an observation is made of."""
        array = np.asarray(observation)
        shape = self.observation_space().shape
        if array.shape != shape or array.dtype != np.int32:
            raise ValueError(
                f"{self.name} with a history of {self._length} observes i32{list(shape)}; got "
                f"{array.dtype}{list(array.shape)}."
            )
        return array[: -self._length].reshape(-1, *self._shape), array[-self._length :]


def with_history(env: TextEnvironment, length: int) -> HistoryWrapper:
    """Adds the last `length` (observation, action) pairs to what an environment observes.

    See `HistoryWrapper`. The parameters stay as they are.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4")
      >>> envs.with_history(env, length=3).env is env
      True
    """
    return HistoryWrapper(env, length)
