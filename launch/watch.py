"""Plays an episode with a trained agent and writes it as a web page and an animation.

    python -m launch.watch --workdir=runs/quickstart --agent=dqn_prior

`episode.html` is one self-contained page: the room, the observations, and for each decision the
agent's prior, Q and posterior of every action. Steps where Q overruled the prior are marked.
`episode.gif` shows the same, for slides.
"""

import functools
import pathlib
from collections.abc import Sequence

import jax

from launch.common import app, pictures
from llmprior_jax import progress, ranges, training
from llmprior_jax.files import check_writable, write_atomically

FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the run.", required=True)
_AGENT = FLAGS.string("agent", "dqn_prior", "Which of the run's agents plays.")
_SEED = FLAGS.integer("seed", 0, "Which seed's agent plays.")
_EPISODE = FLAGS.integer("episode", 0, "Number of the episode to play.", 0, ranges.LARGEST_SEED)
_OUT = FLAGS.string("out", None, "Directory to write to; by default --workdir/watch.")
_MESH = FLAGS.string(
    "mesh", None, "Devices, such as data:1,model:2; by default those of the run if they are there."
)

_PAGE = "episode.html"


def main(argv: Sequence[str]) -> None:
    del argv
    out = pathlib.Path(_OUT.value or pathlib.Path(_WORKDIR.value) / "watch")
    check_writable(out / _PAGE)
    run = training.restore(
        _WORKDIR.value, _AGENT.value, eval_episodes=1, mesh=_MESH.value, should_stop=app.never
    )
    num_seeds = training.read_config(pathlib.Path(_WORKDIR.value)).num_seeds
    if _SEED.value >= num_seeds:
        raise ValueError(f"--seed is {_SEED.value}; the run has seeds 0 to {num_seeds - 1}")
    key = jax.random.fold_in(jax.random.key(_SEED.value), _EPISODE.value)
    decisions = list(progress.bar(run.play(_SEED.value, key), desc="playing", unit="step"))
    out.mkdir(parents=True, exist_ok=True)
    title = f"{_AGENT.value} after {run.steps:,} steps, episode {_EPISODE.value}"
    write_atomically(out / _PAGE, pictures.episode_page(title, decisions))
    pictures.write_gif(decisions, out / "episode.gif")
    print(f"{len(decisions)} decisions are in {out / _PAGE} and {out / 'episode.gif'}")


console = functools.partial(app.run, main, FLAGS)  # The command as an installed script.

if __name__ == "__main__":
    console()
