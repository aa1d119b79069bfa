"""ALFWorld: household games in JAX, text for text those of ALFWorld's own engine."""

from llmprior_jax.envs.alfworld.environment import ALFWorld

__all__ = ["ALFWorld"]
