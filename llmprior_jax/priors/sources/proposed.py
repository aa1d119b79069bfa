"""A prior by what a language model proposes, with the face of one that scores.

Where actions are scored, a model is asked about every action of a list. Here it is asked what it
would do, and the list only says what an answer can mean (`proposals`). Features for Q still come
from scoring the list.
"""

from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.sampling.generation import Sampling, check_sampling
from llmprior_jax.priors.sampling.proposals import NO_MATCH, check_estimate, estimate
from llmprior_jax.priors.sources.cached import HIDDEN, Scorer
from llmprior_jax.priors.store import PriorStore


class Proposer(Scorer):
    """A `Scorer` whose prior is estimated from samples.

    Examples:
      >>> proposer = priors.Proposer("tiny", k=4, sampling=priors.Sampling(max_new_tokens=4))
      >>> prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
      >>> log_probs, features = proposer.score([prompt])
      >>> log_probs.shape
      (1, 2)
    """

    def __init__(
        self,
        model: str,
        k: int,
        sampling: Sampling,
        no_match: str = "drop",
        pseudo_count: float = 0.0,
        seed: int = 0,
        store: PriorStore | None = None,
        mesh: jax.sharding.Mesh | None = None,
        features: str = HIDDEN,
        quantize: str | None = None,
    ):
        """Nothing is loaded or sampled yet.

        Args:
          model: the language model, as `llmprior_jax.models.load` takes it.
          k: samples for each prompt.
          sampling: how they are drawn.
          no_match: what an answer counts for that names no action; see `estimate`.
          pseudo_count: added to the count of every action; see `estimate`.
          seed: of the samples.
          store: see `Scorer`.
          mesh: see `Scorer`; what is sampled is shared out as what is scored.
          features: see `Scorer`.
          quantize: see `Scorer`.

        Raises:
          ValueError: an argument is out of its range.
        """
        super().__init__(model, store=store, mesh=mesh, features=features, quantize=quantize)
        check_sampling(k, sampling)
        check_estimate(no_match, pseudo_count)
        self._k, self._sampling, self._seed = k, sampling, seed
        self._no_match, self._pseudo_count = no_match, pseudo_count

    @property
    def _room_kept(self) -> int:
        return 2 * self._sampling.max_new_tokens  # A thought and an answer.

    def score(self, prompts: Sequence[Prompt]) -> tuple[np.ndarray, np.ndarray]:
        """The prior of each prompt's actions, estimated, and what the model makes of them.

        Args:
          prompts: B prompts, A actions at most.

        Returns:
          `log_probs` f32[B, A], `-inf` after the end of a prompt's list, and without pseudo-counts
          for what was not proposed; and `features` f32[B, A, D]: those of scoring. After thoughts,
          they are the mean over all samples' thoughts.

        Raises:
          TypeError, ValueError: see `llmprior_jax.priors.propose` and `estimate`.
        """
        proposals = self.propose(prompts, self._seed, self._k, self._sampling)
        B, A = len(prompts), max((len(prompt.actions) for prompt in prompts), default=0)
        log_probs = np.full((B, A), -np.inf, np.float32)
        contexts, weights, owners = [], [], []
        for b, (prompt, proposed) in enumerate(zip(prompts, proposals, strict=True)):
            result = estimate(proposed, prompt.actions, self._no_match, self._pseudo_count)
            log_probs[b, : len(prompt.actions)] = result.log_probs
            self.outcomes.update(result.num_by_rule, unfinished=proposed.num_unfinished)
            thoughts = Counter(thought for each in proposed.thoughts for thought in each)
            asked = {prompt: 1}
            if prompt.after_thought is not None:
                asked = {prompt.with_thought(thought): n for thought, n in thoughts.items()}
            contexts += asked
            weights += [n / sum(asked.values()) for n in asked.values()]
            owners += [b] * len(asked)

        _, of_contexts = super().score(contexts)
        features = np.zeros((B, *of_contexts.shape[1:]), np.float32)
        for b, weight, leaf in zip(owners, weights, of_contexts, strict=True):
            features[b] += np.float32(weight) * leaf
        return log_probs, features

    def metrics(self) -> dict[str, float]:
        """Shares of all samples so far.

        `no_match_rate`: those that named no action; `unfinished_rate`: those that
        `Sampling.max_new_tokens` cut. NaN before the first sample.
        """
        samples = sum(n for outcome, n in self.outcomes.items() if outcome != "unfinished")
        return {
            f"{outcome}_rate": self.outcomes[outcome] / samples if samples else float("nan")
            for outcome in (NO_MATCH, "unfinished")
        }
