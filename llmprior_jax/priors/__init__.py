"""Text to `log p(a|s)`: prompts, packed scoring, and what was already scored."""

from llmprior_jax.priors import prompts
from llmprior_jax.priors.generation import Completion, Sampling, generate, prompt_keys
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
    "Completion",
    "Inspection",
    "Prompt",
    "Sampling",
    "TextScores",
    "Token",
    "check_options",
    "generate",
    "inspect",
    "normalize",
    "prompt_keys",
    "prompts",
    "score",
    "score_actions",
    "score_texts",
]
