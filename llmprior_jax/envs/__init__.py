"""Text environments with the gymnax interface, and games on engines of the host.

env, params = envs.make("Overcooked-TomatoLettuceSalad")
observation, state = env.reset(key, params)
print(env.text_state(observation))
"""

from llmprior_jax.envs import engines
from llmprior_jax.envs.base import Scene, TextEnvironment, Thing
from llmprior_jax.envs.history import HistoryWrapper, with_history
from llmprior_jax.envs.registry import NAMES, make, register

__all__ = [
    "NAMES",
    "HistoryWrapper",
    "Scene",
    "TextEnvironment",
    "Thing",
    "engines",
    "make",
    "register",
    "with_history",
]
