"""Trains agents with a language-model prior, and their baselines, on a text environment.

    python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

Any field of the configuration can be set on the command line, `--config.agent.alpha=0.1`; the
fields are listed in `llmprior_jax/settings.py`. To resume an interrupted run, repeat the same
command. Ctrl-C and SIGTERM end a run after the current segment, with a checkpoint; while the
language model is loaded or asked they end it within seconds, and finished scores are kept.

To train one run with several processes, start each with this command, on a directory that all of
them can access; `--distributed` finds them under Slurm, Open MPI and on TPUs.
"""

import functools
import json
import pathlib
from collections.abc import Sequence

import rich.console

from launch.common import app, cluster
from llmprior_jax import training
from llmprior_jax.distributed import processes
from llmprior_jax.training import summary

FLAGS = app.Flags()
_CONFIG = FLAGS.config_file("What to run: a file with `get_config()`.", required=True)
_WORKDIR = FLAGS.string("workdir", None, "Directory of the run's results.", required=True)
_PRIOR = FLAGS.string(
    "prior",
    None,
    "Language model: tiny, a directory, a GGUF file, or a hub id such as Qwen/Qwen2.5-0.5B; also "
    "what GFlan's policy begins as, unless config.policy.model names another. Several with commas "
    "between them are weighed by what they lead to; MODEL@PROMPT says what one is asked.",
)
_MESH = FLAGS.string("mesh", None, "Devices, such as data:4,model:2 (config.mesh).")
_RESUME = FLAGS.boolean(
    "resume", True, "Go on from what --workdir holds; --noresume removes that run and starts again."
)
_WANDB = FLAGS.string(
    "wandb_project", None, "Project of Weights & Biases to log to (config.wandb_project)."
)
cluster.define_flags(FLAGS)


def main(argv: Sequence[str]) -> None:
    del argv
    cluster.join(FLAGS)
    config = _CONFIG.value
    if _PRIOR.value is not None:
        training.name_priors(config, _PRIOR.value)
    if _MESH.value is not None:
        config.mesh = _MESH.value
    if _WANDB.value is not None:
        config.wandb_project = _WANDB.value
    with app.StopSignal() as should_stop:
        training.run(config, _WORKDIR.value, _RESUME.value, should_stop)
    if processes.is_first():
        told = json.loads((pathlib.Path(_WORKDIR.value) / training.SUMMARY_FILE).read_text())
        rich.console.Console().print(summary.table(told, config.num_seeds))
        print(f"summary.json, learning_curves.png and metrics are in {_WORKDIR.value}")


console = functools.partial(app.run, main, FLAGS)  # The command as an installed script.

if __name__ == "__main__":
    console()
