"""Training ties text, arrays and agents together: the loop, evaluation, checkpoints, metrics.

What is here is imported when first used. So a configuration can be read before anything uses a
device, which a run of several processes needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmprior_jax.distributed.mesh import make_mesh
    from llmprior_jax.errors import InterruptedRunError, OutOfMemoryError, RestoreError
    from llmprior_jax.learning.acting import ActingRun
    from llmprior_jax.learning.loop import Episodes, Loop, LoopConfig, LoopState, make_loop
    from llmprior_jax.learning.offline import OfflineRun
    from llmprior_jax.learning.online import OnlineRun
    from llmprior_jax.learning.run import Decision, Run, over_seeds, seed_keys
    from llmprior_jax.play.datasets import Dataset
    from llmprior_jax.training.build import make_agent
    from llmprior_jax.training.checkpoints import Checkpoints
    from llmprior_jax.training.config import (
        Config,
        ConfigMismatchError,
        default_config,
        read_config,
    )
    from llmprior_jax.training.experiment import SUMMARY_FILE, restore, run

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

_NAMES = {
    "errors": "InterruptedRunError OutOfMemoryError RestoreError",
    "distributed.mesh": "make_mesh",
    "learning.acting": "ActingRun",
    "learning.loop": "Episodes Loop LoopConfig LoopState make_loop",
    "learning.offline": "OfflineRun",
    "learning.online": "OnlineRun",
    "learning.run": "Decision Run over_seeds seed_keys",
    "play.datasets": "Dataset",
    "training.build": "make_agent",
    "training.checkpoints": "Checkpoints",
    "training.config": "Config ConfigMismatchError default_config read_config",
    "training.experiment": "SUMMARY_FILE restore run",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"llmprior_jax.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
