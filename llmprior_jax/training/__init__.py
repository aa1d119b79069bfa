"""Experiments: configurations, work directories, checkpoints, metrics, summaries.

Importing this package uses no device, so that a configuration can be read before several processes
have joined.
"""

from llmprior_jax.errors import (
    DivergedError,
    InterruptedRunError,
    OutOfMemoryError,
    RestoreError,
)
from llmprior_jax.training.build_agent import make_agent
from llmprior_jax.training.checkpoints import Checkpoints
from llmprior_jax.training.config import (
    Config,
    ConfigMismatchError,
    default_config,
    name_priors,
    read_config,
    settled,
    to_settings,
)
from llmprior_jax.training.experiment import run
from llmprior_jax.training.work_directory import SUMMARY_FILE, restore

__all__ = [
    "SUMMARY_FILE",
    "Checkpoints",
    "Config",
    "ConfigMismatchError",
    "DivergedError",
    "InterruptedRunError",
    "OutOfMemoryError",
    "RestoreError",
    "default_config",
    "make_agent",
    "name_priors",
    "read_config",
    "restore",
    "run",
    "settled",
    "to_settings",
]
