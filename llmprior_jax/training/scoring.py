"""Filling the table of priors: observations to text, text to the language model, rows to disk.

This is where the language model is asked, on the host, in batches, each text once. The model is
loaded only when a state must be scored that the table does not hold yet.
"""

import functools
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tqdm

from llmprior_jax import models
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.priors import prompts, score
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.training.files import write_atomically
from llmprior_jax.types import ActionPrior

_STATES_PER_CALL = 32
_ROWS = ("observations", "log_probs", "features")


class TableFiller:
    """Scores states of one environment with one language model, and keeps them in a file."""

    def __init__(
        self,
        env: TextEnvironment,
        example: np.ndarray,
        model: str,
        normalization: str,
        temperature: float,
        path: str | pathlib.Path,
    ):
        """Nothing is loaded or scored yet.

        Args:
          env: the environment whose states are scored.
          example: [*O], any observation of it, for its shape and dtype.
          model: the language model, as `llmprior_jax.models.load` takes it.
          normalization: see `llmprior_jax.priors.score`.
          temperature: see `llmprior_jax.priors.score`.
          path: file that holds the rows, in the order in which they were added.
        """
        self._env = env
        self._example = np.asarray(example)
        self._model = model
        self._normalization = normalization
        self._temperature = temperature
        self._path = pathlib.Path(path)

    @functools.cached_property
    def _language_model(self) -> models.LanguageModel:
        return models.load(self._model)

    def load(self, size: int | None = None) -> PriorTable:
        """The table as it was when it had `size` rows (all of them by default).

        Without a file yet, it is filled with all states of an environment that can list them.
        """
        if self._path.exists():
            rows = safetensors.numpy.load_file(self._path)
            if size is not None and size > len(rows["observations"]):
                raise ValueError(
                    f"{self._path} has {len(rows['observations'])} rows where {size} are needed; "
                    "the file is not the one of this run. Start again with another --workdir"
                )
            return self._insert(None, *(rows[name][:size] for name in _ROWS))
        observations = self._env.list_observations()
        return self.extend(None, self._example[None][:0] if observations is None else observations)

    def extend(self, table: PriorTable | None, observations: np.ndarray) -> PriorTable:
        """Scores states that the table lacks, adds them to it, and saves it.

        Args:
          table: the table, or None to begin one.
          observations: [M, *O], states to add; duplicates and states in the table are passed over.
        """
        observations = _without_duplicates(observations)
        if table is not None:
            known = {key.tobytes() for key in np.asarray(table.observations)[: int(table.size)]}
            observations = np.array([key for key in observations if key.tobytes() not in known])
            if len(observations) == 0:
                return table
        table = self._insert(table, observations, *self._score(observations))
        self._save(table)
        return table

    def _insert(
        self,
        table: PriorTable | None,
        observations: np.ndarray,
        log_probs: np.ndarray,
        features: np.ndarray,
    ) -> PriorTable:
        if table is None:
            table = tables.empty(self._example, *features.shape[1:])
        prior = ActionPrior(jnp.asarray(log_probs), jnp.asarray(features))
        return tables.insert(table, observations, prior)

    def _score(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`log_probs` f32[M, A] and `features` f32[M, A, D] of M states; scores each text once."""
        texts = [prompts.plain(self._env.text_state(observation)) for observation in observations]
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(texts))}
        distinct = list(row_of)
        shape = (len(distinct), self._env.num_actions)
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

    def _save(self, table: PriorTable) -> None:
        size = int(table.size)
        leaves = (table.observations, table.prior.log_probs, table.prior.features)
        rows = {name: np.asarray(leaf)[:size] for name, leaf in zip(_ROWS, leaves, strict=True)}
        write_atomically(self._path, safetensors.numpy.save(rows))


def _without_duplicates(observations: np.ndarray) -> np.ndarray:
    """The distinct observations, in the order of their first appearance."""
    flat = np.asarray(observations).reshape(len(observations), -1)
    _, first = np.unique(flat, axis=0, return_index=True)
    return observations[np.sort(first)]
