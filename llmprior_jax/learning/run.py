"""Base class of all runs: seeds, evaluation, counting, checkpoints' contents, episodes.

A run trains one agent, all seeds together, a segment at a time. A subclass writes how it learns:
`train`, and what of it a checkpoint must keep.
"""

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.distributed.processes import fetch
from llmprior_jax.distributed.seeds import fold_in, seed_keys
from llmprior_jax.play import evaluation
from llmprior_jax.play.evaluation import Decision, Episodes
from llmprior_jax.play.players import Player
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import RunSettings

ENVIRONMENT_STEPS, UPDATES = "environment steps", "updates"


class Run(abc.ABC):
    """Training one agent.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> run.evaluate()["success_rate"].shape, run.unit  # [S]
      ((2,), 'environment steps')

    Attributes:
      unit: what a step is, "environment steps" or "updates".
      player: plays episodes with the agent.
      state: all that training needs to continue, a pytree of arrays with a leading axis of seeds;
        `state.agent` is the agent's. Subclasses set it.
      segments: segments trained so far, each followed by an evaluation.
      iteration: iterations of the training loop so far.
      evaluated: the episodes [S, E, ...] of the last evaluation, those in unseen games under
        "unseen_" and the others under "".
    """

    unit: ClassVar[str] = ENVIRONMENT_STEPS
    # Streams of random keys that are drawn from independently, in the order of their split.
    STREAMS: ClassVar[tuple[str, ...]] = ("train", "evaluate", "fresh")

    state: Any

    def __init__(self, player: Player, settings: RunSettings, learns: bool = True):
        """Begins at step 0.

        Args:
          player: plays episodes; its table is loaded.
          settings: seeds, steps, evaluations.
          learns: whether the agent learns at all.
        """
        self.player = player
        self.segments = 0
        self.iteration = 0
        self.evaluated: dict[str, Episodes] = {}
        self._num_steps = settings.num_steps if learns else 0
        self._eval_every = settings.eval_every
        self._taken = np.zeros(settings.num_seeds, int)
        keys = seed_keys(settings.seed, settings.num_seeds)
        split = jax.vmap(lambda key: jax.random.split(key, len(self.STREAMS)))(keys)
        self.keys = dict(zip(self.STREAMS, split.T, strict=True))

    @property
    def steps(self) -> int:
        """Steps, in `unit`, that every seed has taken."""
        return int(self._taken.min())

    @property
    def num_steps(self) -> int:
        """Steps after which training is finished; 0 for agents that do not learn."""
        return self._num_steps

    @property
    def due(self) -> int:
        """Steps from now to the next evaluation: as set, but for what is left of a last part."""
        left = self._num_steps - self.steps
        is_last = self._num_steps % self._eval_every and 0 < left < self._eval_every
        return left if is_last else self._eval_every

    @property
    def scored(self) -> ScoredStates:
        """The states met so far, and the source of their priors."""
        return self.player.scored

    @property
    def table(self) -> PriorTable:
        """Priors of the states met so far, which all seeds share."""
        return self.scored.table

    @abc.abstractmethod
    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S], or numbers for all of them."""

    def diverged(self, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which seeds, bool[S], have losses or parameters that are not finite.

        Parameters are those of agents whose state has a field `params`. A loss is NaN where nothing
        was learned, as before an agent begins to; a step that makes it NaN makes parameters NaN.

        Args:
          metrics: what `train` returned.
        """
        seeds = np.zeros(len(self._taken), bool)
        for name, values in metrics.items():
            if name == "loss" or name.endswith("_loss"):
                seeds |= np.isinf(values)
        params = jax.tree.leaves(getattr(self.state.agent, "params", ()))
        for finite in fetch([_are_finite(leaf) for leaf in params]):
            seeds |= ~finite
        return seeds

    def count(self, steps: int | np.ndarray) -> None:
        """Adds steps that each seed has taken, one number or [S]."""
        self._taken = self._taken + steps

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Metrics [S] of episodes of all seeds (`play.metrics`), in unseen games, too.

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        keys = fold_in(self.keys["fresh" if fresh else "evaluate"], self.segments)
        self.evaluated = self.player.evaluate(self.state.agent, keys)
        return evaluation.metrics(self.evaluated)

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the agent of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the agent.
        """
        return self.player.play(self.state.agent, seed, key)

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        return {
            "segments": self.segments,
            "iteration": self.iteration,
            "taken": self._taken.tolist(),
            "counts": dict(self.scored.counts),
            "table_size": int(self.table.size),
            "own": self.own(),
        }

    def restore(self, state: Any, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint; the table too, since with a fuller one other states are met.

        Raises:
          ValueError: the checkpoint is not one of this run.
        """
        self.restore_own(meta["own"])
        self.state = state
        self.segments, self.iteration = meta["segments"], meta["iteration"]
        self._taken = np.array(meta["taken"])
        self.scored.load(meta["table_size"])
        self.scored.restore_counts(meta["counts"])

    def own(self) -> Any:
        """What only runs of this class keep in a checkpoint, as JSON has it."""
        return None

    def restore_own(self, own: Any) -> None:
        """Goes back to what `own` gave.

        Raises:
          ValueError: it is of another run.
        """
        del own


@jax.jit
def _are_finite(leaf: jax.Array) -> jax.Array:
    """For each seed, bool[S], whether all of its numbers [S, ...] are finite."""
    return jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim)))
