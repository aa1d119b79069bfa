"""Agents: DQN-Prior, GFlan-Prior and their baselines, NamedTuples of pure functions over arrays."""

import difflib
from collections.abc import Iterable
from typing import Any

from llmprior_jax.agents.agent import (
    Agent,
    AgentState,
    Policy,
    Transitions,
    prior_alone,
    uniform,
    with_uniform_prior,
)
from llmprior_jax.agents.dqn_prior import DQNPriorState, dqn_prior
from llmprior_jax.agents.gflan_prior import GFlanState, gflan_prior
from llmprior_jax.agents.policy_agent import PolicyAgent, Rollout, States
from llmprior_jax.priors.policy import LanguagePolicy

_AGENTS = {
    "dqn_prior": dqn_prior,
    "dqn": lambda **kwargs: with_uniform_prior(dqn_prior(**kwargs)),
    "prior": lambda **kwargs: prior_alone(),
    "random": lambda **kwargs: with_uniform_prior(prior_alone()),
}
_POLICY_AGENTS = {
    "gflan_prior": gflan_prior,
    "gflan": lambda model, alpha=0.0, **kwargs: gflan_prior(model, alpha=0.0, **kwargs),
}
POLICY_AGENTS = tuple(_POLICY_AGENTS)
"""The agents that `make_policy` makes."""


def make(name: str, **kwargs: Any) -> Agent:
    """Makes an agent by name.

    Args:
      name: "dqn_prior", "dqn" (the same with a uniform prior), "prior" (samples from the prior) or
        "random" (the same with a uniform prior).
      **kwargs: arguments of `dqn_prior`; the agents that do not learn have none and ignore them,
        so that one configuration serves an agent and its baselines.

    Raises:
      ValueError: the name is unknown; the message has the nearest valid one.
    """
    _check_name(name, _AGENTS)
    return _AGENTS[name](**kwargs)


def make_policy(name: str, model: LanguagePolicy, **kwargs: Any) -> PolicyAgent:
    """Makes an agent whose policy is a language model, by name.

    Args:
      name: "gflan_prior", or "gflan" (the same with alpha = 0).
      model: the language model.
      **kwargs: arguments of `gflan_prior`.

    Raises:
      ValueError: the name is unknown, or an argument out of its range.
    """
    _check_name(name, _POLICY_AGENTS)
    return _POLICY_AGENTS[name](model, **kwargs)


def _check_name(name: str, names: Iterable[str]) -> None:
    if name not in names:
        known = [*_AGENTS, *_POLICY_AGENTS]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise ValueError(
            f"there is no agent {name!r}; did you mean {near[0]!r}? There are {', '.join(known)}"
        )


__all__ = [
    "POLICY_AGENTS",
    "Agent",
    "AgentState",
    "DQNPriorState",
    "GFlanState",
    "Policy",
    "PolicyAgent",
    "Rollout",
    "States",
    "Transitions",
    "dqn_prior",
    "gflan_prior",
    "make",
    "make_policy",
    "prior_alone",
    "uniform",
    "with_uniform_prior",
]
