"""Generates ALFWorld games, in place of the official ones, from files in the alfworld package.

    python -m launch.make_games --tasks=pick,examine --train=28 --unseen=26 --out=data/alfworld

Writes a data directory in the layout of `alfworld-download`; point ALFWORLD_DATA at it. `train` and
`unseen` count the games of each task. Unseen games (`valid_unseen`) have their own floor plans, and
pairs of object and receptacle that no training game has. Every game was solved by the engine's
planner and won in the engine. The same flags make the same files.

Needs `pip install 'llmprior-jax[alfworld]'`. A game takes a few seconds.
"""

from collections.abc import Sequence

from launch.common import app
from llmprior_jax import progress

FLAGS = app.Flags()
_TASKS = FLAGS.list(
    "tasks",
    ["pick", "examine"],
    "Tasks to make games of, or all: pick, examine, clean, heat, cool, pick2.",
)
_TRAIN = FLAGS.integer("train", 28, "Training games of each task.")
_UNSEEN = FLAGS.integer("unseen", 26, "Unseen games of each task.")
_SEED = FLAGS.integer("seed", 0, "Seed of everything drawn.")
_OUT = FLAGS.string("out", None, "Data directory to write.", required=True)


def main(argv: Sequence[str]) -> None:
    from llmprior_jax.envs.alfworld import game_maker

    del argv
    tasks = tuple(game_maker.TASK_TYPES) if _TASKS.value == ["all"] else tuple(_TASKS.value)
    total = len(tasks) * (_TRAIN.value + _UNSEEN.value)
    with progress.bar(total=total, desc="games", unit="game") as bar:
        games = game_maker.make_games(
            _OUT.value,
            tasks=tasks,
            train=_TRAIN.value,
            unseen=_UNSEEN.value,
            seed=_SEED.value,
            progress=lambda _: bar.update(),
        )
    counts = ", ".join(f"{len(paths)} in {split}" for split, paths in games.items())
    print(f"Made {counts}. Play them with ALFWORLD_DATA={_OUT.value}")


if __name__ == "__main__":
    app.run(main, FLAGS)
