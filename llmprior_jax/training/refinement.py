"""Rounds in which the prior learns: where they are, what they train, and what is distilled.

Each round is a work directory of its own under `prior_rounds` in that of the run: an agent learns
under the prior as it is (the E-step), plays, and what it would do in the states of its successful
episodes becomes the language model's (the M-step, `learning.refining`). What comes of a round is an
adapter (`models.adapters`). Its content is part of the model's fingerprint, so that nothing that
was scored before is mixed with what is scored after.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from llmprior_jax import models
from llmprior_jax.distributed.seeds import fold_in
from llmprior_jax.errors import DivergedError, InterruptedRunError
from llmprior_jax.learning import Run
from llmprior_jax.learning.refining import Visited, make_refining
from llmprior_jax.models import adapters, lora
from llmprior_jax.models.formats import places
from llmprior_jax.play.evaluation import Episodes
from llmprior_jax.priors.language_policy import language_policy
from llmprior_jax.settings import Settings
from llmprior_jax.training.checkpoints import CHECKPOINTS, Checkpoints
from llmprior_jax.training.config import Config
from llmprior_jax.training.metrics import MetricsWriter

ROUNDS = "prior_rounds"
"""The directory of the rounds in a run's work directory."""
DISTILLATION = "distillation"
"""The directory of a round for the M-step's metrics and checkpoints."""
ADAPTER = "adapter"
"""The directory of a round for what came of it."""
# Of the keys of a round's evaluations, so that no stream of its own is touched.
_STREAM = 2**31 - 2
# Parts of the updates of a round, after each of which there is a checkpoint.
_PARTS = 10
_KEPT = 2


def is_round(workdir: pathlib.Path) -> bool:
    """Whether a work directory is that of a round."""
    return workdir.parent.name == ROUNDS


def directory(workdir: pathlib.Path, number: int) -> pathlib.Path:
    """The work directory of a round, from 1 on.

    Args:
      workdir: that of the run, or of one of its rounds.
      number: of the round.
    """
    rounds = workdir.parent if is_round(workdir) else workdir / ROUNDS
    return rounds / str(number)


def is_done(of_round: pathlib.Path) -> bool:
    """Whether a round has come to its end."""
    return adapters.is_adapter(of_round / ADAPTER)


def config_of(config: Config, number: int) -> Config:
    """The configuration of a round's own run, under the prior of the rounds before it.

    Unseen games take no part: what is met in them is nothing to learn from.
    """
    its_own: Config = config.copy_and_resolve_references()
    its_own.agents = (config.prior.refine.agent,)
    its_own.games.unseen = ()
    its_own.num_steps = config.prior.refine.num_steps or config.num_steps
    its_own.prior.refine.rounds = number - 1
    return its_own


def adapted(settings: Settings, workdir: pathlib.Path) -> Settings:
    """The settings with the model that the rounds have made of the prior's; the same without any.

    A policy that begins as the prior's model begins as the refined one.

    Raises:
      FileNotFoundError: there are rounds that have not come to their end.
    """
    rounds = settings.prior.refine.rounds
    if rounds is None:
        return settings
    last = directory(workdir, rounds)
    if not is_done(last):
        raise FileNotFoundError(
            f"the prior of {workdir} is not refined yet: there is no {last / ADAPTER}; give the "
            "run's command again, which goes on where it stopped"
        )
    model, policy = str(last / ADAPTER), settings.policy
    if policy.model == settings.prior.model:
        policy = dataclasses.replace(policy, model=model)
    prior = dataclasses.replace(settings.prior, model=model)
    return dataclasses.replace(settings, prior=prior, policy=policy)


def check(settings: Settings) -> None:
    """Raises a ValueError if the prior's model is an adapter that the rounds cannot go on from."""
    prior = settings.prior
    if adapters.is_adapter(prior.model):
        rank = adapters.open_adapter(prior.model).rank
        if rank != prior.refine.rank:
            raise ValueError(
                f"config.prior.refine.rank is {prior.refine.rank}, and the adapter "
                f"{prior.model} has factors of rank {rank}, which the rounds go on from; use "
                f"--config.prior.refine.rank={rank}"
            )


def distil(
    trained: Run,
    settings: Settings,
    of_round: pathlib.Path,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Makes the adapter of a round whose agent is trained, or goes on with it.

    Args:
      trained: the run of the round, whose evaluations have the episodes that are wanted.
      settings: of the round, with the model that its prior is of.
      of_round: its work directory.
      should_stop: asked after every few updates.

    Raises:
      ValueError: no episode succeeded, or the model has no linear layers.
      DivergedError: the language model's loss is not finite.
      InterruptedRunError: `should_stop` said so.
    """
    keys = fold_in(trained.keys["fresh"], _STREAM)
    played = trained.player.evaluate(trained.state.agent, keys)[""]
    row, times = visited(played)
    base, lm, factors = _adapting(settings)
    how = settings.prior.normalization, settings.prior.temperature
    model = language_policy(lm, trained.player.env.num_actions, *how, settings.prior.refine.rank)
    text_state, build_prompt = trained.player.env.text_state, trained.scored.build_prompt
    observations = np.asarray(trained.table.observations[: int(trained.table.size)])[row]
    asked = [build_prompt(text_state(observation)) for observation in observations]
    states = Visited(
        rows=jax.tree.map(
            jnp.asarray, model.read([p.text for p in asked], [p.actions for p in asked])
        ),
        posterior=_posterior(trained)[row],
        old=trained.table.log_probs[row],
        weight=jnp.asarray(times),
    )
    params = _learn(model, factors, states, settings, of_round, should_stop)
    adapters.write(of_round / ADAPTER, base, lm.config, params)
    tqdm.tqdm.write(f"prior: refined by {len(row):,} states, now {of_round / ADAPTER}")


def visited(played: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """The rows i64[M] of the states to learn from, and how much each counts, f32[M].

    Those of successful episodes do, once for each time that one was there. The posterior of whole
    episodes is proportional to their probability under the prior times the exponential of their
    return by alpha; alpha is small, so that failures have next to no share in it.

    Raises:
      ValueError: no episode succeeded.
    """
    assert played.rows is not None
    rows = np.asarray(played.rows)
    success = np.asarray(played.success)
    if not success.any():
        raise ValueError(
            f"none of {success.size:,} episodes succeeded, so there is nothing to refine the prior "
            "by: train longer (config.num_steps), play more episodes "
            "(config.prior.refine.episodes), or begin with a better prior, in another --workdir"
        )
    times = np.bincount(rows[success[..., None] & (rows >= 0)])
    (row,) = np.nonzero(times)
    return row, times[row].astype(np.float32)


def _posterior(trained: Run) -> jax.Array:
    """log pi(a|s) f32[R, A] of all states met, where pi is the mean over seeds."""
    agents = trained.state.agent
    each = [
        trained.player.policies(agents, seed)[1].log_probs
        for seed in range(len(trained.keys["fresh"]))
    ]
    return jax.nn.logsumexp(jnp.stack(each), axis=0) - jnp.log(len(each))


def _adapting(settings: Settings) -> tuple[str, models.LanguageModel, dict[str, lora.Factors]]:
    """The model that the prior is of without an adapter, its name, and the factors as they are."""
    name = settings.prior.model
    if adapters.is_adapter(name):
        adapter = adapters.open_adapter(name)
        lm = models.load(adapter.base, jnp.float32)
        return adapter.base, lm, adapter.read(lm.config, adapters.shapes_of(lm.params))
    lm = models.load(name, jnp.float32)
    key = jax.random.key(settings.run.seed)
    return places.absolute(name), lm, lora.init(key, lm.params, settings.prior.refine.rank)


def _learn(
    model: Any,
    factors: dict[str, lora.Factors],
    states: Visited,
    settings: Settings,
    of_round: pathlib.Path,
    should_stop: Callable[[], bool] | None,
) -> Any:
    """The factors after the updates of a round."""
    refine = settings.prior.refine
    refining = make_refining(
        model,
        leash=refine.leash,
        learning_rate=refine.learning_rate,
        updates=refine.updates,
        batch_states=refine.batch_states,
    )
    state = refining.init(jax.random.key(settings.run.seed), factors)
    directory = of_round / DISTILLATION
    with Checkpoints(directory / CHECKPOINTS, _KEPT) as checkpoints:
        restored = checkpoints.restore_latest(state)
        done = 0
        if restored is not None:
            done, state, _ = restored
        with MetricsWriter(directory, _part(done, refine.updates), done) as metrics:
            while done < refine.updates:
                number = min(-(-refine.updates // _PARTS), refine.updates - done)
                state, learned = refining.segment(state, model.frozen, states, jnp.int32(number))
                done += number
                if not np.isfinite(learned["loss"]):
                    raise DivergedError(
                        "the refinement of the prior has diverged: its loss is not finite before "
                        f"update {done + 1:,}; lower config.prior.refine.learning_rate, and use "
                        "another --workdir"
                    )
                metrics.write(_part(done, refine.updates), done, **learned)
                checkpoints.save(done, state, {})
                if should_stop is not None and should_stop() and done < refine.updates:
                    raise InterruptedRunError(
                        f"stopped after {done:,} of {refine.updates:,} updates of the prior; the "
                        "same command goes on from there"
                    )
    return state.params


def _part(done: int, updates: int) -> int:
    """The number of the part of a round's updates that ends when so many are done, from 1 on."""
    return -(-done // -(-updates // _PARTS))
