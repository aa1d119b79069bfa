"""A prior by what demonstrators did, with the face of one that scores.

Where somebody has shown how a task is done, the share of each action in each state is a prior as
well. Raised to a power (`temperature`), it is a dial from the uniform prior to one as good as the
demonstrators, beside which a language model's can be placed.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.scorer import HIDDEN, Scorer
from llmprior_jax.priors.store import PriorStore

_PSEUDO_COUNT = 1.0  # Laplace's rule of succession


class Imitator(Scorer):
    """A `Scorer` whose prior is counted; the language model only makes the features.

    Examples:
      >>> imitator = priors.Imitator("tiny", {"Task: wash the cup. Do:": {" wait": 3}})
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> log_probs, features = imitator.score([prompt])
      >>> print(np.exp(log_probs).round(2))  # (0 + 1) / (3 + 2) and (3 + 1) / (3 + 2)
      [[0.2 0.8]]
    """

    def __init__(
        self,
        model: str,
        counts: Mapping[str, Mapping[str, int]],
        temperature: float = 1.0,
        store: PriorStore | None = None,
        features: str = HIDDEN,
        quantize: str | None = None,
    ):
        """Nothing is loaded yet.

        Args:
          model: the language model, as `llmprior_jax.models.load` takes it.
          counts: by prompt and action, how often that was done.
          temperature: T; the prior is proportional to `((n_a + 1) / (n + A)) ** (1 / T)`, n counts
            and A the number of actions. Where nothing was shown it is uniform.
          store: see `Scorer`.
          features: see `Scorer`.
          quantize: see `Scorer`.

        Raises:
          ValueError: a temperature that is not positive.
        """
        super().__init__(
            model, temperature=temperature, store=store, features=features, quantize=quantize
        )
        self._counts = counts

    @property
    def identity(self) -> str:
        """What identifies log-probs and features: the counts, too."""
        counts = json.dumps(self._counts, sort_keys=True)
        return f"{super().identity} {hashlib.sha256(counts.encode()).hexdigest()[:16]}"

    def score(self, prompts: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray]:
        """The prior of each prompt's actions, counted, and what the model makes of them.

        Args:
          prompts: B prompts, A actions at most.

        Returns:
          `log_probs` f32[B, A], `-inf` after the end of a prompt's list, and `features` f32[B, A,
          D].

        Raises:
          TypeError, ValueError: see `Scorer.score`.
        """
        log_probs, features = super().score(prompts)
        for row, prompt in zip(log_probs, prompts, strict=True):
            shown = self._counts.get(prompt.text, {})
            counts = np.array([shown.get(action, 0) for action in prompt.actions])
            logits = np.log(counts + _PSEUDO_COUNT) / self._temperature
            row[: len(counts)] = logits - np.logaddexp.reduce(logits)
        return log_probs, features
