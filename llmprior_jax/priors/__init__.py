"""Text to `log p(a|s)`: prompts, packed scoring, and what was already scored."""

from llmprior_jax.priors import prompts
from llmprior_jax.priors.features import encode_actions
from llmprior_jax.priors.inspection import Inspection, Token, inspect
from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.sampling.generation import Completion, Sampling, generate, prompt_keys
from llmprior_jax.priors.sampling.proposals import Proposals, estimate, project, propose
from llmprior_jax.priors.scoring.score import (
    TextScores,
    check_options,
    normalize,
    score,
    score_actions,
    score_texts,
)
from llmprior_jax.priors.sources.cached import Queries, Scorer
from llmprior_jax.priors.sources.demonstrated import Imitator
from llmprior_jax.priors.sources.proposed import Proposer
from llmprior_jax.priors.store import ModelUsage, PriorStore, StoredScores, StoreError

__all__ = [
    "Completion",
    "Imitator",
    "Inspection",
    "ModelUsage",
    "PriorStore",
    "Prompt",
    "Proposals",
    "Proposer",
    "Queries",
    "Sampling",
    "Scorer",
    "StoreError",
    "StoredScores",
    "TextScores",
    "Token",
    "check_options",
    "encode_actions",
    "estimate",
    "generate",
    "inspect",
    "normalize",
    "project",
    "prompt_keys",
    "prompts",
    "propose",
    "score",
    "score_actions",
    "score_texts",
]
