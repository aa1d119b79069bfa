"""The protocol of sources of priors: texts in, log-probs and features out."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from llmprior_jax.priors.prompts import Builder, Prompt
from llmprior_jax.priors.sources.cached import CachedModel
from llmprior_jax.settings import PriorSettings


class PriorBatch(NamedTuple):
    """Priors of B prompts with A actions at most (NumPy).

    Examples:
      >>> batch = priors.PriorBatch(np.log(np.full((1, 2), 0.5)), np.zeros((1, 2, 8)))
      >>> batch.outcomes
      {}

    Attributes:
      log_probs: f32[B, A], normalized over each prompt's actions; `-inf` after the end of its list.
      features: f32[B, A, D], what Q is to see of state and action; zero where no action is.
      outcomes: how often an answer turned out in which way, where answers are sampled.
    """

    log_probs: np.ndarray
    features: np.ndarray
    outcomes: Mapping[str, int] = {}


class PriorSource(Protocol):
    """Where priors come from; write your own and `register_source` it, or name its import path.

    Examples:
      >>> class Uniform:
      ...     '''Every action alike; Q sees what the language model makes of it.'''
      ...
      ...     def __init__(self, context):
      ...         self.model = context.model
      ...         self.identity = f"uniform {self.model.identity}"
      ...
      ...     def score(self, prompts):
      ...         scores = self.model.score(prompts)
      ...         number = np.array([[len(prompt.actions)] for prompt in prompts])
      ...         is_action = scores.num_tokens > 0
      ...         log_probs = np.where(is_action, -np.log(number), -np.inf)
      ...         return priors.PriorBatch(log_probs.astype(np.float32), scores.features)
      ...
      ...     def metrics(self, outcomes):
      ...         return {}
      >>> priors.register_source("uniform", Uniform)
      >>> chosen = settings.PriorSettings(method="uniform")
      >>> context = priors.SourceContext(priors.CachedModel("tiny"), chosen)
      >>> source = priors.make_source(context)
      >>> print(np.exp(source.score([priors.Prompt("Wash the cup. Do:", (" go", " wait"))])[0]))
      [[0.5 0.5]]
    """

    @property
    def identity(self) -> str:
        """What identifies the model and the data that answers come from.

        A work directory keeps what was scored, and refuses to go on with another identity. It
        refuses other settings by itself.
        """
        ...

    def score(self, prompts: Sequence[Prompt]) -> PriorBatch:
        """The priors of B prompts, one or more, whose actions may differ in number."""
        ...

    def metrics(self, outcomes: Mapping[str, int]) -> dict[str, float]:
        """Numbers for a run's metrics.

        Args:
          outcomes: sums of all `PriorBatch.outcomes` since the run began.
        """
        ...


class SourceContext(NamedTuple):
    """What a source of priors can be built from.

    Examples:
      >>> priors.SourceContext(priors.CachedModel("tiny"), settings.PriorSettings()).seed
      0

    Attributes:
      model: the language model, which nothing loads before it is asked.
      settings: of the prior; `settings.extra` is for sources of one's own.
      build: makes a state's prompt; histories that are too long are not cut yet.
      history: (observation, action) pairs that a state may hold.
      seed: of what a source draws.
    """

    model: CachedModel
    settings: PriorSettings
    build: Builder | None = None
    history: int = 0
    seed: int = 0


SourceFactory = Callable[[SourceContext], PriorSource]
"""Makes a source; a class whose `__init__` takes a `SourceContext` is one."""
