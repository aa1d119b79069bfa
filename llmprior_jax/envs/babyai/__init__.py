"""BabyAI: missions in rooms of keys, balls, boxes and doors, in JAX and in words."""

from llmprior_jax.envs.babyai.environment import LEVELS, BabyAI

__all__ = ["LEVELS", "BabyAI"]
