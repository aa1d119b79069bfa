"""A corridor: the smallest problem that a language model of one layer learns by reward."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces

from llmprior_jax.envs import TextEnvironment
from llmprior_jax.types import TextState

PLACES = 5


@chex.dataclass(frozen=True)
class CorridorState:
    time: jax.Array
    place: jax.Array


class Corridor(TextEnvironment):
    """Five places in a row; one begins in the middle, and the reward is at the right end."""

    num_actions = 2

    @property
    def default_params(self):
        return environment.EnvParams(max_steps_in_episode=6)

    def reset_env(self, key, params):
        place = jnp.int32(PLACES // 2)
        return place, CorridorState(time=jnp.int32(0), place=place)

    def action_space(self, params):
        return spaces.Discrete(2)

    def list_observations(self):
        return np.roll(np.arange(PLACES, dtype=np.int32), -(PLACES // 2))

    def text_state(self, observation):
        names = ("wall", "table", "lamp", "chair", "door")
        return TextState(
            "Leave.", f"You stand at the {names[int(observation)]}.", (), ("turn left", "go right")
        )

    def step_env(self, key, state, action, params):
        place = state.place + 2 * jnp.int32(action) - 1
        done = (place == 0) | (place == PLACES - 1)
        state = CorridorState(time=state.time + 1, place=place)
        return place, state, jnp.float32(place == PLACES - 1), done, {"success": place > 3}
