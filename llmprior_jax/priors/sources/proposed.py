"""A prior by what a language model proposes.

Where actions are scored, a model is asked about every action of a list. Here it is asked what it
would do, and the list only says what an answer can mean (`sampling.proposals`). Features for Q
still come from scoring the list.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.sampling.generation import Sampling, check_sampling
from llmprior_jax.priors.sampling.proposals import NO_MATCH, check_estimate, estimate
from llmprior_jax.priors.sources.base import PriorBatch
from llmprior_jax.priors.sources.cached import CachedModel

_UNFINISHED = "unfinished"


class Proposed:
    """A `PriorSource` that estimates the prior from sampled answers.

    Examples:
      >>> sampling = priors.Sampling(max_new_tokens=4)
      >>> source = priors.Proposed(priors.CachedModel("tiny"), k=4, sampling=sampling)
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> source.score([prompt]).log_probs.shape
      (1, 2)
    """

    def __init__(
        self,
        model: CachedModel,
        k: int,
        sampling: Sampling,
        no_match: str = "drop",
        pseudo_count: float = 0.0,
        seed: int = 0,
    ):
        """Nothing is loaded or sampled yet.

        Args:
          model: the language model; room is kept in its context for a thought and an answer.
          k: samples for each prompt.
          sampling: how they are drawn.
          no_match: what an answer counts for that names no action; see `estimate`.
          pseudo_count: added to the count of every action; see `estimate`.
          seed: of the samples.

        Raises:
          ValueError: an argument is out of its range.
        """
        check_sampling(k, sampling)
        check_estimate(no_match, pseudo_count)
        model.keep_room(2 * sampling.max_new_tokens)
        self._model = model
        self._k, self._sampling, self._seed = k, sampling, seed
        self._no_match, self._pseudo_count = no_match, pseudo_count

    @property
    def identity(self) -> str:
        """What identifies the model's answers."""
        return self._model.identity

    def score(self, prompts: Sequence[Prompt]) -> PriorBatch:
        """The priors of B prompts, estimated, and what the model makes of their actions.

        Without pseudo-counts, actions that were not proposed have `log_probs` of `-inf`. After
        thoughts, features are the mean over all samples' thoughts.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.propose` and `estimate`.
        """
        proposals = self._model.propose(prompts, self._seed, self._k, self._sampling)
        B, A = len(prompts), max((len(prompt.actions) for prompt in prompts), default=0)
        log_probs = np.full((B, A), -np.inf, np.float32)
        outcomes: Counter[str] = Counter()
        contexts: list[Prompt] = []
        weights: list[float] = []
        owners: list[int] = []
        for b, (prompt, proposed) in enumerate(zip(prompts, proposals, strict=True)):
            result = estimate(proposed, prompt.actions, self._no_match, self._pseudo_count)
            log_probs[b, : len(prompt.actions)] = result.log_probs
            outcomes.update(result.num_by_rule)
            outcomes[_UNFINISHED] += proposed.num_unfinished
            thoughts = Counter(thought for each in proposed.thoughts for thought in each)
            asked = {prompt: 1}
            if prompt.after_thought is not None:
                asked = {prompt.with_thought(thought): n for thought, n in thoughts.items()}
            contexts += asked
            weights += [n / sum(asked.values()) for n in asked.values()]
            owners += [b] * len(asked)

        of_contexts = self._model.score(contexts).features
        features = np.zeros((B, *of_contexts.shape[1:]), np.float32)
        for b, weight, leaf in zip(owners, weights, of_contexts, strict=True):
            features[b] += np.float32(weight) * leaf
        return PriorBatch(log_probs, features, outcomes)

    def metrics(self, outcomes: Mapping[str, int]) -> dict[str, float]:
        """Shares of all samples so far.

        `no_match_rate`: those that named no action; `unfinished_rate`: those that
        `Sampling.max_new_tokens` cut. NaN before the first sample.
        """
        samples = sum(n for outcome, n in outcomes.items() if outcome != _UNFINISHED)
        return {
            f"{outcome}_rate": outcomes.get(outcome, 0) / samples if samples else float("nan")
            for outcome in (NO_MATCH, _UNFINISHED)
        }
