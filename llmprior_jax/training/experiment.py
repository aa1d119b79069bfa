"""An experiment: agents trained one after another on one environment, in one work directory.

The work directory has the configuration, the priors of all states that were met, the summary and
learning curves, and a directory per agent with its metrics and checkpoints. Run again, it goes on
where it stopped; killed at any moment and run again, it ends with the same parameters.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from llmprior_jax import progress
from llmprior_jax.distributed import processes
from llmprior_jax.distributed.mesh import explain_out_of_memory, mesh_here
from llmprior_jax.errors import InterruptedRunError, RestoreError
from llmprior_jax.files import write_atomically
from llmprior_jax.learning.run import Run, step_unit
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import Queries, prompts
from llmprior_jax.priors.prompts import Example
from llmprior_jax.training import examples, provenance
from llmprior_jax.training import summary as summaries
from llmprior_jax.training.build import make_environment, make_filler, make_run, read_dataset
from llmprior_jax.training.checkpoints import Checkpoints
from llmprior_jax.training.config import (
    CONFIG_FILE,
    Config,
    check_workdir,
    claim_workdir,
    read_config,
)
from llmprior_jax.training.metrics import MetricsWriter, read_metrics
from llmprior_jax.training.validation import check_config

_PRIOR_TABLE = "prior_table"
_QUERIES = "prior_queries.jsonl"
SUMMARY_FILE = "summary.json"
_CURVES = "learning_curves.png"


def run(
    config: Config,
    workdir: str | pathlib.Path,
    resume: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Trains and evaluates the agents of a configuration.

    Examples:
      >>> config = training.default_config()
      >>> config.env, config.agents = "FrozenLake-4x4", ("random",)
      >>> config.num_seeds, config.eval_episodes = 2, 4
      >>> results = training.run(config, "runs/first")
      prior: ...
      >>> 0 <= results["random"]["success_rate"]["iqm"] <= 1
      True

    Args:
      config: see `default_config`.
      workdir: directory of the run; made if need be.
      resume: go on from what the directory holds; otherwise start again in it, losing its results.
      should_stop: asked after every segment; once it says yes, a checkpoint is written and training
        ends with `InterruptedRunError`.

    Returns:
      For each agent what `summary.summarize` gives. The same is in `summary.json`; learning curves
      are in `learning_curves.png`.

    Raises:
      ValueError: the configuration is invalid, or the directory belongs to another one.
      RestoreError: the directory has checkpoints, and none can be read, or another version wrote
        them.
      InterruptedRunError: `should_stop` said so.
      OutOfMemoryError: a device had too little memory.
      ImportError: the configuration asks for what an extra brings; the message names it.
    """
    workdir = pathlib.Path(workdir)
    check_config(config)
    env, env_params = make_environment(config)
    dataset = read_dataset(config)
    shown = make_examples(config, workdir if resume else None)
    filler = make_filler(config, env, env_params, workdir / _PRIOR_TABLE, shown=shown)
    # All that can be wrong with what was given shows before anything is written or removed.
    if resume:
        processes.in_first(lambda: check_workdir(workdir, config))
    if not resume or not filler.has_table:
        filler.load_model()

    def claim() -> None:
        if not resume:
            _clear(workdir)
        claim_workdir(workdir, config)
        if shown:
            examples.write(workdir, shown)
        provenance.record(workdir)

    processes.in_first(claim)
    try:
        with explain_out_of_memory(config, workdir):
            for name in config.agents:
                run = make_run(name, config, env, env_params, filler, dataset)
                _train(name, run, filler, config, workdir / name, should_stop)
    finally:
        if processes.is_first():
            _report(filler.queries, workdir)
        filler.close()
    return json.loads(processes.from_first(lambda: _conclude(config, workdir).encode()))


def restore(
    workdir: str | pathlib.Path, name: str, eval_episodes: int, mesh: str | None = None
) -> Run:
    """Restores an agent of a finished or interrupted run, to evaluate it.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> sorted(run.evaluate())
      ['episode_length', 'return', 'success_rate']

    Args:
      workdir: directory of the run.
      name: one of the run's agents.
      eval_episodes: episodes per seed that `Run.evaluate` will take.
      mesh: the devices, see `make_mesh`; by default those that the run was trained on where there
        are so many, and otherwise as many as divide the seeds.

    Raises:
      FileNotFoundError: the directory holds no run, or no checkpoint of the agent.
      ValueError: the run has no such agent, or the mesh is not possible.
      RestoreError: the agent has checkpoints, and none can be read, or another version wrote them.
    """
    workdir = pathlib.Path(workdir)
    config = read_config(workdir)
    if name not in config.agents:
        raise ValueError(f"{workdir} has no agent {name!r}; it has {', '.join(config.agents)}")
    config.eval_episodes = eval_episodes
    config.mesh = mesh_here(config) if mesh is None else mesh
    env, env_params = make_environment(config)
    shown = make_examples(config, workdir)
    filler = make_filler(config, env, env_params, workdir / _PRIOR_TABLE, True, shown)
    run = make_run(name, config, env, env_params, filler, read_dataset(config))
    directory = workdir / name / "checkpoints"
    if not directory.exists():
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    with Checkpoints(directory, config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state, set_aside=False)
    if restored is None:
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    _go_back(run, *restored, directory)
    return run


def make_examples(config: Config, workdir: pathlib.Path | None) -> list[Example]:
    """The episodes that a run's prompts show: those in its directory, or else new ones.

    Raises:
      FileNotFoundError, ValueError, RestoreError: the agent that is to show how cannot be restored.
      ValueError: it does not succeed often enough.
    """
    if config.prior.prompt != prompts.FEW_SHOT:
        return []
    kept = None if workdir is None else examples.read(workdir)
    if kept is not None:
        return kept
    source = config.prior.examples
    run = restore(source.workdir, source.agent, eval_episodes=1)
    return examples.collect(run, source.count, jax.random.key(config.seed))


def _go_back(
    run: Run, step: int, state: Any, meta: dict[str, Any], directory: pathlib.Path
) -> None:
    """Restores a run from a checkpoint, unless that lacks what the run needs.

    Raises:
      RestoreError: another version wrote it, and did not keep as much.
    """
    if missing := sorted(run.meta().keys() - meta.keys()):
        raise RestoreError(
            f"checkpoint {step} of {directory} was written by another version of this package, "
            f"which did not keep {', '.join(missing)}; go on with that version, or start the run "
            "again with --noresume, or with another --workdir"
        )
    run.restore(step, state, meta)


def _clear(workdir: pathlib.Path) -> None:
    """Removes the run that a directory holds, and nothing else that may lie there."""
    try:
        config = read_config(workdir)
    except FileNotFoundError:
        return
    for name in config.agents:
        shutil.rmtree(workdir / name, ignore_errors=True)
    shutil.rmtree(workdir / _PRIOR_TABLE, ignore_errors=True)
    for name in (_QUERIES, SUMMARY_FILE, _CURVES, provenance.FILE, examples.FILE, CONFIG_FILE):
        (workdir / name).unlink(missing_ok=True)


def _conclude(config: Config, workdir: pathlib.Path) -> str:
    """Writes the summary and the learning curves of a finished run; returns the summary as JSON."""
    unit = step_unit(config)
    records = {name: read_metrics(workdir / name) for name in config.agents}
    summary = {name: summaries.summarize(told, unit) for name, told in records.items()}
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(workdir / SUMMARY_FILE, text)
    summaries.plot(records, workdir / _CURVES, unit)
    return text


def _report(queries: Queries, workdir: pathlib.Path) -> None:
    """Says how much the language model was asked, and adds it to the run's record."""
    tqdm.tqdm.write(
        f"prior: {queries.made:,} language-model queries made ({queries.per_second:,.0f}/s), "
        f"{queries.saved:,} saved by the store"
        + (f", {queries.not_kept:,} not kept" if queries.not_kept else "")
    )
    record = queries._asdict() | {"per_second": queries.per_second}
    with (workdir / _QUERIES).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _train(
    name: str,
    run: Run,
    filler: TableFiller,
    config: Config,
    directory: pathlib.Path,
    should_stop: Callable[[], bool],
) -> None:
    """Trains one agent to the end, or goes on with it."""
    with Checkpoints(directory / "checkpoints", config.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state)
        if restored is not None:
            _go_back(run, *restored, directory / "checkpoints")
            if processes.is_first():
                how = "is finished" if run.steps >= run.num_steps else "resumes"
                tqdm.tqdm.write(f"{name}: {how} after {run.steps:,} {run.unit}")
        with contextlib.ExitStack() as opened:
            metrics = bar = None
            if processes.is_first():
                last = -1 if restored is None else run.segments
                metrics = opened.enter_context(MetricsWriter(directory, last, run.steps, config))
                bar = opened.enter_context(_bar(name, run))
            asked_before = filler.queries.made

            def record(values: dict[str, Any]) -> None:
                if metrics is not None:
                    metrics.write(run.segments, run.steps, **values)
                if bar is not None:
                    # Engines end a segment with whole rounds, and so some steps too late.
                    bar.update(min(run.steps, run.num_steps) - bar.n)
                    told = {"success": f"{np.mean(values['success_rate']):.2f}"}
                    if filler.queries.made > asked_before:
                        told["queries/s"] = f"{filler.queries.per_second:,.0f}"
                    bar.set_postfix(told)

            if restored is None:
                record(run.evaluate())
                checkpoints.save(0, run.state, run.meta())
                # Until then a restart would begin with a fuller table, and so stall less.
                checkpoints.wait()
            while run.steps < run.num_steps:
                record(run.train() | run.evaluate() | filler.metrics())
                done, stop = run.steps >= run.num_steps, processes.in_any(should_stop())
                if run.segments % config.checkpoint.every == 0 or done or stop:
                    checkpoints.save(run.segments, run.state, run.meta())
                if stop and not done:
                    raise InterruptedRunError(
                        f"stopped after {run.steps:,} of {run.num_steps:,} {run.unit} of {name}; "
                        "the same command goes on from there"
                    )


def _bar(name: str, run: Run) -> Any:
    """Of an agent's steps; one that does not learn takes none, and shows how it does."""
    return progress.bar(
        total=run.num_steps,
        initial=run.steps,
        desc=name,
        unit=f" {run.unit.split()[-1]}",
        bar_format=None if run.num_steps else "{desc}: {elapsed}{postfix}",
    )
