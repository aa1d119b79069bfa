"""A prior by what demonstrators did, beside which a language model's can be placed.

Where somebody has shown how a task is done, the share of each action in each state is a prior as
well. Raised to a power (`temperature`), it is a dial from the uniform prior to one as good as the
demonstrators.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from llmprior_jax.priors.prompts import Prompt

_PSEUDO_COUNT = 1.0  # Laplace's rule of succession


class Imitator:
    """A prior that is counted, state by state, and needs no language model.

    Examples:
      >>> imitator = priors.Imitator({"Task: wash the cup. Do:": {" wait": 3}})
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> print(np.exp(imitator.log_probs([prompt])).round(2))  # (0 + 1) / 5, (3 + 1) / 5
      [[0.2 0.8]]
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]], temperature: float = 1.0):
        """Takes the counts as they are.

        Args:
          counts: by prompt and action, how often that was done. A prompt stands for its state, so
            it is to say all of it, however long.
          temperature: T; the prior is proportional to `((n_a + 1) / (n + A)) ** (1 / T)`, n counts
            and A the number of actions. Where nothing was shown it is uniform.

        Raises:
          ValueError: a temperature that is not positive.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, not {temperature}")
        self._counts = counts
        self._temperature = temperature

    @property
    def identity(self) -> str:
        """What identifies the counts."""
        counts = json.dumps(self._counts, sort_keys=True)
        return hashlib.sha256(counts.encode()).hexdigest()[:16]

    def log_probs(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """The prior of each prompt's actions, counted.

        Args:
          prompts: B prompts, A actions at most.

        Returns:
          f32[B, A], `-inf` after the end of a prompt's list.
        """
        longest = max((len(prompt.actions) for prompt in prompts), default=0)
        log_probs = np.full((len(prompts), longest), -np.inf, np.float32)
        for row, prompt in zip(log_probs, prompts, strict=True):
            shown = self._counts.get(prompt.text, {})
            counts = np.array([shown.get(action, 0) for action in prompt.actions])
            logits = np.log(counts + _PSEUDO_COUNT) / self._temperature
            row[: len(counts)] = logits - np.logaddexp.reduce(logits)
        return log_probs
