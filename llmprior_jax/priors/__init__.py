"""Text to `log p(a|s)`: prompts, packed scoring, and what was already scored."""

from llmprior_jax.priors import prompts
from llmprior_jax.priors.inspection import Inspection, Token, inspect
from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.scoring import (
    TextScores,
    check_options,
    normalize,
    score,
    score_actions,
    score_texts,
)

__all__ = [
    "Inspection",
    "Prompt",
    "TextScores",
    "Token",
    "check_options",
    "inspect",
    "normalize",
    "prompts",
    "score",
    "score_actions",
    "score_texts",
]
