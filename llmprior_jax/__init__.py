"""Language models as action priors for reinforcement learning, in JAX.

The equations are here: pure, unbatched functions for any JAX code, which need only jax and chex.
The other packages are imported when first used (`llmprior_jax.envs.make(...)`):

- `models`: language models and text encoders;
- `priors`: priors over the actions in a state, from a language model;
- `envs`: text environments;
- `refine`: trust in a prior and its refinement, pure functions as well;
- `agents`: learners as pure functions over arrays;
- `play`, `learning`, `training`, `distributed`: episodes, ways to learn, runs, many devices;
- `datasets`, `settings`: transitions as text, and the settings of the parts of a run.

The examples in the docstrings are tested. Those of the packages assume

    import pathlib

    import jax, jax.numpy as jnp, numpy as np
    from llmprior_jax import ActionPrior, TextState, agents, datasets, distributed, envs
    from llmprior_jax import learning, models, play, priors, refine, settings, training
"""

from typing import TYPE_CHECKING

from llmprior_jax.bellman import (
    cql_prior_loss,
    cql_prior_penalty,
    dqn_prior_loss,
    posterior_bellman_target,
)
from llmprior_jax.elbo import clipped_surrogate_loss, elbo_policy_loss, evidence_lower_bound
from llmprior_jax.lazy import __dir__ as __dir__
from llmprior_jax.lazy import __getattr__ as __getattr__
from llmprior_jax.posterior import (
    candidate_log_probs,
    empirical_log_probs,
    kl_to_prior,
    posterior_log_probs,
    sample_candidates,
    sample_posterior,
    soft_value,
)
from llmprior_jax.types import ActionPrior, LanguagePolicy, TextState

if TYPE_CHECKING:
    from llmprior_jax import agents as agents
    from llmprior_jax import datasets as datasets
    from llmprior_jax import distributed as distributed
    from llmprior_jax import envs as envs
    from llmprior_jax import learning as learning
    from llmprior_jax import models as models
    from llmprior_jax import play as play
    from llmprior_jax import priors as priors
    from llmprior_jax import refine as refine
    from llmprior_jax import settings as settings
    from llmprior_jax import training as training

__all__ = [
    "ActionPrior",
    "LanguagePolicy",
    "TextState",
    "candidate_log_probs",
    "clipped_surrogate_loss",
    "cql_prior_loss",
    "cql_prior_penalty",
    "dqn_prior_loss",
    "elbo_policy_loss",
    "empirical_log_probs",
    "evidence_lower_bound",
    "kl_to_prior",
    "posterior_bellman_target",
    "posterior_log_probs",
    "sample_candidates",
    "sample_posterior",
    "soft_value",
]
