"""Text to `log p(a|s)`: prompts, scoring, sampling, and sources of priors."""

from llmprior_jax.priors import measures, prompts
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
from llmprior_jax.priors.sources.base import PriorBatch, PriorSource, SourceContext
from llmprior_jax.priors.sources.cached import CachedModel, Queries
from llmprior_jax.priors.sources.demonstrated import Demonstrated
from llmprior_jax.priors.sources.proposed import Proposed
from llmprior_jax.priors.sources.registry import make_source, register_source
from llmprior_jax.priors.sources.scored import Scored
from llmprior_jax.priors.store import ModelUsage, PriorStore, StoreError
from llmprior_jax.priors.stored_scores import StoredScores

__all__ = [
    "CachedModel",
    "Completion",
    "Demonstrated",
    "Inspection",
    "ModelUsage",
    "PriorBatch",
    "PriorSource",
    "PriorStore",
    "Prompt",
    "Proposals",
    "Proposed",
    "Queries",
    "Sampling",
    "Scored",
    "SourceContext",
    "StoreError",
    "StoredScores",
    "TextScores",
    "Token",
    "check_options",
    "encode_actions",
    "estimate",
    "generate",
    "inspect",
    "make_source",
    "measures",
    "normalize",
    "project",
    "prompt_keys",
    "prompts",
    "propose",
    "register_source",
    "score",
    "score_actions",
    "score_texts",
]
