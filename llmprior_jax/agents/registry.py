"""The agents by name: those of the library, those that a user registers, and import paths.

There are two kinds. An agent that sees priors is made by `make`; an agent whose policy is a
language model is made by `make_policy`, from a factory whose first parameter is `model`. Both kinds
share their names, so that one list can hold either.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from llmprior_jax.agents.agent import Agent, prior_alone, with_uniform_prior
from llmprior_jax.agents.behavior_cloning import bc_prior
from llmprior_jax.agents.cql_prior import cql_prior
from llmprior_jax.agents.dqn_prior import dqn_prior
from llmprior_jax.agents.gflan_prior import gflan_prior
from llmprior_jax.agents.mem_q import mem_q
from llmprior_jax.agents.policy_agent import PolicyAgent
from llmprior_jax.agents.search_prior import search_prior
from llmprior_jax.agents.trust import Trust
from llmprior_jax.registry import Registry, nearest
from llmprior_jax.types import LanguagePolicy

Factory = Callable[..., Any]

# Those of agents that see no prior but a uniform one.
_BLIND: list[Factory] = []


# The same factory gives the same baseline, which may thus be registered again.
@functools.cache
def _baseline(factory: Factory) -> Factory:
    """The same agent with a uniform prior."""

    @functools.wraps(factory)
    def make_baseline(**kwargs: Any) -> Agent:
        # A uniform prior weighed against a uniform prior teaches nothing.
        others = {name: value for name, value in kwargs.items() if name != "trust"}
        return with_uniform_prior(factory(**others))

    _BLIND.append(make_baseline)
    return make_baseline


@functools.wraps(gflan_prior)
def _gflan(
    model: LanguagePolicy, alpha: float = 0.0, trust: Trust | None = None, **kwargs: Any
) -> PolicyAgent:
    """GFlan-Prior without a price for departing from the prior, whatever alpha and trust are."""
    del alpha, trust
    return gflan_prior(model, alpha=0.0, **kwargs)


_BLIND.append(_gflan)
_AGENTS: Registry[Factory] = Registry(
    "agent",
    {
        "dqn_prior": dqn_prior,
        "dqn": _baseline(dqn_prior),
        "cql_prior": cql_prior,
        "cql": _baseline(cql_prior),
        "bc_prior": bc_prior,
        "bc": _baseline(bc_prior),
        "prior": prior_alone,
        "random": _baseline(prior_alone),
        "mem_q": mem_q,
        "search_prior": search_prior,
        "gflan_prior": gflan_prior,
        "gflan": _gflan,
    },
)


def make(name: str, **kwargs: Any) -> Agent:
    """Makes an agent by name.

    Examples:
      >>> agent = agents.make("dqn", alpha=0.1)
      >>> agents.make("dqn_priro")
      Traceback (most recent call last):
      ValueError: there is no agent 'dqn_priro'; did you mean 'dqn_prior'? ...

    Args:
      name: "dqn_prior", "cql_prior" (offline), "bc_prior" (behavior cloning), "mem_q" (remembers),
        "search_prior" (looks ahead), "prior" (samples from the prior); one of these with a uniform
        prior: "dqn", "cql", "bc", "random"; a name given by `register`; or an import path,
        `my_module:my_agent`, of a function that returns an `Agent`.
      **kwargs: arguments of that function. What only other agents take is ignored, so that the
        same arguments serve an agent and its baselines.

    Raises:
      ValueError: there is no such agent, or it is one for `make_policy`.
      TypeError: no agent has such an argument.
    """
    factory = _AGENTS[name]
    if _is_policy(factory):
        raise ValueError(f"the policy of {name!r} is a language model; use agents.make_policy")
    return factory(**_taken(factory, kwargs))


def make_policy(name: str, model: LanguagePolicy, **kwargs: Any) -> PolicyAgent:
    """Makes an agent whose policy is a language model, by name.

    Examples:
      >>> from llmprior_jax.priors.language_policy import language_policy
      >>> model = language_policy(models.load("tiny"), num_actions=2)
      >>> agent = agents.make_policy("gflan", model, epochs=2)
      >>> sorted(agent._fields)
      ['init', 'policy', 'prior', 'update']

    Args:
      name: "gflan_prior", or "gflan" (the same with alpha = 0); a name given by `register_policy`;
        or an import path, `my_module:my_agent`, of a function that takes `model` first and returns
        a `PolicyAgent`.
      model: the language model.
      **kwargs: arguments of that function. What only other agents of this kind take is ignored.

    Raises:
      ValueError: there is no such agent, it is one for `make`, or an argument is out of its range.
      TypeError: no agent whose policy is a language model has such an argument.
    """
    factory = _AGENTS[name]
    if not _is_policy(factory):
        raise ValueError(f"the policy of {name!r} is no language model; use agents.make")
    return factory(model, **_taken(factory, kwargs))


def register(name: str, factory: Callable[..., Agent], uniform_prior: bool = False) -> None:
    """Gives an agent of your own a name, for `make` and for runs.

    Examples:
      >>> def greedy(*, patience=1, learning_rate=1e-3):
      ...     return agents.dqn_prior(alpha=0.1**patience, learning_rate=learning_rate)
      >>> agents.register("greedy_prior", greedy)
      >>> agents.register("greedy", greedy, uniform_prior=True)
      >>> agent = agents.make("greedy", patience=2, beta=0.1)  # beta is CQL's

    Args:
      name: the name, which no agent has yet.
      factory: makes the agent. Of the arguments of `make` it is given, by keyword, those that it
        has a parameter for; all of them if it takes `**kwargs`.
      uniform_prior: the agent sees a uniform prior in place of the language model's, as a baseline.

    Raises:
      ValueError: another agent has that name, the name has a colon, or the factory is one for
        `register_policy`.
    """
    if _is_policy(factory):
        raise ValueError(
            f"the factory of {name!r} takes `model` first, as that of an agent whose policy is a "
            "language model; use agents.register_policy, or rename the parameter"
        )
    _AGENTS.register(name, _baseline(factory) if uniform_prior else factory)


def register_policy(name: str, factory: Callable[..., PolicyAgent]) -> None:
    """Gives an agent of your own whose policy is a language model a name, for `make_policy`.

    Examples:
      >>> def far_sighted(model, *, epochs=1):
      ...     return agents.gflan_prior(model, discount=0.999, epochs=epochs)
      >>> agents.register_policy("far_sighted", far_sighted)
      >>> agents.is_policy("far_sighted")
      True

    Args:
      name: the name, which no agent has yet.
      factory: makes the agent. Its first parameter is `model`, the `LanguagePolicy`; the others are
        given as in `register`.

    Raises:
      ValueError: another agent has that name, the name has a colon, or the factory does not take
        `model` first.
    """
    if not _is_policy(factory):
        raise ValueError(
            f"the factory of {name!r} has to take the language model as its first parameter, "
            "`model`; for an agent that sees priors use agents.register"
        )
    _AGENTS.register(name, factory)


def is_policy(name: str) -> bool:
    """Whether the policy of an agent is a language model: `make_policy` makes it, not `make`.

    Examples:
      >>> agents.is_policy("gflan"), agents.is_policy("dqn")
      (True, False)

    Args:
      name: as `make` and `make_policy` take it. An import path is such an agent's if the first
        parameter of what it names is `model`.

    Raises:
      ValueError: there is no such agent.
    """
    return _is_policy(_AGENTS[name])


def sees_prior(name: str) -> bool:
    """Whether an agent sees the language model's prior: a baseline sees a uniform one, or none.

    Examples:
      >>> agents.sees_prior("dqn_prior"), agents.sees_prior("dqn"), agents.sees_prior("gflan")
      (True, False, False)

    Args:
      name: as `make` and `make_policy` take it. What is not known to be a baseline sees it.

    Raises:
      ValueError: there is no such agent.
    """
    factory = _AGENTS[name]
    return not any(factory is blind for blind in _BLIND)


def weighs_prior(name: str) -> bool:
    """Whether an agent can learn how far to trust a prior, and act without it (`agents.trust`).

    Examples:
      >>> agents.weighs_prior("dqn_prior"), agents.weighs_prior("dqn"), agents.weighs_prior("prior")
      (True, False, False)

    Args:
      name: as `make` and `make_policy` take it. One whose policy is a language model does not: it
        begins as its model is.

    Raises:
      ValueError: there is no such agent.
    """
    factory = _AGENTS[name]
    return sees_prior(name) and not _is_policy(factory) and "trust" in _arguments(factory)


def searches(name: str) -> bool:
    """Whether an agent searches, if the environment can be stepped (`with_search`).

    Examples:
      >>> agents.searches("search_prior"), agents.searches("dqn_prior")
      (True, False)

    Args:
      name: as `make` and `make_policy` take it. What is not known to search does not.

    Raises:
      ValueError: there is no such agent.
    """
    return _AGENTS[name] is search_prior


def names() -> tuple[str, ...]:
    """The agents that `make` makes, by name.

    Examples:
      >>> agents.names()[:4]
      ('dqn_prior', 'dqn', 'cql_prior', 'cql')
    """
    return tuple(name for name in _AGENTS if not is_policy(name))


def policy_names() -> tuple[str, ...]:
    """The agents that `make_policy` makes, by name.

    Examples:
      >>> agents.policy_names()[:2]
      ('gflan_prior', 'gflan')
    """
    return tuple(name for name in _AGENTS if is_policy(name))


def _is_policy(factory: Factory) -> bool:
    return next(iter(inspect.signature(factory).parameters), None) == "model"


def _taken(factory: Factory, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a factory takes.

    Raises:
      TypeError: neither it nor any registered agent of its kind has one of them.
    """
    own = _arguments(factory)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
        return dict(kwargs)
    of_kind = policy_names() if _is_policy(factory) else names()
    known = sorted({*own, *(each for name in of_kind for each in _arguments(_AGENTS[name]))})
    for argument in kwargs:
        if argument not in known:
            raise TypeError(
                f"no agent has an argument {argument!r}; did you mean "
                f"{nearest(argument, known)!r}? There are {', '.join(known)}"
            )
    return {argument: value for argument, value in kwargs.items() if argument in own}


def _arguments(factory: Factory) -> dict[str, inspect.Parameter]:
    """The parameters of a factory but for the language model."""
    parameters = dict(inspect.signature(factory).parameters)
    if _is_policy(factory):
        del parameters["model"]
    return parameters
