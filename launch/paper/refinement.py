"""What a refined prior is worth where it was not refined: in unseen games, and in another kitchen.

    python -m launch.paper.refinement --workdir=runs/refinement --out=report --jobs=2

In each place the prior is refined once for each seed (docs/refinement.md), and then judged as it
is, and as the prior of DQN-Prior: in ALFWorld in the unseen games of the same task, of kitchens in
the other one. Beside it stands the prior that was not refined, with as many seeds. Each refined
prior is one sample: what its agents come to is a mean over two seeds of theirs. Given again, the
command goes on where it stopped.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from launch.common import app, run_pool
from launch.common.made import make_once
from launch.configs import alfworld_pick
from llmprior_jax import training
from llmprior_jax.files import check_writable, parse_json, write_atomically
from llmprior_jax.training import refinement, summary
from llmprior_jax.training.metrics import read_metrics

_FIRST_SEED = 500  # Settings were chosen on others, and in other games.
_AGENTS = {"prior": "alone", "dqn_prior": "DQN-Prior"}
_REPORT, _RESULTS = "report.md", "results.json"
_FROZEN = "as it is"
# As many games as `alfworld_pick` has.
_TRAIN, _UNSEEN = 28, 26
_COMMON = {
    "agents": tuple(_AGENTS),
    "agent.trust": "fixed",
    "num_seeds": 2,
    "eval_episodes": 8,
}
_REFINE = {"prior.refine.rounds": 1, "prior.refine.episodes": 32}


class Place(NamedTuple):
    """Where a prior is refined or judged.

    Attributes:
      fields: of the configuration.
      refine: likewise, where it is refined.
      metric: what it is judged by.
      task: of ALFWorld, whose games are made; None elsewhere.
    """

    fields: Mapping[str, Any]
    refine: Mapping[str, Any]
    metric: str
    task: str | None = None


class Pair(NamedTuple):
    """Where priors are refined, and where they are judged, by the names of the places."""

    refined: str
    judged: str


def _alfworld(task: str) -> Place:
    steps = {"num_steps": 1_600, "eval_every": 1_600}
    return Place(steps, {}, "unseen_success_rate", task)


def _kitchen(name: str) -> Place:
    # So few that it shows how fast an agent learns; in a round it learns to the end.
    steps = {"num_steps": 2_400, "eval_every": 2_400, "eval_episodes": 32}
    learned = {"prior.refine.num_steps": 12_000}
    return Place({"env": f"Overcooked-{name}", **steps}, learned, "success_rate")


PLACES = {
    "pick": _alfworld("pick"),
    "examine": _alfworld("examine"),
    "TomatoSalad": _kitchen("TomatoSalad"),
    "TomatoLettuceSalad": _kitchen("TomatoLettuceSalad"),
}
PAIRS = (
    Pair("pick", "pick"),
    Pair("examine", "examine"),
    Pair("TomatoLettuceSalad", "TomatoSalad"),
    Pair("TomatoSalad", "TomatoLettuceSalad"),
)

FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the runs.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_SEEDS = FLAGS.integer("seeds", 5, "Priors that are refined in each place.", lower_bound=1)
_ONLY = FLAGS.string("only", "", "Only places whose name begins so, where priors are judged.")
_JOBS = FLAGS.integer("jobs", 1, "Processes that share the runs, on CPUs.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    out, workdir = pathlib.Path(_OUT.value), pathlib.Path(_WORKDIR.value).resolve()
    check_writable(out / _REPORT)
    pairs = [pair for pair in PAIRS if pair.judged.startswith(_ONLY.value)]
    if not pairs:
        raise ValueError(f"--only={_ONLY.value}: the places are {', '.join(PLACES)}")
    for place in sorted({name for pair in pairs for name in pair}):
        _make_games(workdir, PLACES[place])
    seeds = range(_FIRST_SEED, _FIRST_SEED + _SEEDS.value)
    # What is judged elsewhere is there only after it was refined.
    _train(workdir, dict(run for pair in pairs for run in _first(workdir, pair, seeds)))
    _train(workdir, dict(run for pair in pairs for run in _afterwards(workdir, pair, seeds)))
    results = _read(out)
    for pair in pairs:
        results[_title(pair)] = measure(workdir, pair, seeds)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / _RESULTS, json.dumps(results, indent=1) + "\n")
    command = shlex.join(["python", "-m", "launch.paper.refinement", *sys.argv[1:]])
    write_atomically(out / _REPORT, describe(results, command))
    print(f"the report is in {out / _REPORT}")


def _make_games(workdir: pathlib.Path, place: Place) -> None:
    if place.task is not None:
        counts = f"--train={_TRAIN}", f"--unseen={_UNSEEN}"
        make_once(workdir / place.task, "launch.make_games", f"--tasks={place.task}", *counts)


def _train(workdir: pathlib.Path, configs: Mapping[str, training.Config]) -> None:
    if _JOBS.value == 1:
        run_pool.train_here(workdir, configs)
    elif failed := run_pool.train_in_processes(workdir, configs, _JOBS.value):
        sys.exit(run_pool.describe_failures(failed, len(configs)))


def _first(
    workdir: pathlib.Path, pair: Pair, seeds: Sequence[int]
) -> Iterator[tuple[str, training.Config]]:
    """The runs in which priors are refined, and judged as they are, by name."""
    for seed in seeds:
        yield _folder(pair.judged, _FROZEN, seed), config(workdir, pair.judged, seed)
        refined = config(workdir, pair.refined, seed)
        refined.update_from_flattened_dict({**_REFINE, **PLACES[pair.refined].refine})
        yield _folder(pair.refined, pair.refined, seed), refined


def _afterwards(
    workdir: pathlib.Path, pair: Pair, seeds: Sequence[int]
) -> Iterator[tuple[str, training.Config]]:
    """The runs in which priors are judged that were refined elsewhere, by name."""
    for seed in seeds if pair.refined != pair.judged else ():
        judged = config(workdir, pair.judged, seed)
        of_round = refinement.directory(workdir / _folder(pair.refined, pair.refined, seed), 1)
        judged.prior.model = str(of_round / refinement.ADAPTER)
        yield _folder(pair.judged, pair.refined, seed), judged


def config(workdir: pathlib.Path, name: str, seed: int) -> training.Config:
    """The configuration of a run in a place, whose prior is not refined."""
    place = PLACES[name]
    made = training.default_config() if place.task is None else alfworld_pick.get_config()
    if place.task is not None:
        games = workdir / place.task / "json_2.1.1"
        made.games.train, made.games.unseen = (f"{games}/train",), (f"{games}/valid_unseen",)
    made.update_from_flattened_dict({**_COMMON, **place.fields, "seed": seed})
    made.prior.store = str(workdir / "priors.sqlite")
    return made


def measure(
    workdir: pathlib.Path, pair: Pair, seeds: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Success of each of S priors, alone and as the prior of DQN-Prior, as it is and refined."""
    metric = PLACES[pair.judged].metric
    return {
        label: {
            name: [
                float(np.mean(read_metrics(workdir / folder / agent)[-1][metric]))
                for folder in (_folder(pair.judged, where, seed) for seed in seeds)
            ]
            for agent, name in _AGENTS.items()
        }
        for label, where in ((_FROZEN, _FROZEN), ("refined", pair.refined))
    }


def describe(results: Mapping[str, Mapping[str, Mapping[str, list[float]]]], command: str) -> str:
    """The report as Markdown.

    Args:
      results: what `measure` gave, by the title of the pair.
      command: that made it.
    """
    lines = [
        "# What a refined prior is worth\n",
        f"Made by `{command}`. Success after one round, interquartile means over priors [95% "
        "intervals]: of the language model alone, and of DQN-Prior under it, after "
        f"{PLACES['pick'].fields['num_steps']:,} steps in ALFWorld and "
        f"{PLACES['TomatoSalad'].fields['num_steps']:,} in kitchens. Each prior was refined by a "
        "round of its own.\n",
        "| refined, judged | priors | the prior | alone | DQN-Prior |",
        "|---|---|---|---|---|",
    ]
    for title, rows in results.items():
        for label, of_agents in rows.items():
            values = [np.asarray(of_agents[name]) for name in _AGENTS.values()]
            count, cells = len(values[0]), map(summary.with_interval, values)
            lines.append(f"| {title} | {count} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _read(out: pathlib.Path) -> dict[str, Any]:
    """What an earlier call measured; `--only` leaves the rest as it is."""
    path = out / _RESULTS
    return parse_json(path.read_bytes(), path, dict) if path.exists() else {}


def _title(pair: Pair) -> str:
    if pair.refined == pair.judged:
        return f"ALFWorld's {pair.judged.title()}: training games, unseen games"
    return f"{pair.refined}, {pair.judged}"


def _folder(judged: str, refined: str, seed: int) -> str:
    return f"{judged}-{refined.replace(' ', '-')}-{seed}"


if __name__ == "__main__":
    app.run(main, FLAGS)
