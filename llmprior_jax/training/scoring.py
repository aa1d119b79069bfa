"""Filling the table of priors: observations to text, text to the language model, rows to disk.

This is where the language model is asked, on the host, in batches, each text once. The model is
loaded only when a state must be scored that the table does not hold yet.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
import tqdm

from llmprior_jax import models
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import prompts, score, whitening
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.training.files import write_atomically
from llmprior_jax.types import ActionPrior, TextState

_STATES_PER_CALL = 32
_EXPLORED_EPISODES, _EXPLORED_STEPS = 32, 32


class States(Protocol):
    """States by their observation: what the filler asks of an environment."""

    @property
    def num_actions(self) -> int:
        """A, action slots of a state."""
        ...

    def text_state(self, observation: np.ndarray) -> TextState:
        """Puts one observation into words."""
        ...


class TableFiller:
    """Scores states of one environment with one language model, and keeps them in a file."""

    def __init__(
        self,
        states: "States",
        first_observations: Callable[[], np.ndarray],
        model: str,
        normalization: str,
        temperature: float,
        num_features: int,
        path: str | pathlib.Path,
        read_only: bool = False,
    ):
        """Nothing is loaded or scored yet.

        Args:
          states: the states to score, such as those of an environment.
          first_observations: gives the observations [N, *O] that a new table begins with, without
            duplicates; `first_observations` for environments in JAX.
          model: the language model, as `llmprior_jax.models.load` takes it.
          normalization: see `llmprior_jax.priors.score`.
          temperature: see `llmprior_jax.priors.score`.
          num_features: K, whitened features kept per action (`priors.whitening`).
          path: file that holds the rows, in the order in which they were added.
          read_only: leave the file as it is, and keep new rows in memory only.
        """
        self._states = states
        self._first_observations = first_observations
        self._model = model
        self._normalization = normalization
        self._temperature = temperature
        self._num_features = num_features
        self._path = pathlib.Path(path)
        self._read_only = read_only

    @property
    def has_table(self) -> bool:
        """Whether the file is there, so that the model may not be needed."""
        return self._path.exists()

    def load_model(self) -> None:
        """Loads the language model now, to see whether it can be."""
        _ = self._language_model

    @functools.cached_property
    def _language_model(self) -> models.LanguageModel:
        return models.load(self._model)

    def load(self, size: int | None = None) -> PriorTable:
        """The table as it was when it had `size` rows (all of them by default).

        Without a file yet, it begins with the first observations, and the features are whitened by
        what they look like there.
        """
        if not self._path.exists():
            observations = self._first_observations()
            log_probs, features = self._score(observations)
            whiten = whitening.fit(features[np.isfinite(log_probs)], self._num_features)
            self._save(_whitened(whiten, observations, log_probs, features), whiten)
        rows, _ = self._read()
        if size is not None and size > len(rows.observations):
            raise ValueError(
                f"{self._path} has {len(rows.observations)} rows where {size} are needed; "
                "the file is not the one of this run. Start again with another --workdir"
            )
        rows = _Rows(*(leaf[:size] for leaf in rows))
        table = tables.empty(rows.observations[0], *rows.features.shape[1:])
        return _insert(table, rows)

    def extend(self, table: PriorTable, observations: np.ndarray) -> PriorTable:
        """Scores the states [M, *O] that the table lacks, adds them to it, and saves it."""
        known = {key.tobytes() for key in np.asarray(table.observations)[: int(table.size)]}
        new = [key for key in without_duplicates(observations) if key.tobytes() not in known]
        if not new:
            return table
        _, whiten = self._read()
        log_probs, features = self._score(np.stack(new))
        table = _insert(table, _whitened(whiten, np.stack(new), log_probs, features))
        size = int(table.size)
        leaves = (table.observations, table.prior.log_probs, table.prior.features)
        self._save(_Rows(*(np.asarray(leaf)[:size] for leaf in leaves)), whiten)
        return table

    def _score(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`log_probs` f32[M, A] and hidden states f32[M, A, D] of M states; asks a text once."""
        texts = [prompts.plain(self._states.text_state(key)) for key in observations]
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(texts))}
        distinct = list(row_of)
        shape = (len(distinct), self._states.num_actions)
        log_probs = np.full(shape, -np.inf, np.float32)
        features = np.zeros((*shape, self._language_model.config.hidden_size), np.float32)
        with tqdm.tqdm(total=len(distinct), desc="prior", unit="state", disable=None) as bar:
            for start in range(0, len(distinct), _STATES_PER_CALL):
                batch = distinct[start : start + _STATES_PER_CALL]
                prior = score(
                    self._language_model,
                    [prompt.text for prompt in batch],
                    [prompt.actions for prompt in batch],
                    normalization=self._normalization,
                    temperature=self._temperature,
                )
                rows, actions = slice(start, start + len(batch)), slice(prior.log_probs.shape[1])
                log_probs[rows, actions] = prior.log_probs
                features[rows, actions] = prior.features
                bar.update(len(batch))
        rows = [row_of[prompt] for prompt in texts]
        return log_probs[rows], features[rows]

    def _read(self) -> tuple["_Rows", whitening.Whitening]:
        try:
            arrays = safetensors.numpy.load_file(self._path)
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{self._path} is damaged ({error}); start the run again with --noresume"
            ) from error
        return (
            _Rows(*(arrays[name] for name in _Rows._fields)),
            whitening.Whitening(*(arrays[name] for name in whitening.Whitening._fields)),
        )

    def _save(self, rows: "_Rows", whiten: whitening.Whitening) -> None:
        if self._read_only:
            return
        arrays = rows._asdict() | whiten._asdict()
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        write_atomically(self._path, safetensors.numpy.save(contiguous))


class _Rows(NamedTuple):
    """The rows of a table on the host; the names are those in the file."""

    observations: np.ndarray
    log_probs: np.ndarray
    features: np.ndarray


def _whitened(
    whiten: whitening.Whitening,
    observations: np.ndarray,
    log_probs: np.ndarray,
    features: np.ndarray,
) -> _Rows:
    """Rows with whitened features, still zero where no action is."""
    is_action = np.isfinite(log_probs)[..., None]
    return _Rows(observations, log_probs, np.where(is_action, whiten(features), 0.0))


def _insert(table: PriorTable, rows: _Rows) -> PriorTable:
    prior = ActionPrior(jnp.asarray(rows.log_probs), jnp.asarray(rows.features))
    return tables.insert(table, rows.observations, prior)


def first_observations(env: TextEnvironment, env_params: Any) -> np.ndarray:
    """Distinct observations [N, *O] of an environment, enough to see how features spread.

    All of them where it can list them, otherwise those that random play meets.
    """
    listed = env.list_observations()
    if listed is not None:
        return listed

    def play(key: jax.Array) -> jax.Array:
        reset_key, play_key = jax.random.split(key)
        observation, state = env.reset(reset_key, env_params)

        def step(carry, key):
            observation, state = carry
            act_key, step_key = jax.random.split(key)
            mask = env.action_mask(state, env_params)
            action = jax.random.categorical(act_key, jnp.where(mask, 0.0, -jnp.inf))
            next_observation, state, *_ = env.step(step_key, state, action, env_params)
            return (next_observation, state), observation

        _, observations = jax.lax.scan(
            step, (observation, state), jax.random.split(play_key, _EXPLORED_STEPS)
        )
        return observations

    keys = jax.random.split(jax.random.key(0), _EXPLORED_EPISODES)
    observations = np.asarray(jax.jit(jax.vmap(play))(keys))
    return without_duplicates(observations.reshape(-1, *observations.shape[2:]))


def without_duplicates(observations: np.ndarray) -> np.ndarray:
    """The distinct observations, in the order of their first appearance."""
    flat = np.asarray(observations).reshape(len(observations), -1)
    _, first = np.unique(flat, axis=0, return_index=True)
    return observations[np.sort(first)]
