"""Agents: DQN-Prior, CQL-Prior, GFlan-Prior and their baselines, as pure functions over arrays."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from llmprior_jax.agents import prior_transforms, temperature
from llmprior_jax.agents.agent import (
    Agent,
    AgentState,
    Policy,
    Transitions,
    prior_alone,
    uniform,
    with_prior,
    with_uniform_prior,
)
from llmprior_jax.agents.behavior_cloning import bc_prior
from llmprior_jax.agents.cql_prior import cql_prior
from llmprior_jax.agents.dqn_prior import dqn_prior
from llmprior_jax.agents.gflan_prior import GFlanState, gflan_prior
from llmprior_jax.agents.policy_agent import PolicyAgent, Rollout, States
from llmprior_jax.agents.q_learning import QLearnerState, q_learner
from llmprior_jax.priors.language_policy import LanguagePolicy

# Each agent and its baseline, which is the same with a uniform prior.
_AGENTS: dict[str, tuple[Callable[..., Agent], bool]] = {
    "dqn_prior": (dqn_prior, False),
    "dqn": (dqn_prior, True),
    "cql_prior": (cql_prior, False),
    "cql": (cql_prior, True),
    "bc_prior": (bc_prior, False),
    "bc": (bc_prior, True),
    "prior": (prior_alone, False),
    "random": (prior_alone, True),
}
_POLICY_AGENTS = {
    "gflan_prior": gflan_prior,
    "gflan": lambda model, alpha=0.0, **kwargs: gflan_prior(model, alpha=0.0, **kwargs),
}
POLICY_AGENTS = tuple(_POLICY_AGENTS)
"""The agents that `make_policy` makes."""


def make(name: str, **kwargs: Any) -> Agent:
    """Makes an agent by name.

    Examples:
      >>> agent = agents.make("dqn", alpha=0.1)
      >>> agents.make("dqn_priro")
      Traceback (most recent call last):
      ValueError: there is no agent 'dqn_priro'; did you mean 'dqn_prior'? ...

    Args:
      name: "dqn_prior", "cql_prior" (offline), "bc_prior" (behavior cloning), "prior" (samples
        from the prior), or one of these with a uniform prior: "dqn", "cql", "bc", "random".
      **kwargs: arguments of the function of that name in this package. What only other agents
        take is ignored, so that one configuration serves an agent and its baselines.

    Raises:
      ValueError: the name is unknown; the message has the nearest valid one.
      TypeError: no agent has such an argument.
    """
    _check_agent(name, _AGENTS)
    parameters = {
        known: list(inspect.signature(make).parameters) for known, (make, _) in _AGENTS.items()
    }
    every = sorted(set().union(*parameters.values()))
    for argument in kwargs:
        if argument not in every:
            _refuse("no agent has an argument", argument, every, TypeError)
    factory, is_uniform = _AGENTS[name]
    agent = factory(**{key: value for key, value in kwargs.items() if key in parameters[name]})
    return with_uniform_prior(agent) if is_uniform else agent


def make_policy(name: str, model: LanguagePolicy, **kwargs: Any) -> PolicyAgent:
    """Makes an agent whose policy is a language model, by name.

    Examples:
      >>> from llmprior_jax.priors.policy import language_policy
      >>> model = language_policy(models.load("tiny"), num_actions=2)
      >>> agent = agents.make_policy("gflan", model, epochs=2)
      >>> sorted(agent._fields)
      ['init', 'policy', 'update']

    Args:
      name: "gflan_prior", or "gflan" (the same with alpha = 0).
      model: the language model.
      **kwargs: arguments of `gflan_prior`.

    Raises:
      ValueError: the name is unknown, or an argument out of its range.
    """
    _check_agent(name, _POLICY_AGENTS)
    return _POLICY_AGENTS[name](model, **kwargs)


def _check_agent(name: str, names: Iterable[str]) -> None:
    if name not in names:
        _refuse("there is no agent", name, [*_AGENTS, *_POLICY_AGENTS], ValueError)


def _refuse(what: str, name: str, known: list[str], error: type[Exception]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0)
    raise error(f"{what} {name!r}; did you mean {near[0]!r}? There are {', '.join(known)}")


__all__ = [
    "POLICY_AGENTS",
    "Agent",
    "AgentState",
    "GFlanState",
    "Policy",
    "PolicyAgent",
    "QLearnerState",
    "Rollout",
    "States",
    "Transitions",
    "bc_prior",
    "cql_prior",
    "dqn_prior",
    "gflan_prior",
    "make",
    "make_policy",
    "prior_alone",
    "prior_transforms",
    "q_learner",
    "temperature",
    "uniform",
    "with_prior",
    "with_uniform_prior",
]
