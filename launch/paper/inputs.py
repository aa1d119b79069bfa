"""The files that experiments read: makes those that are not there yet, by the commands that can."""

from collections.abc import Collection

from launch.common.made import make_once
from launch.common.yardstick import DATASET_BEHAVIOR, SALAD
from launch.paper.experiments import Inputs, Scale


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
            make_once(getattr(inputs, name), *command)
