"""Filling the table of priors: observations to text, text to the language model, rows to disk.

The rows of a run are kept in its work directory, in the order in which they were added, since a row
number stands for a state in replay and checkpoints. They are only ever appended: a file for each
addition, beside one for how features are whitened and by which model all was scored. What the model
said of each text is kept apart from runs (`priors.store`).
"""

import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from llmprior_jax import models
from llmprior_jax.distributed import processes
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.files import write_atomically
from llmprior_jax.learning.loop import Missing
from llmprior_jax.priors import Imitator, Queries, Scorer, prompts, whitening
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior, TextState

_WHITENING = "whitening.safetensors"
# States whose raw features are held in memory at once.
_STATES_AT_ONCE = 1024
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
    """Scores states of one environment with one language model, and keeps them in a directory.

    Attributes:
      prompts_cut: how many states were scored without the oldest of their history, which the
        model's context had no room for.
    """

    def __init__(
        self,
        states: "States",
        first_observations: Callable[[], np.ndarray],
        scorer: Scorer,
        num_features: int,
        directory: str | pathlib.Path,
        read_only: bool = False,
        build_prompt: prompts.Builder = prompts.plain,
        imitator: Imitator | None = None,
    ):
        """Nothing is loaded or scored yet.

        Args:
          states: the states to score, such as those of an environment.
          first_observations: gives the observations [N, *O] that a new table begins with, without
            duplicates; `first_observations` for environments in JAX.
          scorer: the language model.
          num_features: K, whitened features kept per action (`priors.whitening`).
          directory: holds the rows; made when the first are added.
          read_only: leave the directory as it is, and keep new rows in memory only.
          build_prompt: what the language model is asked about a state.
          imitator: gives the log-probs in place of the language model, which makes the features.
        """
        self.prompts_cut = 0
        self._states = states
        self._first_observations = first_observations
        self._scorer = scorer
        self._imitator = imitator
        self._num_features = num_features
        self._directory = pathlib.Path(directory)
        self._read_only = read_only
        self.build_prompt = build_prompt
        self._whiten: whitening.Whitening | None = None

    @property
    def has_table(self) -> bool:
        """Whether the first rows are there, so that the model may not be needed."""
        return bool(processes.from_first(lambda: b"yes" if self._rows_file(0).exists() else b""))

    @property
    def queries(self) -> Queries:
        """What was asked so far."""
        return self._scorer.queries

    def metrics(self) -> dict[str, float]:
        """Numbers about the language model's answers so far, for a run's metrics."""
        return self._scorer.metrics()

    def counts(self) -> dict[str, int]:
        """What was counted so far, for a checkpoint."""
        return {"prompts_cut": self.prompts_cut, **self._scorer.outcomes}

    def restore_counts(self, counts: Mapping[str, int]) -> None:
        """Goes on counting from a checkpoint's."""
        outcomes = dict(counts)
        self.prompts_cut = outcomes.pop("prompts_cut")
        self._scorer.outcomes = Counter(outcomes)

    @property
    def language_model(self) -> models.LanguageModel:
        """The language model, loaded when it is first needed."""
        return self._scorer.language_model

    def load_model(self) -> None:
        """Loads the language model (and the text encoder) now, to see whether it can be."""
        _ = self._scorer.language_model, self._scorer.text_encoder

    def close(self) -> None:
        """Closes the store; nothing can be scored any more."""
        self._scorer.close()

    def load(self, size: int | None = None) -> PriorTable:
        """The table as it was when it had `size` rows (all of them by default).

        Without rows yet, it begins with the first observations, and the features are whitened by
        what they look like there.

        Raises:
          ValueError: the rows are damaged, are fewer than `size`, or were scored by another version
            of the language model.
        """
        if not self.has_table:
            return self._begin()
        self._whiten = self._read_whitening()
        chunks = self._read_rows(size)
        table = tables.empty(chunks[0].observations[0], *chunks[0].features.shape[1:])
        return _insert(table, _Rows(*map(np.concatenate, zip(*chunks, strict=True))))

    def extend(self, table: PriorTable, observations: np.ndarray) -> PriorTable:
        """Scores the states [M, *O] that the table lacks, adds them to it, and saves them.

        The table is used up, as by `tables.insert`.
        """
        observations = np.asarray(observations)
        new = tables.without_duplicates(observations[tables.find_rows(table, observations) < 0])
        for start in range(0, len(new), _STATES_AT_ONCE):
            some = new[start : start + _STATES_AT_ONCE]
            size = int(table.size)
            # A run that was killed comes here again, with the same states.
            rows = self._saved_rows(size)
            if rows is None or not np.array_equal(rows.observations, some):
                rows = self._save(size, self._whitened(some, *self._score(some)))
            table = _insert(table, rows)
        return table

    def fill(self, table: PriorTable, missing: Missing) -> tuple[PriorTable, bool]:
        """Adds the states that environments stalled for; says whether there were any."""
        is_missing = processes.fetch(missing.is_missing)
        if not is_missing.any():
            return table, False
        return self.extend(table, processes.fetch(missing.observation)[is_missing]), True

    def score_states(self, states: Sequence[TextState]) -> ActionPrior:
        """Priors [M] of states that need not be of the environment, scored as the table's are.

        Features are whitened as those of the table, which must be there (`load`). Nothing is added
        to it. A state without actions has a prior without actions.

        Raises:
          ValueError: a state has more actions than the environment has slots.
        """
        slots = self._states.num_actions
        most = max(len(state.actions) for state in states)
        if most > slots:
            raise ValueError(f"a state has {most} actions; the environment has {slots} slots")
        acting = [row for row, state in enumerate(states) if state.actions]
        observations = np.array(acting)  # They only number the states here.
        known = _of_first(
            self._whitened(observations, *self._score_states([states[row] for row in acting]))
        )
        log_probs = np.full((len(states), slots), -np.inf, np.float32)
        features = np.zeros((*log_probs.shape, known.features.shape[-1]), np.float32)
        log_probs[acting], features[acting] = known.log_probs, known.features
        return ActionPrior(jnp.asarray(log_probs), jnp.asarray(features))

    @property
    def _identity(self) -> str:
        """What identifies log-probs and features."""
        imitator = self._imitator
        return self._scorer.identity + ("" if imitator is None else f" {imitator.identity}")

    def _begin(self) -> PriorTable:
        """Scores the first states, and decides by them how features are whitened."""
        observations = self._first_observations()
        log_probs, features = self._score(observations)
        fitted = whitening.fit(features[np.isfinite(log_probs)], self._num_features)

        def keep() -> bytes:
            about = {"model": self._scorer.model, "fingerprint": self._identity}
            content = _to_bytes(fitted, about)
            if not self._read_only:
                self._directory.mkdir(parents=True, exist_ok=True)
                write_atomically(self._directory / _WHITENING, content)
            return content

        self._whiten = _from_bytes(whitening.Whitening, processes.from_first(keep))
        rows = self._save(0, self._whitened(observations, log_probs, features))
        return _insert(tables.empty(observations[0], *rows.features.shape[1:]), rows)

    def _score(self, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`log_probs` f32[M, A] and hidden states f32[M, A, D] of M observations."""
        return self._score_states([self._states.text_state(key) for key in observations])

    def _score_states(self, states: Sequence[TextState]) -> tuple[np.ndarray, np.ndarray]:
        """`log_probs` f32[M, A] and hidden states f32[M, A, D] of M states."""
        log_probs, features = self._scorer.score([self._prompt(state) for state in states])
        if self._imitator is not None:
            # It knows a state by all that is to be said of it, whatever a model has room for.
            log_probs = self._imitator.log_probs([self.build_prompt(state) for state in states])
        missing = self._states.num_actions - log_probs.shape[1]
        return (
            np.pad(log_probs, [(0, 0), (0, missing)], constant_values=-np.inf),
            np.pad(features, [(0, 0), (0, missing), (0, 0)]),
        )

    def _prompt(self, state: TextState) -> prompts.Prompt:
        if not state.history:
            return self.build_prompt(state)
        prompt, left_out = self._scorer.fit(state, self.build_prompt)
        self.prompts_cut += left_out > 0
        return prompt

    def _whitened(
        self, observations: np.ndarray, log_probs: np.ndarray, features: np.ndarray
    ) -> "_Rows":
        """Rows with whitened features, still zero where no action is."""
        if self._whiten is None:
            self._whiten = self._read_whitening()
        is_action = np.isfinite(log_probs)[..., None]
        return _Rows(observations, log_probs, np.where(is_action, self._whiten(features), 0.0))

    def _rows_file(self, first: int) -> pathlib.Path:
        return self._directory / f"rows-{first:09d}.safetensors"

    def _save(self, first: int, rows: "_Rows") -> "_Rows":
        """Appends rows; those from there on belong to a future that did not come.

        Returns them as they are in all processes, which may have computed other last bits.
        """

        def keep() -> bytes:
            content = _to_bytes(rows)
            if not self._read_only:
                # The last first, so that what a kill leaves has no gap.
                for path in sorted(self._directory.glob("rows-*.safetensors"), reverse=True):
                    if path > self._rows_file(first):
                        path.unlink()
                write_atomically(self._rows_file(first), content)
            return content

        return _from_bytes(_Rows, processes.from_first(keep))

    def _saved_rows(self, first: int) -> "_Rows | None":
        path = self._rows_file(first)
        content = self._read(path, lambda: path.read_bytes() if path.exists() else b"")
        return _from_bytes(_Rows, content) if content else None

    def _read_rows(self, size: int | None) -> "list[_Rows]":
        """The rows that were saved, up to `size`."""
        chunks, total = [], 0
        while size is None or total < size:
            rows = self._saved_rows(total)
            if rows is None:
                break
            chunks.append(rows)
            total += len(rows.observations)
        if size is not None and total < size:
            raise ValueError(
                f"{self._directory} has {total} rows where {size} are needed; "
                "they are not those of this run. Start again with another --workdir"
            )
        excess = total - size if size is not None else 0
        chunks[-1] = _Rows(*(leaf[: len(leaf) - excess] for leaf in chunks[-1]))
        return chunks

    def _read_whitening(self) -> whitening.Whitening:
        path = self._directory / _WHITENING

        def checked() -> bytes:
            with safetensors.safe_open(path, framework="numpy") as file:
                self._check_scored_by_us((file.metadata() or {}).get("fingerprint"))
            return path.read_bytes()

        return _from_bytes(whitening.Whitening, self._read(path, checked))

    def _check_scored_by_us(self, theirs: str | None) -> None:
        try:
            ours = self._identity
        except models.CheckpointError:
            return  # Rows stand on their own; only new ones need the model, and say so.
        if ours != theirs:
            raise ValueError(
                f"the states in {self._directory} were scored by another version of the language "
                f"model {self._scorer.model} (fingerprint {theirs}, now {ours}); bring that one "
                "back, or start again with another --workdir or --noresume"
            )

    def _read(self, path: pathlib.Path, read: Callable[[], bytes]) -> bytes:
        """What the first process reads of a file, which is arrays."""

        def whole() -> bytes:
            try:
                content = read()
                if content:
                    safetensors.deserialize(content)
            except (OSError, safetensors.SafetensorError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); start the run again with --noresume"
                ) from error
            return content

        return processes.from_first(whole)


class _Rows(NamedTuple):
    """Rows of a table on the host; the names are those in the files."""

    observations: np.ndarray
    log_probs: np.ndarray
    features: np.ndarray


_Arrays = TypeVar("_Arrays", _Rows, whitening.Whitening)


def _of_first(rows: _Rows) -> _Rows:
    """Rows as the first process has them: the others may have computed other last bits."""
    if jax.process_count() == 1:
        return rows
    parts = [
        jax.tree.map(lambda leaf, at=at: leaf[at : at + _STATES_AT_ONCE], rows)
        for at in range(0, max(len(rows.log_probs), 1), _STATES_AT_ONCE)
    ]
    sent = [
        _from_bytes(_Rows, processes.from_first(lambda part=part: _to_bytes(part)))
        for part in parts
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *sent)


def _to_bytes(arrays: _Rows | whitening.Whitening, about: dict[str, str] | None = None) -> bytes:
    """Arrays as the content of a safetensors file."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays._asdict().items()}
    return safetensors.numpy.save(whole, metadata=about)


def _from_bytes(kind: type[_Arrays], content: bytes) -> _Arrays:
    arrays = safetensors.numpy.load(content)
    return kind(**{name: arrays[name] for name in kind._fields})


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

        def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], Any]:
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
    return tables.without_duplicates(observations.reshape(-1, *observations.shape[2:]))
