"""A prior by what demonstrators did, beside which a language model's can be placed.

Where somebody has shown how a task is done, the share of each action in each state is a prior as
well. Raised to a power (`temperature`), it is a dial from the uniform prior to one as good as the
demonstrators.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from llmprior_jax.datasets import Dataset, count_actions
from llmprior_jax.priors.prompts import Builder, Prompt
from llmprior_jax.priors.sources.base import PriorBatch
from llmprior_jax.priors.sources.cached import CachedModel
from llmprior_jax.ranges import POSITIVE

_PSEUDO_COUNT = 1.0  # Laplace's rule of succession


class Demonstrated:
    """A `PriorSource` that counts demonstrated actions per state; features are a language model's.

    Examples:
      >>> counts = {"Task: wash the cup. Do:": {" wait": 3}}
      >>> source = priors.Demonstrated(priors.CachedModel("tiny"), counts)
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> print(np.exp(source.score([prompt]).log_probs).round(2))  # (0 + 1) / 5, (3 + 1) / 5
      [[0.2 0.8]]
    """

    def __init__(
        self,
        model: CachedModel,
        counts: Mapping[str, Mapping[str, int]],
        temperature: float = 1.0,
    ):
        """Takes the counts as they are.

        Args:
          model: the language model.
          counts: by a prompt's text and action, how often that was done (`count_prompts`). A text
            stands for its state, so it says all of it, however long.
          temperature: T; the prior is proportional to `((n_a + 1) / (n + A)) ** (1 / T)`, n counts
            and A the number of actions. Where nothing was shown it is uniform.

        Raises:
          ValueError: a temperature that is not positive.
        """
        POSITIVE.check("temperature", temperature)
        self._model = model
        self._counts = counts
        self._temperature = temperature

    @property
    def identity(self) -> str:
        """What identifies the model's features and the counts."""
        counts = json.dumps(self._counts, sort_keys=True)
        return f"{self._model.identity} {hashlib.sha256(counts.encode()).hexdigest()[:16]}"

    def score(self, prompts: Sequence[Prompt]) -> PriorBatch:
        """The priors of B prompts, counted.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.score`.
        """
        longest = max((len(prompt.actions) for prompt in prompts), default=0)
        log_probs = np.full((len(prompts), longest), -np.inf, np.float32)
        for row, prompt in zip(log_probs, prompts, strict=True):
            # A state is known by all that is to be said of it, whatever a model has room for.
            shown = self._counts.get(prompt.uncut or prompt.text, {})
            counts = np.array([shown.get(action, 0) for action in prompt.actions])
            logits = np.log(counts + _PSEUDO_COUNT) / self._temperature
            row[: len(counts)] = logits - np.logaddexp.reduce(logits)
        return PriorBatch(log_probs, self._model.score(prompts).features)

    def metrics(self, outcomes: Mapping[str, int]) -> dict[str, float]:
        """None: counts say nothing about themselves."""
        del outcomes
        return {}


def count_prompts(dataset: Dataset, build: Builder) -> dict[str, dict[str, int]]:
    """By a prompt's text and action, how often a dataset shows it."""
    counts: dict[str, dict[str, int]] = {}
    for state, shown in count_actions(dataset).items():
        prompt = build(state)
        as_asked = dict(zip(state.actions, prompt.actions, strict=True))
        # States that differ in their actions alone have one prompt.
        of_prompt = counts.setdefault(prompt.text, {})
        for action, count in shown.items():
            of_prompt[as_asked[action]] = of_prompt.get(as_asked[action], 0) + count
    return counts
