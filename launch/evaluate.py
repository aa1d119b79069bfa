"""Evaluates an agent of a run, and shows how it decides.

    python -m launch.evaluate --workdir=runs/quickstart --agent=dqn_prior --show_episode

Prints success rate and return over new episodes of every seed. With --show_episode it plays one
more episode and prints it as text: for each state the agent's prior, Q and posterior of each
action whose prior or posterior is at least 0.01.
With --search any agent acts by tree search in the environment itself, from its true state
(docs/search-and-memory.md).
With --replay_on_engine it replays the evaluation's ALFWorld episodes on ALFWorld's own engine, and
prints how many were won there and where the engine's texts differ.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
import rich.console
import rich.markup
import rich.table

from launch.common import app
from llmprior_jax import training
from llmprior_jax.training import build_agent, summary, work_directory
from llmprior_jax.training.config import asked, priors_of

if TYPE_CHECKING:
    from llmprior_jax.learning import Run

FLAGS = app.Flags()
_WORKDIR = FLAGS.string("workdir", None, "Directory of the run.", required=True)
_AGENT = FLAGS.string("agent", "dqn_prior", "Which of the run's agents.")
_EPISODES = FLAGS.integer("episodes", 256, "Episodes per seed.", lower_bound=1)
_MODE = FLAGS.string(
    "mode",
    None,
    "How the agent acts: sample, greedy, or candidates, the one of largest Q of as many as it "
    "learned with, or of 5; by default as in the run's evaluations.",
)
_SEARCH = FLAGS.integer(
    "search",
    None,
    "Act by tree search of so many simulations of the environment itself; by default as in the "
    "run's evaluations.",
    lower_bound=1,
)
_SHOW = FLAGS.boolean("show_episode", False, "Also print one episode as text.")
_REPLAY = FLAGS.boolean(
    "replay_on_engine", False, "Also play the episodes again on ALFWorld's own engine."
)
_SEED = FLAGS.integer("seed", 0, "Which seed's agent plays the printed episode.")
_MESH = FLAGS.string(
    "mesh", None, "Devices, such as data:1,model:2; by default those of the run if they are there."
)

_MOST_MISMATCHES = 5
# Actions below this in prior and posterior are counted, not shown.
_UNLIKELY = 0.01


def main(argv: Sequence[str]) -> None:
    del argv
    console = rich.console.Console()
    run = training.restore(
        _WORKDIR.value,
        _AGENT.value,
        _EPISODES.value,
        _MESH.value,
        app.never,
        _MODE.value,
        _SEARCH.value,
    )
    results = run.evaluate(fresh=True)
    num_seeds = len(results["success_rate"])
    if _SEED.value >= num_seeds:
        raise ValueError(f"--seed is {_SEED.value}; the run has seeds 0 to {num_seeds - 1}")
    of_run = work_directory.read_settings(pathlib.Path(_WORKDIR.value))
    modes = [_MODE.value] if _MODE.value else of_run.run.eval_modes
    how = ", ".join(modes)
    if simulations := _SEARCH.value or of_run.search.simulations:
        how += f", {simulations} simulations"
    console.print(
        f"{_AGENT.value} after {run.steps:,} {run.unit}, {_EPISODES.value} episodes of each "
        f"of {num_seeds} seeds ({how}), interquartile means \\[95% interval]"
    )
    for prior in priors_of(build_agent.seen_by(_AGENT.value, of_run.prior)):
        told = f"  prior: {prior.model}, asked: {asked(prior)}"
        console.print(told, highlight=False, markup=False)
    for name, values in results.items():
        low, high = summary.interval(values)
        mean = summary.interquartile_mean(values)
        console.print(f"  {name}: {mean:.3f} \\[{low:.3f}, {high:.3f}]", highlight=False)
    for name, value in run.scored.metrics().items():
        console.print(f"  {name}: {value:g}", highlight=False)
    if _REPLAY.value:
        _replay_on_engine(run, console)
    if _SHOW.value:
        _show_episode(run, console)


def _replay_on_engine(run: "Run", console: rich.console.Console) -> None:
    from llmprior_jax.envs.alfworld import replay

    env = run.player.env
    for name, episodes in run.evaluated.items():
        if episodes.start is None or episodes.actions is None:
            raise ValueError(
                f"--replay_on_engine is for episodes in environments in JAX; those of {env.name} "
                "were not recorded"
            )
        # The seeds' episodes, one after another.
        start, actions, success = (
            np.asarray(leaf).reshape(-1, *leaf.shape[2:])
            for leaf in (episodes.start, episodes.actions, episodes.success)
        )
        again = replay.replay(env, run.player.env_params, start, actions)
        console.print(
            f"  {name}replay on the engine: {len(success)} episodes, {again.steps:,} steps; "
            f"{success.sum()} won in JAX, {again.won.sum()} in the engine; "
            f"mismatches: {len(again.mismatches)}",
            highlight=False,
        )
        for mismatch in again.mismatches[:_MOST_MISMATCHES]:
            console.print(rich.markup.escape(f"    {mismatch}"), highlight=False)


def _show_episode(run: "Run", console: rich.console.Console) -> None:
    total = 0.0
    decision = None
    for number, decision in enumerate(run.play(_SEED.value, jax.random.key(_SEED.value)), start=1):
        if number == 1:
            console.rule(rich.markup.escape(decision.text.task))
        total += decision.reward
        console.print(f"\n[bold]{number}.[/bold] {rich.markup.escape(decision.text.observation)}")
        table = rich.table.Table("action", "prior", "Q", "posterior", "", box=None)
        left_out = 0
        for index, action in enumerate(decision.text.actions):
            taken = index == decision.action
            if not taken and max(decision.prior[index], decision.posterior[index]) < _UNLIKELY:
                left_out += 1
                continue
            table.add_row(
                rich.markup.escape(action),
                f"{decision.prior[index]:.3f}",
                f"{decision.q_values[index]:.3f}",
                f"{decision.posterior[index]:.3f}",
                f"<- reward {decision.reward:.3f}" if taken else "",
                style="bold" if taken else None,
            )
        if left_out:
            table.add_row(f"{left_out} more, each", f"< {_UNLIKELY}", "", f"< {_UNLIKELY}", "")
        console.print(table)
    assert decision is not None
    end = "solved" if decision.success else "time limit" if decision.truncated else "failed"
    console.rule(f"{end}, return {np.round(total, 3)}")


console = functools.partial(app.run, main, FLAGS)  # The command as an installed script.

if __name__ == "__main__":
    console()
