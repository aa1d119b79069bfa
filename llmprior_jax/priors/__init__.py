"""Text to `log p(a|s)`: prompts, packed scoring, and what was already scored."""

from llmprior_jax.priors import prompts
from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.scoring import check_options, score, score_actions

__all__ = ["Prompt", "check_options", "prompts", "score", "score_actions"]
