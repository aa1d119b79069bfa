"""Training one agent: online, offline, by policy gradient, or on engines."""

from llmprior_jax.learning.online import Loop, LoopState, make_loop
from llmprior_jax.learning.run import Run

__all__ = ["Loop", "LoopState", "Run", "make_loop"]
