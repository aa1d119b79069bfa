"""Language models as action priors for reinforcement learning, in JAX.

The equations are here: pure, unbatched functions for anybody's JAX code, which need nothing but jax
and chex. The packages `models`, `priors`, `envs`, `agents` and `training` are imported when first
used (`llmprior_jax.envs.make(...)`), so the equations do not wait for a language-model library.

The examples in the docstrings are run. Those of the packages take for granted

    import pathlib

    import jax, jax.numpy as jnp, numpy as np
    from llmprior_jax import ActionPrior, TextState, agents, envs, models, priors, training
"""

import importlib
from typing import TYPE_CHECKING, Any

from llmprior_jax.bellman import (
    cql_prior_loss,
    cql_prior_penalty,
    dqn_prior_loss,
    posterior_bellman_target,
)
from llmprior_jax.elbo import clipped_surrogate_loss, elbo_policy_loss
from llmprior_jax.elbo import elbo as elbo  # The function, not the module of that name.
from llmprior_jax.posterior import (
    candidate_log_probs,
    empirical_log_probs,
    kl_to_prior,
    posterior_log_probs,
    sample_candidates,
    sample_posterior,
    soft_value,
)
from llmprior_jax.types import ActionPrior, TextState

if TYPE_CHECKING:
    from llmprior_jax import agents as agents
    from llmprior_jax import envs as envs
    from llmprior_jax import models as models
    from llmprior_jax import priors as priors
    from llmprior_jax import training as training

__all__ = [
    "ActionPrior",
    "TextState",
    "candidate_log_probs",
    "clipped_surrogate_loss",
    "cql_prior_loss",
    "cql_prior_penalty",
    "dqn_prior_loss",
    "elbo",
    "elbo_policy_loss",
    "empirical_log_probs",
    "kl_to_prior",
    "posterior_bellman_target",
    "posterior_log_probs",
    "sample_candidates",
    "sample_posterior",
    "soft_value",
]

_PACKAGES = ("agents", "envs", "models", "priors", "training")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            library = (error.name or "a library").partition(".")[0]
            raise ImportError(
                f"llmprior_jax.{name} needs {library}, which is not installed: "
                "pip install llmprior-jax"
            ) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGES})
