"""A prior by the probability of each action's text."""

from collections.abc import Mapping, Sequence

from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.scoring.score import check_options, normalize
from llmprior_jax.priors.sources.base import PriorBatch
from llmprior_jax.priors.sources.cached import CachedModel


class Scored:
    """A `PriorSource` that makes a prior from a language model's scores of the actions.

    Examples:
      >>> source = priors.Scored(priors.CachedModel("tiny"), normalization="token")
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> source.score([prompt]).log_probs.shape
      (1, 2)
    """

    def __init__(self, model: CachedModel, normalization: str = "sum", temperature: float = 1.0):
        """Nothing is loaded or scored yet.

        Args:
          model: the language model.
          normalization: see `llmprior_jax.priors.score_actions`.
          temperature: see `llmprior_jax.priors.score_actions`.

        Raises:
          ValueError: an unknown normalization, or a temperature that is not positive.
        """
        check_options(normalization, temperature)
        self._model = model
        self._normalization, self._temperature = normalization, temperature

    @property
    def identity(self) -> str:
        """What identifies the model's answers."""
        return self._model.identity

    def score(self, prompts: Sequence[Prompt]) -> PriorBatch:
        """The priors of B prompts, as `llmprior_jax.priors.score` gives them.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.score`; or the store is damaged, or a
            prompt asks for a thought.
        """
        if any(prompt.after_thought is not None for prompt in prompts):
            raise ValueError(
                "a prompt asks for a thought before the action, which is sampled and cannot be "
                "scored; use the method 'propose'"
            )
        scores = self._model.score(prompts)
        actions = [prompt.actions for prompt in prompts]
        log_probs = normalize(scores, actions, self._normalization, self._temperature)
        return PriorBatch(log_probs, scores.features)

    def metrics(self, outcomes: Mapping[str, int]) -> dict[str, float]:
        """None: scores say nothing about themselves."""
        del outcomes
        return {}
