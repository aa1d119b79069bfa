"""Where Q promises more than is got: what backing up the maximum does to a learner with a prior.

    python -m launch.paper.overestimation --workdir=runs/overestimation --out=report

DQN-Prior that backs up the maximum over all actions learns nothing on TomatoLettuceSalad, and over
candidates it learns well. The prior keeps most actions from being taken; of what is never taken,
Q is never told that it is wrong, and the maximum finds the largest error. If that is the cause,
then Q must promise more than is got, at actions that were not taken; and whoever takes all actions
now and then must be cured, with the same backup. Both are measured here. Given again, the command
goes on where it stopped.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from launch.common import app, run_pool
from llmprior_jax import training
from llmprior_jax.files import check_writable, write_atomically
from llmprior_jax.learning import Run
from llmprior_jax.training import summary
from llmprior_jax.training.config import Config

_ENV = "Overcooked-TomatoLettuceSalad"
_FIRST_SEED = 400  # Settings were chosen on others.
_EPISODES = 4  # of each seed, played decision by decision
_REPORT, _RESULTS = "report.md", "results.json"
_MAXIMUM = {"agent.backup": "max"}
_FIVE = {**_MAXIMUM, "agent.num_candidates": 5}
_VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "posterior": ("dqn_prior", {}),
    "maximum": ("dqn_prior", _MAXIMUM),
    "maximum, one target network": ("dqn_prior", {**_MAXIMUM, "agent.double_q": False}),
    "maximum, 5 candidates": ("dqn_prior", _FIVE),
    "maximum, 5 candidates kept": ("dqn_prior", {**_FIVE, "agent.keep_candidates": True}),
    "maximum, 1 in 5 actions at random": ("dqn_prior", {**_MAXIMUM, "agent.epsilon": 0.2}),
    "maximum, no prior": ("dqn", _MAXIMUM),
}
_COLUMNS = {
    "success": "success",
    "promised": "promised at the start",
    "got": "got",
    "never_taken": "best by Q, and never taken",
}

FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the runs.", required=True)
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)
_SEEDS = FLAGS.integer("seeds", 16, "Seeds of each way to back up.", lower_bound=1)
_STEPS = FLAGS.integer("steps", 36_000, "Environment steps of each seed.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    out, workdir = pathlib.Path(_OUT.value), pathlib.Path(_WORKDIR.value)
    check_writable(out / _REPORT)
    configs = {name: _config(*variant) for name, variant in _VARIANTS.items()}
    workdir.mkdir(parents=True, exist_ok=True)
    run_pool.train_here(workdir, {_folder(name): config for name, config in configs.items()})
    results = {}
    for name, config in configs.items():
        run = training.restore(workdir / _folder(name), config.agents[0], eval_episodes=64)
        results[name] = {
            key: values.tolist() for key, values in measure(run, config.agent.discount).items()
        }
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / _RESULTS, json.dumps(results) + "\n")
    command = shlex.join(["python", "-m", "launch.paper.overestimation", *sys.argv[1:]])
    write_atomically(out / _REPORT, describe(results, command, _SEEDS.value, _STEPS.value))
    print(f"the report is in {out / _REPORT}")


def measure(run: Run, discount: float) -> dict[str, np.ndarray]:
    """What a trained run promises and gets, for each of its S seeds.

    Args:
      run: learns Q online, and still has its replay.
      discount: of the returns that Q stands for.

    Returns:
      f64[S] each: `success`, the success rate; `promised`, the largest Q in the state that episodes
      begin in; `got`, their discounted return; and `never_taken`, the share of the visits in replay
      where the action with the largest Q was never taken, as far as replay goes back.
    """
    success = run.evaluate(fresh=True)["success_rate"]
    measured: dict[str, list[float]] = {"promised": [], "got": [], "never_taken": []}
    for seed in range(len(success)):
        promised, got = [], []
        for key in jax.random.split(jax.random.key(seed), _EPISODES):
            decisions = list(run.play(seed, key))
            first = decisions[0]
            promised.append(first.q_values[: len(first.text.actions)].max())
            got.append(sum(discount**n * each.reward for n, each in enumerate(decisions)))
        measured["promised"].append(float(np.mean(promised)))
        measured["got"].append(float(np.mean(got)))
        measured["never_taken"].append(_never_taken(run, seed))
    return {"success": success, **{name: np.array(values) for name, values in measured.items()}}


def _never_taken(run: Run, seed: int) -> float:
    prior, policy = run.player.policies(run.state.agent, seed)
    q_values = np.where(np.isfinite(prior.log_probs), policy.q_values, -np.inf)
    replay = jax.tree.map(lambda leaf: np.asarray(leaf)[seed], run.state.replay)
    size = min(int(replay.added), len(replay.entries.row))
    row, action = replay.entries.row[:size], replay.entries.action[:size]
    taken = np.zeros(q_values.shape, int)
    np.add.at(taken, (row, action), 1)
    return float(np.mean(taken[row, q_values.argmax(axis=1)[row]] == 0))


def describe(
    results: Mapping[str, Mapping[str, Sequence[float]]], command: str, seeds: int, steps: int
) -> str:
    """The report as Markdown.

    Args:
      results: what `measure` gave, by variant.
      command: that made it.
      seeds: of each variant.
      steps: that each seed took.
    """
    lines = [
        "# What the maximum backs up\n",
        f"Made by `{command}`: DQN-Prior with the embedded model's prior, taken as it is, in "
        f"{_ENV}; {seeds} seeds, {steps:,} steps; interquartile means [95% intervals]. Promised: "
        "the largest Q in the state that episodes begin in. Got: the discounted return of episodes "
        f"({_EPISODES} a seed). Best by Q, and never taken: the share of visits in replay where "
        "the action with the largest Q was never taken, as far as replay goes back.\n",
        f"| backed up | {' | '.join(_COLUMNS.values())} |",
        f"|{'---|' * (1 + len(_COLUMNS))}",
    ]
    for name, measured in results.items():
        cells = [summary.with_interval(np.asarray(measured[column])) for column in _COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _config(agent: str, fields: Mapping[str, Any]) -> Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": _ENV,
            "agents": (agent,),
            "agent.trust": "fixed",
            "seed": _FIRST_SEED,
            "num_seeds": _SEEDS.value,
            "num_steps": _STEPS.value,
            "eval_every": _STEPS.value,
            **fields,
        }
    )
    return config


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


if __name__ == "__main__":
    app.run(main, FLAGS)
