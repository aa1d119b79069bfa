"""Learning offline: agents that learn from a dataset, and act only to be evaluated."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import datasets
from llmprior_jax.agents import Agent, AgentState, Transitions
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.datasets import Dataset
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.learning.run import UPDATES, Run
from llmprior_jax.play.players import OverSeeds, Player
from llmprior_jax.settings import OfflineSettings, RunSettings
from llmprior_jax.types import ActionPrior


class Experience(NamedTuple):
    """N transitions between M states, on the device; the seeds share it.

    Attributes:
      prior: of the states, `log_probs` f32[M, A], `features` f32[M, A, D].
      row: i32[N], the state of each transition.
      action: i32[N].
      reward: f32[N].
      terminated: bool[N].
      next_row: i32[N].
    """

    prior: ActionPrior
    row: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_row: jax.Array


class OfflineState(NamedTuple):
    """All that training needs to continue, for one seed (vmap for more).

    Attributes:
      key: randomness of the batches.
      agent: the agent's state.
      order: i32[N], the transitions; the first `count` of them are this seed's subset.
      count: i32[].
      candidates: i32[N, K], those of the states acted in, for agents that keep any.
      next_candidates: i32[N, K], those of the states reached, likewise.
    """

    key: jax.Array
    agent: AgentState
    order: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
    candidates: jax.Array | None = None
    next_candidates: jax.Array | None = None


class OfflineRun(Run):
    """A `Run` that learns from a subset of a dataset, and is evaluated in its environment.

    A step is an update. Every seed draws a subset of its own, so that intervals over seeds tell how
    much the luck of the data matters; a seed's larger subset contains its smaller ones.

    Args:
      agent: the agent.
      dataset: the transitions.
      player: plays episodes with the agent.
      settings: seeds, steps, evaluations.
      subset: how much of the dataset each seed learns from.
      batch_size: transitions per update.
      over_seeds: maps functions of one seed over all.
    """

    unit = UPDATES
    STREAMS = ("train", "evaluate", "fresh", "init")

    def __init__(
        self,
        agent: Agent,
        dataset: Dataset,
        player: Player,
        settings: RunSettings,
        subset: OfflineSettings,
        batch_size: int,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings)
        self._experience = Experience(
            prior=in_used_slots(self.scored.score_states(dataset.states), dataset.action),
            **{
                name: jnp.asarray(getattr(dataset, name))
                for name in Experience._fields
                if name != "prior"
            },
        )

        # Each length is a program of its own, compiled when it is first needed.
        @functools.cache
        def segment(num_updates: int) -> Callable[..., Any]:
            return over_seeds(make_segment(agent, batch_size, num_updates), (0, None))

        self._segment = segment
        self._dataset = datasets.digest(dataset)
        orders = [
            datasets.subset_order(dataset, subset.unit, seed=(settings.seed, seed))
            for seed in range(settings.num_seeds)
        ]
        counts = [
            datasets.count_transitions(dataset, subset.size, subset.unit, order) for order in orders
        ]
        self.state: OfflineState = over_seeds(functools.partial(_begin, agent), (0, 0, 0, 0, None))(
            self.keys["train"],
            self.keys["init"],
            jnp.asarray(np.stack(orders)),
            jnp.asarray(counts, jnp.int32),
            self._experience,
        )

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S]."""
        due = self.due
        self.state, metrics = self._segment(due)(self.state, self._experience)
        self.segments += 1
        self.count(due)
        return fetch(metrics)

    def own(self) -> str:
        """What identifies the dataset."""
        return self._dataset

    def restore_own(self, own: str) -> None:
        """Checks the dataset.

        Raises:
          ValueError: the checkpoint was learned from other data.
        """
        if own != self._dataset:
            raise ValueError(
                "the dataset (offline.dataset) is not the one that this run began to learn from: "
                "its transitions have changed since. Bring that file back, or start again with "
                "another --workdir or --noresume"
            )


def in_used_slots(prior: ActionPrior, action: np.ndarray) -> ActionPrior:
    """The priors [M] without the slots after the last one that any of the states has an action in.

    An update costs as much as there are slots, and an environment has slots for its largest state.

    Args:
      prior: of the states.
      action: i32[N], what was done in them, which the prior may rule out.
    """
    is_used = np.isfinite(np.asarray(prior.log_probs)).any(axis=0)
    if prior.others is not None:
        is_used |= np.isfinite(np.asarray(prior.others)).any(axis=(0, 1))
    used = np.flatnonzero(is_used)
    slots = int(max(used.max(initial=0), action.max(initial=0))) + 1
    return prior._replace(
        log_probs=prior.log_probs[:, :slots],
        features=prior.features[:, :slots],
        others=None if prior.others is None else prior.others[..., :slots],
    )


def _begin(
    agent: Agent,
    key: jax.Array,
    init_key: jax.Array,
    order: jax.Array,
    count: jax.Array,
    experience: Experience,
) -> OfflineState:
    """What training of one seed begins with; candidates are drawn for each transition apart."""
    example = jax.tree.map(lambda leaf: leaf[0], experience.prior)
    state = OfflineState(key, agent.init(init_key, example), order, count)
    if agent.candidates is None:
        return state
    draw = agent.candidates.draw

    def of_states(key: jax.Array, row: jax.Array) -> jax.Array:
        # One after the other: all priors at once would be as large as all transitions.
        def of_one(of: tuple[jax.Array, jax.Array]) -> jax.Array:
            prior = jax.tree.map(lambda leaf: leaf[of[1]], experience.prior)
            return draw(state.agent, of[0], prior)

        return jax.lax.map(of_one, (jax.random.split(key, row.shape[0]), row))

    return state._replace(
        candidates=of_states(jax.random.fold_in(init_key, 1), experience.row),
        next_candidates=of_states(jax.random.fold_in(init_key, 2), experience.next_row),
    )


def make_segment(
    agent: Agent, batch_size: int, num_updates: int
) -> Callable[[OfflineState, Experience], tuple[OfflineState, dict[str, jax.Array]]]:
    """Builds `(state, experience) -> (state, metrics)`: updates of one seed, as one scan.

    Each update takes a batch drawn from the seed's subset, with replacement. Metrics are means over
    the segment. The subset's size is a number on the device, so that all sizes share a program.
    """
    update = agent.update
    assert update is not None

    def segment(state: OfflineState, experience: Experience) -> tuple[OfflineState, Metrics]:
        def one_update(
            carry: tuple[jax.Array, Any], _: None
        ) -> tuple[tuple[jax.Array, Any], Metrics]:
            key, agent_state = carry
            key, sample_key, update_key = jax.random.split(key, 3)
            drawn = state.order[jax.random.randint(sample_key, (batch_size,), 0, state.count)]
            agent_state, metrics = update(
                agent_state, update_key, with_candidates(gather(experience, drawn), state, drawn)
            )
            return (key, agent_state), metrics

        (key, agent_state), metrics = jax.lax.scan(
            one_update, (state.key, state.agent), length=num_updates
        )
        state = state._replace(key=key, agent=agent_state)
        return state, jax.tree.map(jnp.mean, metrics)

    return segment


def with_candidates(transitions: Transitions, state: OfflineState, index: jax.Array) -> Transitions:
    """The transitions i32[B] with the candidates that were drawn for them, where any were."""
    if state.candidates is None or state.next_candidates is None:
        return transitions
    return transitions._replace(
        prior=transitions.prior._replace(candidates=state.candidates[index]),
        next_prior=transitions.next_prior._replace(candidates=state.next_candidates[index]),
    )


def gather(experience: Experience, index: jax.Array) -> Transitions:
    """The transitions i32[B] as a batch."""

    def prior(rows: jax.Array) -> ActionPrior:
        return jax.tree.map(lambda leaf: leaf[rows], experience.prior)

    return Transitions(
        prior=prior(experience.row[index]),
        action=experience.action[index],
        reward=experience.reward[index],
        terminated=experience.terminated[index],
        next_prior=prior(experience.next_row[index]),
        weight=jnp.ones(index.shape, jnp.float32),
    )
