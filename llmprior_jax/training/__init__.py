"""Training ties text, arrays and agents together: the loop, evaluation, checkpoints, metrics."""

from llmprior_jax.training.checkpoints import CheckpointError, Checkpoints
from llmprior_jax.training.config import Config, ConfigMismatchError, default_config, read_config
from llmprior_jax.training.experiment import AgentRun, Decision, restore, run
from llmprior_jax.training.loop import Episodes, Loop, LoopConfig, LoopState, make_loop

__all__ = [
    "AgentRun",
    "CheckpointError",
    "Checkpoints",
    "Config",
    "ConfigMismatchError",
    "Decision",
    "Episodes",
    "Loop",
    "LoopConfig",
    "LoopState",
    "default_config",
    "make_loop",
    "read_config",
    "restore",
    "run",
]
