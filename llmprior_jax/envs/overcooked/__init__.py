"""Overcooked kitchens of macro-actions, in JAX and in words."""

from llmprior_jax.envs.overcooked.environment import TOMATO_LETTUCE_SALAD, TOMATO_SALAD, Overcooked

__all__ = ["TOMATO_LETTUCE_SALAD", "TOMATO_SALAD", "Overcooked"]
