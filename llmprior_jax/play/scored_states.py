"""The states of one environment that have been scored: observations to text, text to priors, rows.

What is scored is a row of the table (`priors.table`), on the device for who acts and learns, and in
files for who goes on later (`row_files`).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.errors import InterruptedScoringError
from llmprior_jax.play.row_files import RowFiles, Rows, of_first
from llmprior_jax.play.stepping import Missing
from llmprior_jax.priors import table as tables
from llmprior_jax.priors import whitening
from llmprior_jax.priors.prompts import Builder
from llmprior_jax.priors.sources.base import PriorBatch, PriorSource
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior, TextState

_PROMPTS_CUT = "prompts_cut"
# States whose raw features are held in memory at once.
_STATES_AT_ONCE = 1024
_EXPLORED_EPISODES, _EXPLORED_STEPS = 32, 32


class States(Protocol):
    """States by their observation: what scoring asks of an environment."""

    @property
    def num_actions(self) -> int:
        """A, action slots of a state."""
        ...

    def text_state(self, observation: np.ndarray) -> TextState:
        """Puts one observation into words."""
        ...


class _Raw(NamedTuple):
    """What sources say of M states: `features` f32[M, A, D] are not whitened yet."""

    log_probs: np.ndarray
    features: np.ndarray
    others: np.ndarray | None


class Cost(NamedTuple):
    """What the scored states of a run cost.

    Attributes:
      states: how many there are.
      memory: bytes of their table on a device, its room to grow included.
      disk: bytes of their rows in the run's directory.
    """

    states: int
    memory: int
    disk: int

    def __str__(self):
        memory, disk = (f"{total / max(self.states, 1) / 1e3:,.1f} KB" for total in self[1:])
        return f"{self.states:,} states, each {memory} in memory and {disk} in the run's directory"


class Asked(NamedTuple):
    """A source of priors, and what it is asked about a state."""

    source: PriorSource
    build_prompt: Builder


class ScoredStates:
    """The table of an environment's states, and the source that scores those it lacks.

    Attributes:
      source: where priors come from.
      build_prompt: what is asked about a state.
      counts: of the states scored so far, how many were asked about without the oldest of their
        history ("prompts_cut"), and how often answers turned out in which way.
    """

    def __init__(
        self,
        states: States,
        first_observations: Callable[[], np.ndarray],
        source: PriorSource,
        build_prompt: Builder,
        num_features: int,
        files: RowFiles,
        history_seen: int | None = None,
        others: Sequence[Asked] = (),
    ):
        """Nothing is loaded or scored yet.

        Args:
          states: the states to score, such as those of an environment.
          first_observations: gives the observations [N, *O] that a new table begins with, without
            duplicates; `first_observations` for environments in JAX.
          source: where priors come from.
          build_prompt: what is asked about a state; with a history, a builder whose prompts fit
            (`prompts.fitting`).
          num_features: K, whitened features kept per action (`priors.whitening`).
          files: keep the rows.
          history_seen: pairs of a state's history that its features know of, the last ones, where
            they are to know of fewer than its log-probs; the source is then asked twice. None: all.
          others: where further priors of each state come from (`ActionPrior.others`).
        """
        self.source = source
        self.build_prompt = build_prompt
        self.counts: Counter[str] = Counter()
        self._states = states
        self._first_observations = first_observations
        self._num_features = num_features
        self._files = files
        self._history_seen = history_seen
        self._others = tuple(others)
        self._whiten: whitening.Whitening | None = None
        self._table: PriorTable | None = None

    @property
    def table(self) -> PriorTable:
        """The states that have been scored; a RuntimeError before `load`."""
        if self._table is None:
            raise RuntimeError("no states are loaded yet; call load() first")
        return self._table

    @property
    def is_loaded(self) -> bool:
        """Whether there is a table."""
        return self._table is not None

    @property
    def has_rows(self) -> bool:
        """Whether the first states were scored before, so that the source may not be needed."""
        return self._files.has_rows

    def copy(self, states: States, files: RowFiles) -> "ScoredStates":
        """The same source and prompts with a table of its own; nothing is loaded yet.

        Args:
          states: the states to score, which may be another object than this one's.
          files: keep the rows.
        """
        return ScoredStates(
            states,
            self._first_observations,
            self.source,
            self.build_prompt,
            self._num_features,
            files,
            self._history_seen,
            self._others,
        )

    def metrics(self) -> dict[str, float]:
        """Numbers about what was scored so far, for a run's metrics."""
        cut = {_PROMPTS_CUT: self.counts[_PROMPTS_CUT]} if _PROMPTS_CUT in self.counts else {}
        return {**self.source.metrics(self.counts), **cut}

    def cost(self) -> Cost:
        """What the table costs, for the first process to ask; a RuntimeError before `load`."""
        memory = sum(leaf.nbytes for leaf in jax.tree.leaves(self.table))
        return Cost(int(self.table.size), memory, self._files.num_bytes)

    def restore_counts(self, counts: Mapping[str, int]) -> None:
        """Goes on counting from a checkpoint's."""
        self.counts = Counter(counts)

    def load(self, size: int | None = None) -> PriorTable:
        """Makes the table what it was when it had `size` rows (all of them by default).

        Without rows yet, it begins with the first observations, and the features are whitened by
        what they look like there.

        Raises:
          ValueError: the rows are damaged, are fewer than `size`, or were scored by another source.
        """
        if not self.has_rows:
            return self._begin()
        self._whiten = self._files.read_whitening(self._identity)
        return self._start_with(self._files.read(size))

    def extend(self, observations: np.ndarray) -> None:
        """Scores the states [M, *O] that the table lacks, adds them to it, and saves them."""
        observations = np.asarray(observations)
        new = tables.without_duplicates(
            observations[tables.find_rows(self.table, observations) < 0]
        )
        while len(new):
            some = new[:_STATES_AT_ONCE]
            size = int(self.table.size)
            # A run that was killed, or stopped, comes here again, with the same states.
            rows = self._files.appended(size)
            if rows is None or not _begins_with(some, rows.observations):
                rows = self._append(size, some)
            self._table = _insert(self.table, rows)
            new = new[len(rows.observations) :]

    def _append(self, size: int, observations: np.ndarray) -> Rows:
        """Scores states and keeps them as rows; of those it is stopped in, the first ones."""
        try:
            return self._files.append(size, self._score(observations))
        except InterruptedScoringError as stopped:
            some = observations[: stopped.done]
            if len(some):
                self._files.append(size, self._score(some))
            raise

    def fill(self, missing: Missing) -> bool:
        """Adds the states that environments stalled for; says whether there were any."""
        is_missing = fetch(missing.is_missing)
        if not is_missing.any():
            return False
        self.extend(fetch(missing.observation)[is_missing])
        return True

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
        known = of_first(
            self._whitened(observations, self._score_states([states[row] for row in acting]))
        )
        log_probs = np.full((len(states), slots), -np.inf, np.float32)
        features = np.zeros((*log_probs.shape, known.features.shape[-1]), np.float32)
        log_probs[acting], features[acting] = known.log_probs, known.features
        others = None
        if known.others is not None:
            others = np.full((len(states), *known.others.shape[1:]), -np.inf, np.float32)
            others[acting] = known.others
        return _on_device(log_probs, features, others)

    def _begin(self) -> PriorTable:
        """Scores the first states, and decides by them how features are whitened."""
        observations = self._first_observations()
        raw = self._score_states([self._states.text_state(key) for key in observations])
        features = raw.features[np.isfinite(raw.log_probs)]
        fitted = whitening.fit(features, self._num_features)
        self._whiten = self._files.write_whitening(fitted, self._identity())
        return self._start_with(self._files.append(0, self._whitened(observations, raw)))

    def _start_with(self, rows: Rows) -> PriorTable:
        _, num_actions, num_features = rows.features.shape
        empty = tables.empty(
            rows.observations[0], num_actions, num_features, num_others=len(self._others)
        )
        self._table = _insert(empty, rows)
        return self._table

    def _identity(self) -> str:
        """Of all sources."""
        return "+".join([self.source.identity, *(asked.source.identity for asked in self._others)])

    def _score(self, observations: np.ndarray) -> Rows:
        """The rows of M observations."""
        states = [self._states.text_state(key) for key in observations]
        return self._whitened(observations, self._score_states(states))

    def _score_states(self, states: Sequence[TextState]) -> _Raw:
        """The priors of M states."""
        scored = self._ask(Asked(self.source, self.build_prompt), states)
        features = scored.features
        if self._history_seen is not None:
            # One answer for all states that look alike, so that Q sees the same of them to the bit.
            seen = [self._without_past(state) for state in states]
            place = {state: row for row, state in enumerate(dict.fromkeys(seen))}
            of_seen = self.source.score([self.build_prompt(state) for state in place]).features
            features = of_seen[[place[state] for state in seen]]
        others = [self._in_slots(self._ask(asked, states).log_probs) for asked in self._others]
        missing = self._states.num_actions - features.shape[1]
        return _Raw(
            self._in_slots(scored.log_probs),
            np.pad(features, [(0, 0), (0, missing), (0, 0)]),
            np.stack(others, axis=1) if others else None,
        )

    def _ask(self, asked: Asked, states: Sequence[TextState]) -> PriorBatch:
        """What a source says of M states."""
        prompts = [asked.build_prompt(state) for state in states]
        if any(state.history for state in states):
            self.counts[_PROMPTS_CUT] += sum(prompt.uncut is not None for prompt in prompts)
        scored = asked.source.score(prompts)
        self.counts.update(scored.outcomes)
        return scored

    def _in_slots(self, log_probs: np.ndarray) -> np.ndarray:
        """Log-probabilities f32[M, slots] with a slot for each of the environment's actions."""
        missing = self._states.num_actions - log_probs.shape[1]
        return np.pad(log_probs, [(0, 0), (0, missing)], constant_values=-np.inf)

    def _without_past(self, state: TextState) -> TextState:
        """A state with the part of its history that features know of."""
        assert self._history_seen is not None
        longer = max(len(state.history) - self._history_seen, 0)
        return state._replace(history=state.history[longer:])

    def _whitened(self, observations: np.ndarray, raw: _Raw) -> Rows:
        """Rows with whitened features, still zero where no action is."""
        if self._whiten is None:
            self._whiten = self._files.read_whitening(self._identity)
        is_action = np.isfinite(raw.log_probs)[..., None]
        features = np.where(is_action, self._whiten(raw.features), 0.0)
        return Rows(observations, raw.log_probs, features, raw.others)


def _begins_with(observations: np.ndarray, first: np.ndarray) -> bool:
    return np.array_equal(observations[: len(first)], first)


def _insert(table: PriorTable, rows: Rows) -> PriorTable:
    prior = _on_device(rows.log_probs, rows.features, rows.others)
    return tables.insert(table, rows.observations, prior)


def _on_device(
    log_probs: np.ndarray, features: np.ndarray, others: np.ndarray | None
) -> ActionPrior:
    more = None if others is None else jnp.asarray(others)
    return ActionPrior(jnp.asarray(log_probs), jnp.asarray(features), more)


def first_observations(env: TextEnvironment, env_params: Any) -> np.ndarray:
    """Distinct observations [N, *O] of an environment, enough to see how features spread.

    All of them where it can list them, otherwise those that random play meets.
    """
    listed = env.list_observations()
    return explored_observations(env, env_params) if listed is None else listed


def explored_observations(env: TextEnvironment, env_params: Any) -> np.ndarray:
    """Distinct observations [N, *O] that random play meets, in the order in which it does."""

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
