"""Agents: DQN-Prior and its baselines, each a NamedTuple of pure functions over arrays."""

import difflib
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

_AGENTS = {
    "dqn_prior": dqn_prior,
    "dqn": lambda **kwargs: with_uniform_prior(dqn_prior(**kwargs)),
    "prior": lambda **kwargs: prior_alone(),
    "random": lambda **kwargs: with_uniform_prior(prior_alone()),
}


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
    if name not in _AGENTS:
        near = difflib.get_close_matches(name, _AGENTS, n=1, cutoff=0)
        raise ValueError(
            f"there is no agent {name!r}; did you mean {near[0]!r}? There are {', '.join(_AGENTS)}"
        )
    return _AGENTS[name](**kwargs)


__all__ = [
    "Agent",
    "AgentState",
    "DQNPriorState",
    "Policy",
    "Transitions",
    "dqn_prior",
    "make",
    "prior_alone",
    "uniform",
    "with_uniform_prior",
]
