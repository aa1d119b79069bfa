"""An experiment: agents trained one after another on one environment, in one work directory.

Run again, it goes on where it stopped; killed at any moment and run again, it ends with the same
parameters.

What builds the parts of a run is imported when an experiment begins: it imports gymnax, which uses
a device, and several processes must have joined before.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import tqdm
from absl import logging

from llmprior_jax import agents, progress
from llmprior_jax.distributed.processes import from_first, in_any, in_first, is_first
from llmprior_jax.errors import (
    DivergedError,
    InterruptedRunError,
    OutOfMemoryError,
    is_out_of_memory,
)
from llmprior_jax.files import (
    append,
    check_writable,
    parse_json,
    read_json,
    sealed,
    write_atomically,
)
from llmprior_jax.settings import Settings
from llmprior_jax.training import examples, provenance
from llmprior_jax.training import summary as summaries
from llmprior_jax.training.checkpoints import CHECKPOINTS, Checkpoints
from llmprior_jax.training.config import (
    CONFIG_FILE,
    Config,
    asked,
    check_workdir,
    claim_workdir,
    parse_config,
    priors_of,
    settled,
    step_unit,
    to_settings,
)
from llmprior_jax.training.metrics import MetricsWriter, check_login, read_metrics
from llmprior_jax.training.work_directory import (
    CURVES,
    PRIOR_ALONE,
    PRIOR_TABLE,
    QUERIES,
    SUMMARY_FILE,
    clear,
    go_back,
    locked,
    made_by_run,
    make_examples,
    read_settings,
    restore,
)

if TYPE_CHECKING:
    from llmprior_jax.envs import TextEnvironment
    from llmprior_jax.learning import Run
    from llmprior_jax.play.engine_games import EngineGames
    from llmprior_jax.play.scored_states import ScoredStates
    from llmprior_jax.priors import CachedModel
    from llmprior_jax.training.build import Priors


def run(
    config: Config,
    workdir: str | pathlib.Path,
    resume: bool = True,
    should_stop: Callable[[], bool] | None = None,
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
      resume: go on from what the directory holds, which of a finished run may be read-only;
        otherwise start again in it, losing its results.
        Only what the run made is removed then, and no link is followed.
      should_stop: asked after every segment; once it says yes, a checkpoint is written and training
        ends with `InterruptedRunError`. It is also asked all the time while the language model is
        loaded and asked: that ends at once, what was scored is kept, and the agent goes on from its
        last checkpoint. None: nobody is asked.

    Returns:
      For each agent what `summary.summarize` gives. The same is in `summary.json`, and, if an agent
      learned from the prior, under "before_training" what `prior_alone.look` found; learning curves
      are in `learning_curves.png`.

    Raises:
      ValueError: the configuration is invalid, the directory belongs to another one, it is to be
        cleared and has a link where the run had made something, most states of the dataset are not
        the environment's, a language model cannot be loaded, or nobody is logged in to Weights &
        Biases.
      RestoreError: the directory has checkpoints, and none can be read, or another version wrote
        them.
      InterruptedRunError: `should_stop` said so.
      DivergedError: a loss or the parameters of an agent are no longer finite; its last checkpoint
        is from before.
      OutOfMemoryError: a device had too little memory.
      ImportError: the configuration asks for what an extra brings; the message names it.
      InUseError: another process trains in the directory.
      OSError: the directory cannot be written.
    """
    from llmprior_jax.training import build, known_states, refinement

    workdir = pathlib.Path(workdir)
    config, env, env_params = prepare(config, workdir if resume else None)
    settings = to_settings(config)
    with contextlib.ExitStack() as opened:

        def begin() -> bytes:
            """The summary of a run that is finished where nothing can be written."""
            if resume:
                check_workdir(workdir, config)
            else:
                made_by_run(workdir)
            if not (workdir / CONFIG_FILE).exists():
                # The directory is made, and locked, once nothing else can be wrong.
                check_writable(workdir / CONFIG_FILE)
            else:
                try:
                    opened.enter_context(locked(workdir))
                    check_writable(workdir / CONFIG_FILE)
                except OSError:
                    path = workdir / SUMMARY_FILE
                    if resume and path.exists():
                        return path.read_bytes()
                    raise
            if settings.wandb_project is not None:
                check_login()
            return b""

        # All that can be wrong with what was given shows before anything is written or removed.
        if kept := from_first(begin):
            return _of_agents(settings, kept, workdir)
        in_first(lambda: build.check_policy_model(settings))
        dataset = build.read_dataset(settings)
        if dataset is not None:
            known_states.check(dataset, env, str(settings.offline.dataset))
        shown = make_examples(settings, env, workdir if resume else None)

        def make_priors(settings: Settings) -> "Priors":
            table = workdir / PRIOR_TABLE
            return build.make_priors(
                settings, env, env_params, table, examples=shown, should_stop=should_stop
            )

        def claim() -> None:
            workdir.mkdir(parents=True, exist_ok=True)
            opened.enter_context(locked(workdir))
            if not resume:
                clear(workdir)
            claim_workdir(workdir, config)
            if shown:
                examples.write(workdir, shown)
            provenance.record(workdir)

        is_refined = settings.prior.refine.rounds is not None
        if is_refined:
            with contextlib.ExitStack() as only_tried:
                as_it_is = make_priors(settings)
                for model in as_it_is.models:
                    only_tried.callback(model.close)
                build.try_prompts(settings, env, env_params, as_it_is)
            claim()
            _refine(config, settings, workdir, should_stop)
            settings = refinement.adapted(settings, workdir)
        priors = make_priors(settings)
        for model in priors.models:
            opened.callback(model.close)
        if not (resume or is_refined) or not priors.scored.has_rows:
            build.try_prompts(settings, env, env_params, priors)
            for model in priors.models:
                model.load()
        if not is_refined:
            in_first(claim)
        if is_first():
            for prior in priors_of(settings.prior):
                tqdm.tqdm.write(f"prior: {prior.model}, asked: {asked(prior)}")
            opened.callback(_report_cost, priors.scored)
            for model in priors.models:
                opened.callback(_report, model, workdir)
        is_looked_at = False
        for name in settings.agents:
            with explain_out_of_memory(name, settings, workdir):
                trained = build.make_run(name, settings, env, env_params, priors, dataset)
                if agents.sees_prior(name) and trained.num_steps and not is_looked_at:
                    _look(name, settings, env, env_params, priors, workdir)
                    is_looked_at = True
                _train(name, trained, priors.models, settings, workdir / name, should_stop)
    return _of_agents(settings, from_first(lambda: _conclude(config, workdir).encode()), workdir)


def _refine(
    config: Config,
    settings: Settings,
    workdir: pathlib.Path,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Carries out the rounds that refine the prior, as far as they were not before."""
    from llmprior_jax.training import refinement

    wanted = settings.prior.refine
    for number in range(1, (wanted.rounds or 0) + 1):
        of_round = refinement.directory(workdir, number)
        if refinement.is_done(of_round):
            continue
        tqdm.tqdm.write(f"refining the prior: round {number} of {wanted.rounds}")
        run(refinement.config_of(config, number), of_round, should_stop=should_stop)
        # Nothing holds what is restored, with its table and models, when the next round begins.
        refinement.distil(
            restore(of_round, wanted.agent, wanted.episodes, None, should_stop, "sample"),
            read_settings(of_round),
            of_round,
            should_stop,
        )


def _of_agents(settings: Settings, content: bytes, workdir: pathlib.Path) -> dict[str, Any]:
    """What a summary says of a run's agents."""
    path = workdir / SUMMARY_FILE
    summary = parse_json(content, path, dict[str, dict[str, Any]])
    if missing := [name for name in settings.agents if name not in summary]:
        raise ValueError(f"{path} says nothing of {', '.join(missing)}")
    return {name: summary[name] for name in settings.agents}


def prepare(
    config: Config, workdir: pathlib.Path | None
) -> tuple[Config, "TextEnvironment | EngineGames", Any]:
    """What a run trains by, checked, and the environment with its parameters.

    Where a configuration leaves something to the language model, what its directory recorded
    stands.

    Raises:
      ValueError: the configuration is invalid.
    """
    from llmprior_jax.training import build, validation

    recorded = None
    if workdir is not None:
        path = workdir / CONFIG_FILE
        content = from_first(lambda: path.read_bytes() if path.exists() else b"")
        recorded = parse_config(content, path) if content else None
    complete = settled(config, recorded)
    settings = to_settings(complete)
    validation.validate(settings)
    env, env_params = build.make_environment(settings)
    named = settings.prior.examples.file or settings.prior.examples.workdir
    if not named and not env.examples():
        complete = settled(config, recorded, has_examples=False)
    return complete, env, env_params


@contextlib.contextmanager
def explain_out_of_memory(name: str, settings: Settings, workdir: object) -> Generator[None]:
    """Turns the runtime's report of a full device into advice, while an agent is trained."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0]
        run, loop, policy = settings.run, settings.loop, settings.policy
        if agents.is_policy(name):
            sizes = (
                f"minibatches of {policy.minibatch_states} states (config.policy.minibatch_states) "
                f"from rollouts of {policy.num_envs} environments (config.policy.num_envs) and "
                f"{policy.rollout_steps} steps (config.policy.rollout_steps), in each of "
                f"{run.num_seeds} seeds (config.num_seeds)"
            )
            lower = "Lower one of them"
            if policy.lora_rank is None:
                lower += ", or learn less of the model (config.policy.lora_rank=8),"
        else:
            sizes = (
                f"{run.num_seeds} seeds (config.num_seeds) of {loop.num_envs} environments "
                f"(config.loop.num_envs), batches of {loop.batch_size} (config.loop.batch_size) "
                f"and evaluations of {run.eval_episodes} episodes (config.eval_episodes)"
            )
            lower = "Lower one of them"
        raise OutOfMemoryError(
            f"{name} ran out of a device's memory ({reason}) with {sizes}. {lower} in another "
            "--workdir, or spread the run over more devices (--mesh=data:4,model:2); the same "
            f"command goes on from the last checkpoint in {workdir}"
        ) from error


def _look(
    name: str,
    settings: Settings,
    env: Any,
    env_params: Any,
    priors: "Priors",
    workdir: pathlib.Path,
) -> None:
    """Warns if the prior alone is worse than a uniform policy; has them play if none did before.

    The prior is what the agent `name` starts from.
    """
    from llmprior_jax.training import prior_alone
    from llmprior_jax.training.build_agent import seen_by

    settings = dataclasses.replace(settings, prior=seen_by(name, settings.prior))
    path = workdir / PRIOR_ALONE
    kept = from_first(lambda: path.read_bytes() if path.exists() else b"")
    found: Any = None
    if kept:
        try:
            found = parse_json(kept, path, prior_alone.Found)
        except ValueError as error:
            logging.warning("%s; the prior alone plays again", error)
    if found is None:
        found = prior_alone.look(settings, env, env_params, priors, workdir / PRIOR_TABLE)
        in_first(lambda: write_atomically(path, json.dumps(sealed(found), indent=2) + "\n"))
    if is_first():
        prior_alone.warn(found, settings, name)


def _conclude(config: Config, workdir: pathlib.Path) -> str:
    """Writes the summary and the learning curves of a finished run; returns the summary as JSON."""
    unit, modes = step_unit(config), config.eval_modes
    records = {name: read_metrics(workdir / name) for name in config.agents}
    summary = {
        name: summaries.summarize(of_agent, unit, modes) for name, of_agent in records.items()
    }
    if (workdir / PRIOR_ALONE).exists():
        summary[summaries.BEFORE_TRAINING] = read_json(workdir / PRIOR_ALONE)
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(workdir / SUMMARY_FILE, text)
    summaries.plot(records, workdir / CURVES, unit)
    return text


def _report(model: "CachedModel", workdir: pathlib.Path) -> None:
    """Says how much the language model was asked, and adds it to the run's record."""
    from llmprior_jax.priors import StoreError

    queries = model.queries
    held = None
    # A model that was not asked has no fingerprint yet; what ails a store was told before.
    if queries.made or queries.saved:
        with contextlib.suppress(StoreError):
            held = model.usage()
    tqdm.tqdm.write(
        f"prior {model.name}: {queries.made:,} language-model queries made "
        f"({queries.per_second:,.0f}/s), {queries.saved:,} saved by the store"
        + (f", {queries.not_kept:,} not kept" if queries.not_kept else "")
        + (f"; {held.bytes_per_prompt / 1e3:,.1f} KB in the store for a prompt" if held else "")
    )
    record = {"model": model.name} | queries._asdict() | {"per_second": queries.per_second}
    append(workdir / QUERIES, json.dumps(record))


def _report_cost(scored: "ScoredStates") -> None:
    """Says what the run's states cost, if it came to them."""
    if scored.is_loaded:
        tqdm.tqdm.write(f"prior: {scored.cost()}")


def _train(
    name: str,
    run: "Run",
    models: "Sequence[CachedModel]",
    settings: Settings,
    directory: pathlib.Path,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Trains one agent to the end, or goes on with it."""
    with Checkpoints(directory / CHECKPOINTS, settings.checkpoint.keep) as checkpoints:
        restored = checkpoints.restore_latest(run.state)
        if restored is not None:
            go_back(run, *restored, directory / CHECKPOINTS)
            if is_first():
                how = "is finished" if run.steps >= run.num_steps else "resumes"
                tqdm.tqdm.write(f"{name}: {how} after {run.steps:,} {run.unit}")
        with contextlib.ExitStack() as opened:
            metrics = bar = None
            if is_first():
                last = -1 if restored is None else run.segments
                metrics = opened.enter_context(MetricsWriter(directory, last, run.steps, settings))
                bar = opened.enter_context(_bar(name, run))
            asked_before = [model.queries.made for model in models]

            def record(values: dict[str, Any]) -> None:
                values |= run.scored.metrics()
                if metrics is not None:
                    metrics.write(run.segments, run.steps, **values)
                if bar is not None:
                    # A run may overshoot its budget.
                    bar.update(min(run.steps, run.num_steps) - bar.n)
                    shown = {"success": f"{np.mean(values['success_rate']):.2f}"}
                    speeds = [
                        f"{model.queries.per_second:,.0f}"
                        for model, before in zip(models, asked_before, strict=True)
                        if model.queries.made > before
                    ]
                    if speeds:
                        shown["queries/s"] = " and ".join(speeds)
                    bar.set_postfix(shown)

            if restored is None:
                record(run.evaluate())
                checkpoints.save(0, run.state, run.meta())
                # A restart before that would begin with a fuller table, and end with other bits.
                checkpoints.wait()
            while run.steps < run.num_steps:
                before = run.steps
                learned = run.train()
                if np.any(diverged := run.diverged(learned)):
                    raise DivergedError(_diverged(name, run, before, np.flatnonzero(diverged)))
                record(learned | run.evaluate())
                done, stop = (
                    run.steps >= run.num_steps,
                    in_any(should_stop is not None and should_stop()),
                )
                if run.segments % settings.checkpoint.every == 0 or done or stop:
                    checkpoints.save(run.segments, run.state, run.meta())
                if stop and not done:
                    raise InterruptedRunError(
                        f"stopped after {run.steps:,} of {run.num_steps:,} {run.unit} of {name}; "
                        "the same command goes on from there"
                    )


def _diverged(name: str, run: "Run", before: int, seeds: np.ndarray) -> str:
    """What to say of an agent that has diverged in some seeds since so many steps."""
    part = "policy" if agents.is_policy(name) else "agent"
    return (
        f"{name} has diverged: its loss or parameters are not finite since after step {before:,} "
        f"and before step {run.steps + 1:,} ({run.unit}), in seeds {', '.join(map(str, seeds))}; "
        f"lower config.{part}.learning_rate or config.{part}.max_grad_norm, or look for rewards "
        "that are too large, and use another --workdir. The last checkpoint is from before"
    )


def _bar(name: str, run: "Run") -> Any:
    """Of an agent's steps; one that does not learn takes none, and shows how it does."""
    return progress.bar(
        total=run.num_steps,
        initial=run.steps,
        desc=name,
        unit=f" {run.unit.split()[-1]}",
        bar_format=None if run.num_steps else "{desc}: {elapsed}{postfix}",
    )
