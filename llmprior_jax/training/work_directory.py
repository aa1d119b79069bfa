"""What lies in a run's work directory; restoring an agent from it; removing the run.

A work directory has the configuration, the priors of all states that were met, the summary and
learning curves, and a directory per agent with its metrics and checkpoints.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from llmprior_jax.distributed import locks
from llmprior_jax.distributed.mesh import make_mesh
from llmprior_jax.distributed.processes import from_first
from llmprior_jax.errors import RestoreError
from llmprior_jax.models import adapters
from llmprior_jax.priors import prompts
from llmprior_jax.priors.prompts import Example
from llmprior_jax.settings import Settings
from llmprior_jax.training import examples, provenance
from llmprior_jax.training.checkpoints import BROKEN, CHECKPOINTS, Checkpoints
from llmprior_jax.training.config import CONFIG_FILE, Config, priors_of, read_config, to_settings
from llmprior_jax.training.metrics import METRICS_FILES

if TYPE_CHECKING:
    from llmprior_jax.envs import TextEnvironment
    from llmprior_jax.learning import Run
    from llmprior_jax.play.engine_games import EngineGames

SUMMARY_FILE = "summary.json"
PRIOR_TABLE = "prior_table"
QUERIES = "prior_queries.jsonl"
CURVES = "learning_curves.png"
PRIOR_ALONE = "prior_alone.json"
_LOCK = ".lock"
# What is made in an agent's directory.
_OF_AGENT = (*METRICS_FILES, CHECKPOINTS, f"{CHECKPOINTS}{BROKEN}")


def locked(workdir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """The lock on a work directory, which is there; who writes a run in it holds that."""
    return locks.hold(workdir / _LOCK, of=workdir)


def read_settings(workdir: pathlib.Path) -> Settings:
    """The settings of a run, with the model that its prior was refined to, if it was.

    Raises:
      FileNotFoundError: the directory holds no run, or its prior is not refined yet.
      ValueError: the configuration is damaged.
    """
    from llmprior_jax.training import refinement

    return refinement.adapted(to_settings(read_config(workdir)), workdir)


def restore(
    workdir: str | pathlib.Path,
    name: str,
    eval_episodes: int,
    mesh: str | None = None,
    should_stop: Callable[[], bool] | None = None,
    eval_mode: str | None = None,
    search: int | None = None,
) -> "Run":
    """Restores an agent of a finished or interrupted run, to evaluate it.

    If the run's store of priors does not exist, it is not created, and the language model's answers
    are not stored.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> sorted(run.evaluate())
      ['episode_length', 'return', 'success_rate']

    Args:
      workdir: directory of the run.
      name: one of the run's agents.
      eval_episodes: episodes per seed that `Run.evaluate` will take.
      mesh: the devices, see `distributed.make_mesh`; by default those that the run was trained on
        where there are so many, and otherwise as many as divide the seeds.
      should_stop: asked while the language model is loaded and asked (`priors.CachedModel`).
      eval_mode: how the agent acts, "sample", "greedy" or "candidates" (`RunSettings.eval_modes`);
        by default as in the run's evaluations.
      search: simulations of the tree search by which it acts (`agents.with_search`); by default as
        in the run's evaluations.

    Raises:
      FileNotFoundError: the directory holds no run, or no checkpoint of the agent.
      ValueError: the run has no such agent, it cannot search, or the mesh, the mode or the number
        of episodes or simulations is not possible.
      RestoreError: the agent has checkpoints, and none can be read, or another version wrote them.
    """
    from llmprior_jax.training import build

    workdir = pathlib.Path(workdir)
    known = to_settings(read_config(workdir)).agents
    if name not in known:
        raise ValueError(f"{workdir} has no agent {name!r}; it has {', '.join(known)}")
    settings = read_settings(workdir)
    settings = _for_evaluation(settings, name, eval_episodes, mesh, eval_mode, search)
    env, env_params = build.make_environment(settings)
    shown = make_examples(settings, env, workdir)
    priors = build.make_priors(
        settings, env, env_params, workdir / PRIOR_TABLE, True, shown, should_stop
    )
    run = build.make_run(name, settings, env, env_params, priors, build.read_dataset(settings))
    directory = workdir / name / CHECKPOINTS
    if not directory.exists():
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    with Checkpoints(directory, settings.checkpoint.keep, read_only=True) as checkpoints:
        restored = checkpoints.restore_latest(run.state)
    if restored is None:
        raise FileNotFoundError(f"{workdir} has no checkpoint of {name} yet")
    go_back(run, *restored, directory)
    return run


def make_examples(
    settings: Settings,
    env: "TextEnvironment | EngineGames",
    workdir: pathlib.Path | None,
) -> list[Example]:
    """The episodes that a run's prompts show: those in its directory, or else new ones.

    New ones are from the run or the file that the settings name, or else the environment's own.

    Raises:
      FileNotFoundError, ValueError, RestoreError: the agent that is to show how cannot be restored,
        or the file that does cannot be read.
      ValueError: the agent does not succeed often enough, or nothing is named and the environment
        has no examples of its own.
    """
    asked_so = [prior.prompt for prior in priors_of(settings.prior)]
    showing = [prompt for prompt in asked_so if prompts.FEW_SHOT in prompts.words(prompt)]
    if not showing:
        return []
    kept = None if workdir is None else examples.read(workdir)
    if kept is not None:
        return kept
    source = settings.prior.examples
    if source.file is not None:
        return examples.read_file(source.file)
    if source.workdir is None:
        if own := env.examples():
            return list(own)
        raise ValueError(
            f"config.prior.prompt is {showing[0]!r}, which shows successful episodes, "
            f"and {env.name} has none of its own: name a file of them "
            "(config.prior.examples.file), or a run to take them from "
            "(config.prior.examples.workdir)"
        )
    run = restore(source.workdir, source.agent, eval_episodes=1, eval_mode="sample")
    return examples.collect(run, source.count, jax.random.key(settings.run.seed))


def _for_evaluation(
    settings: Settings,
    name: str,
    eval_episodes: int,
    mesh: str | None,
    eval_mode: str | None,
    search: int | None,
) -> Settings:
    """The settings of a run with other evaluations, on the devices that are here."""
    from llmprior_jax.training import build, validation

    validation.RANGES["eval_episodes"].check("eval_episodes", eval_episodes)
    run = settings.run
    if mesh is None:
        mesh = run.mesh
        try:
            make_mesh(mesh, run.num_seeds, build.shared_environments(settings))
        except ValueError:
            mesh = None
    modes = (eval_mode,) if eval_mode else run.eval_modes
    build.check_eval_modes(modes, [name])
    run = dataclasses.replace(run, eval_episodes=eval_episodes, eval_modes=modes, mesh=mesh or None)
    how = settings.search
    if search is not None:
        validation.RANGES["search.simulations"].check("search", search)
        how = dataclasses.replace(how, simulations=search)
    prior, store = settings.prior, settings.prior.store
    if store is not None and not from_first(lambda: b"yes" if _is_file(store) else b""):
        prior = dataclasses.replace(prior, store=None)
    settings = dataclasses.replace(settings, run=run, prior=prior, search=how)
    build.check_search(name, settings)
    return settings


def _is_file(path: str) -> bool:
    return pathlib.Path(path).expanduser().is_file()


def go_back(
    run: "Run", step: int, state: Any, meta: dict[str, Any], directory: pathlib.Path
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
    run.restore(state, meta)


def made_by_run(workdir: pathlib.Path) -> list[pathlib.Path]:
    """What the run that a directory holds has made, and nothing else that may lie there.

    Files come before the directories that they are in. A directory of the run in which something
    else lies is to stay, and so are the other things in it.

    Raises:
      ValueError: the configuration is damaged, or a link stands where the run had made something.
    """
    from llmprior_jax.play import row_files
    from llmprior_jax.training import refinement

    try:
        config = read_config(workdir)
    except FileNotFoundError:
        return []
    top = (QUERIES, SUMMARY_FILE, CURVES, PRIOR_ALONE, provenance.FILE, examples.FILE)
    folders: dict[pathlib.Path, Sequence[str]] = dict.fromkeys(
        (workdir / name for name in config.agents), _OF_AGENT
    )
    folders[workdir / PRIOR_TABLE] = row_files.FILES
    made: list[pathlib.Path] = []
    if refinement.is_round(workdir):
        folders[workdir / refinement.DISTILLATION] = _OF_AGENT
        folders[workdir / refinement.ADAPTER] = adapters.FILES
    rounds = _rounds_of(workdir, config)
    links = [path for path in (workdir / refinement.ROUNDS, *rounds) if path.is_symlink()]
    if not links:
        for of_round in rounds:
            made_by_run(of_round)
    for folder, patterns in folders.items():
        # A link is named below; what it leads to is not looked at.
        if not folder.is_symlink():
            made += [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        if folder.is_symlink() or folder.is_dir():
            made.append(folder)
    # Without the configuration nothing would say what is left, should this be killed.
    made += [workdir / name for name in (*top, CONFIG_FILE)]
    if links := [*links, *(path for path in made if path.is_symlink())]:
        raise ValueError(
            f"{links[0]} is a symbolic link, which no run makes, and --noresume follows none: "
            "remove it yourself, or use another --workdir"
        )
    return made


def _rounds_of(workdir: pathlib.Path, config: Config) -> list[pathlib.Path]:
    """The rounds that refined the prior of a run, as far as there are any."""
    from llmprior_jax.training import refinement

    if refinement.is_round(workdir):
        return []
    number = config.prior.refine.rounds or 0
    rounds = (refinement.directory(workdir, each) for each in range(1, number + 1))
    return [of_round for of_round in rounds if of_round.is_dir()]


def clear(workdir: pathlib.Path) -> None:
    """Removes the run that a directory holds; see `made_by_run`."""
    made = made_by_run(workdir)
    if made:
        rounds = _rounds_of(workdir, read_config(workdir))
        for of_round in rounds:
            clear(of_round)
        for folder in (*rounds, *{of_round.parent for of_round in rounds}):
            if not any(folder.iterdir()):
                folder.rmdir()
    for path in made:
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif path.parent != workdir:
            shutil.rmtree(path)
        elif not any(path.iterdir()):
            path.rmdir()
