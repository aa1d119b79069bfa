"""Training ties text, arrays and agents together: the loop, evaluation, checkpoints, metrics."""

from llmprior_jax.training.checkpoints import Checkpoints, RestoreError
from llmprior_jax.training.config import Config, ConfigMismatchError, default_config, read_config
from llmprior_jax.training.experiment import (
    AgentRun,
    Decision,
    make_agent,
    over_seeds,
    restore,
    run,
    seed_keys,
)
from llmprior_jax.training.loop import Episodes, Loop, LoopConfig, LoopState, make_loop

__all__ = [
    "AgentRun",
    "Checkpoints",
    "Config",
    "ConfigMismatchError",
    "Decision",
    "Episodes",
    "Loop",
    "LoopConfig",
    "LoopState",
    "RestoreError",
    "default_config",
    "make_agent",
    "make_loop",
    "over_seeds",
    "read_config",
    "restore",
    "run",
    "seed_keys",
]
