"""Converts transitions that the paper's authors published to a dataset, by replaying them here.

    python -m launch.import_dataset --source=raw_lettuce_data_bala752000.pkl \\
        --out=data/published.parquet

The files are in the folder value-based/overcooked_data of the paper's repository,
https://github.com/yanxue7/RL-LLM-Prior: pickles of a list with a tuple for each transition, (task,
observation, action, next observation, reward, done, actions, next actions). They are read without
unpickling, so that nothing in them is executed. Their texts are worded differently from ours; the
dataset has our wording, and is written only if every reward and every episode end match the
recording (`llmprior_jax/play/replaying.py`). The format is that of `launch.collect`.
"""

import pathlib
import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launch.common import app
from llmprior_jax import datasets
from llmprior_jax.files import check_writable, read_pickle, typed

if TYPE_CHECKING:
    from llmprior_jax.play import replaying

FLAGS = app.Flags()
_SOURCE = FLAGS.string("source", None, "The published file.", required=True)
_ENV = FLAGS.string("env", "Overcooked-TomatoLettuceSalad", "Environment that it is from.")
_OUT = FLAGS.string("out", None, "File to write, .parquet or .jsonl.", required=True)

# Of a tuple, in its order.
_FIELDS = {
    "task": str,
    "observation": str,
    "action": str,
    "next observation": str,
    "reward": float,
    "done": bool,
    "actions": tuple[str, ...],
    "next actions": tuple[str, ...],
}


def main(argv: Sequence[str]) -> None:
    from llmprior_jax import envs
    from llmprior_jax.play import replaying

    del argv
    datasets.check_path(_OUT.value)
    check_writable(_OUT.value)
    recorded = read(pathlib.Path(_SOURCE.value))
    env, env_params = envs.make(_ENV.value)
    dataset, is_success = replaying.replay(env, env_params, recorded)
    pathlib.Path(_OUT.value).parent.mkdir(parents=True, exist_ok=True)
    datasets.write(_OUT.value, dataset)
    print(
        f"{_OUT.value}: {dataset.num_transitions:,} transitions between {len(dataset.states):,} "
        f"distinct states, {dataset.num_episodes:,} episodes, {is_success.sum():,} of them "
        "successful; every reward and every end came out as it was recorded"
    )


def read(path: pathlib.Path) -> "list[replaying.Recorded]":
    """The transitions of a published file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no such file; the message names the transition, counted from 1.
    """
    from llmprior_jax.play.replaying import Recorded

    entries = read_pickle(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds {reprlib.repr(entries)}, and no list of transitions")
    recorded = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, transition {number}"
        if not isinstance(entry, tuple) or len(entry) != len(_FIELDS):
            raise ValueError(
                f"{where} is {reprlib.repr(entry)}, and no tuple of {', '.join(_FIELDS)}"
            )
        values = {
            name: typed(kind, value, f"{where}: its {name}")
            for (name, kind), value in zip(_FIELDS.items(), entry, strict=True)
        }
        transition = Recorded(**{name.replace(" ", "_"): values[name] for name in values})
        if transition.action not in transition.actions:
            raise ValueError(f"{where}: {transition.action!r} is none of its actions")
        recorded.append(transition)
    return recorded


if __name__ == "__main__":
    app.run(main, FLAGS)
