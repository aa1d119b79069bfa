"""Training ties text, arrays and agents together: the loop, evaluation, checkpoints, metrics."""

from llmprior_jax.training.acting import ActingRun
from llmprior_jax.training.checkpoints import Checkpoints, RestoreError
from llmprior_jax.training.config import Config, ConfigMismatchError, default_config, read_config
from llmprior_jax.training.datasets import Dataset
from llmprior_jax.training.experiment import (
    SUMMARY_FILE,
    InterruptedRunError,
    restore,
    run,
)
from llmprior_jax.training.loop import Episodes, Loop, LoopConfig, LoopState, make_loop
from llmprior_jax.training.making import make_agent
from llmprior_jax.training.mesh import OutOfMemoryError, make_mesh
from llmprior_jax.training.offline import OfflineRun
from llmprior_jax.training.online import OnlineRun
from llmprior_jax.training.runs import Decision, Run, over_seeds, seed_keys

__all__ = [
    "SUMMARY_FILE",
    "ActingRun",
    "Checkpoints",
    "Config",
    "ConfigMismatchError",
    "Dataset",
    "Decision",
    "Episodes",
    "InterruptedRunError",
    "Loop",
    "LoopConfig",
    "LoopState",
    "OfflineRun",
    "OnlineRun",
    "OutOfMemoryError",
    "RestoreError",
    "Run",
    "default_config",
    "make_agent",
    "make_loop",
    "make_mesh",
    "over_seeds",
    "read_config",
    "restore",
    "run",
    "seed_keys",
]
