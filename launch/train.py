"""Trains agents with a language-model prior, and their baselines, on a text environment.

    python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

Any field of the configuration can be set on the command line, `--config.agent.alpha=0.1`; the
fields are listed in `llmprior_jax/training/config.py`. A run that was interrupted goes on where it
stopped when the same command is given again. Ctrl-C and SIGTERM end a run after the segment under
way, with a checkpoint.

Several processes train one run together when each is started with this command, on a directory that
all of them see; `--distributed` finds them under Slurm, Open MPI and on TPUs.
"""

from collections.abc import Sequence

import rich.console
from absl import flags
from ml_collections import config_flags

from launch.common import app, cluster
from llmprior_jax import training
from llmprior_jax.distributed import processes
from llmprior_jax.training import summary

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "What to run: a file with `get_config()`.", flag_values=FLAGS
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run's results.", required=True, flag_values=FLAGS
)
_PRIOR = flags.DEFINE_string(
    "prior",
    None,
    "Language model: tiny, a directory, or a hub id such as Qwen/Qwen2.5-0.5B.",
    flag_values=FLAGS,
)
_MESH = flags.DEFINE_string(
    "mesh", None, "Devices, such as data:4,model:2 (config.mesh).", flag_values=FLAGS
)
_RESUME = flags.DEFINE_bool(
    "resume",
    True,
    "Go on from what --workdir holds; --noresume removes that run and starts again.",
    flag_values=FLAGS,
)
_WANDB = flags.DEFINE_string(
    "wandb_project",
    None,
    "Project of Weights & Biases to log to (config.wandb_project).",
    flag_values=FLAGS,
)
flags.mark_flag_as_required("config", flag_values=FLAGS)
cluster.define_flags(FLAGS)


def main(argv: Sequence[str]) -> None:
    del argv
    cluster.join(FLAGS)
    config = _CONFIG.value
    if _PRIOR.value is not None:
        config.prior.model = _PRIOR.value
    if _MESH.value is not None:
        config.mesh = _MESH.value
    if _WANDB.value is not None:
        config.wandb_project = _WANDB.value
    with app.StopSignal() as should_stop:
        results = training.run(config, _WORKDIR.value, _RESUME.value, should_stop)
    if processes.is_first():
        rich.console.Console().print(summary.table(results, config.num_seeds))
        print(f"summary.json, learning_curves.png and metrics are in {_WORKDIR.value}")


def console() -> None:
    """The command as an installed script."""
    app.run(main, FLAGS)


if __name__ == "__main__":
    console()
