"""The files that experiments read: makes those that are not there yet, by the commands that can."""

import pathlib
import shlex
from collections.abc import Collection

from launch.common import children, run_pool
from launch.common.yardstick import DATASET_BEHAVIOR, SALAD
from launch.paper.experiments import Inputs, Scale
from llmprior_jax.distributed import locks
from llmprior_jax.files import write_atomically


def prepare(inputs: Inputs, scale: Scale, needs: Collection[str]) -> None:
    """Makes the inputs that are needed, each once.

    Args:
      inputs: where they are to be.
      scale: how large they are to be.
      needs: the needed ones, by their names in `Inputs`.

    Raises:
      ValueError: one is there already that was made by another command.
    """
    salad, games = f"--env={SALAD}", f"{inputs.games}/json_2.1.1/train"
    train, unseen = scale.pick((28, 26), (2, 2))
    commands = {
        # 100 of the 133 episodes of the paper's released dataset succeed.
        "dataset": (
            "launch.collect",
            salad,
            f"--behavior={DATASET_BEHAVIOR}",
            "--success_share=0.75",
            f"--transitions={max(scale.dataset_sizes)}",
        ),
        "demonstrations": ("launch.collect", salad, "--behavior=expert@0.1", "--transitions=4000"),
        "games": ("launch.make_games", "--tasks=pick", f"--train={train}", f"--unseen={unseen}"),
        **{
            name: (
                "launch.collect",
                "--env=ALFWorld",
                f"--games={games}",
                "--history=3",
                "--behavior=prior:0.75,random:0.25",
                "--success_share=0.75",
                f"--transitions={max(sizes, default=0)}",
            )
            for name, sizes in (
                ("pick", scale.alfworld_sizes),
                ("pick_large", scale.alfworld_large_sizes),
            )
        },
    }
    for name, command in commands.items():
        if name in needs:
            _make(getattr(inputs, name), *command)


def _make(path: pathlib.Path, module: str, *arguments: str) -> None:
    """Makes a file or a directory by a command, unless it is there.

    Raises:
      ValueError: it was made by another command.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = path.with_suffix(f"{path.suffix}.complete")
    # Wherever the work directory lies.
    command = shlex.join([module, *arguments]).replace(f"{path.parent}/", "")
    with locks.hold(path.with_suffix(f"{path.suffix}.lock"), of=path, wait=True):
        if not finished.exists():
            with run_pool.timed(path.parent, path.name):
                children.run(module, *arguments, f"--out={path}")
            write_atomically(finished, command + "\n")
    if finished.read_text().strip() != command:
        raise ValueError(
            f"{path} was made by `{finished.read_text().strip()}`, and `{command}` is wanted; use "
            "another --workdir"
        )
