"""Agents by name: the library's, a user's own, and import paths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax import agents, training
from llmprior_jax.agents import registry
from llmprior_jax.registry import Registry
from llmprior_jax.types import ActionPrior, LanguagePolicy

PRIOR = ActionPrior(jnp.log(jnp.array([0.1, 0.6, 0.3])), jnp.zeros((3, 2)))
NO_MODEL: Any = object()


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    entries = {name: registry._AGENTS[name] for name in registry._AGENTS}
    monkeypatch.setattr(registry, "_AGENTS", Registry("agent", entries))


def by_rank(*, rank: int = 0) -> agents.Agent:
    """An agent of a user's own: takes the action of a rank under the prior, 0 is the likeliest."""

    def act(state: Any, key: jax.Array, prior: ActionPrior) -> jax.Array:
        return jnp.argsort(-prior.log_probs)[rank]

    def policy(state: Any, prior: ActionPrior) -> agents.Policy:
        return agents.Policy(prior.log_probs, jnp.zeros_like(prior.log_probs))

    return agents.Agent(lambda key, prior: (), policy, act, None)


def by_any(**kwargs: Any) -> agents.Agent:
    return by_rank(**kwargs)


def frozen_policy(model: LanguagePolicy, *, patience: int = 0) -> agents.PolicyAgent:
    """A policy agent of a user's own, whose state says what it was made of."""
    made_of: Any = (model, patience)
    return agents.PolicyAgent(lambda key: made_of, NO_MODEL, NO_MODEL)


def action_of(agent: agents.Agent) -> int:
    return int(agent.act((), jax.random.key(0), PRIOR))


def test_an_agent_of_a_users_own_is_made_with_an_argument_of_its_own():
    agents.register("by_rank", by_rank)
    assert action_of(agents.make("by_rank")) == 1
    assert action_of(agents.make("by_rank", rank=2)) == 0


def test_its_baseline_has_a_uniform_prior():
    agents.register("by_rank_uniform", by_rank, uniform_prior=True)
    policy = agents.make("by_rank_uniform", rank=1).policy((), PRIOR)
    np.testing.assert_allclose(jnp.exp(policy.log_probs), 1 / 3, rtol=1e-6)


def test_the_arguments_of_an_agent_of_a_users_own_are_ignored_by_the_others():
    agents.register("by_rank", by_rank)
    agents.make("dqn", rank=2)


def test_an_argument_of_an_import_path_is_unknown_to_the_others():
    agents.make(f"{__name__}:by_rank", rank=2)
    with pytest.raises(TypeError, match="no agent has an argument 'rank'"):
        agents.make("dqn", rank=2)


def test_an_agent_is_made_by_import_path():
    assert action_of(agents.make(f"{__name__}:by_rank", rank=2, beta=0.1)) == 0


def test_a_factory_of_any_arguments_is_given_all():
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        agents.make(f"{__name__}:by_any", rank=2, beta=0.1)
    assert action_of(agents.make(f"{__name__}:by_any", rank=2)) == 0


def test_an_agent_of_a_users_own_is_made_of_a_configuration():
    agents.register("by_rank", by_rank)
    assert action_of(training.make_agent("by_rank", training.default_config())) == 1


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="the agent 'dqn' is there already"):
        agents.register("dqn", by_rank)
    with pytest.raises(ValueError, match="the agent 'gflan' is there already"):
        agents.register("gflan", by_rank)


def test_the_same_agent_may_be_registered_again():
    for _ in range(2):
        agents.register("by_rank", by_rank)
        agents.register("by_rank_uniform", by_rank, uniform_prior=True)
        agents.register_policy("frozen", frozen_policy)
    assert {"by_rank", "by_rank_uniform"} <= set(agents.names())


def test_a_policy_agent_of_a_users_own_is_made_with_an_argument_of_its_own():
    agents.register_policy("frozen", frozen_policy)
    agent = agents.make_policy("frozen", NO_MODEL, patience=3, epochs=1)  # epochs are gflan's
    assert agent.init(jax.random.key(0)) == (NO_MODEL, 3)


def test_a_policy_agent_is_made_by_import_path():
    agent = agents.make_policy(f"{__name__}:frozen_policy", NO_MODEL, patience=3)
    assert agent.init(jax.random.key(0)) == (NO_MODEL, 3)


@pytest.mark.parametrize("argument", ["epoch", "beta"])
def test_an_argument_that_no_policy_agent_has_is_refused(argument):
    with pytest.raises(TypeError, match=f"no agent has an argument '{argument}'; did you mean"):
        agents.make_policy("gflan", NO_MODEL, **{argument: 1})


def test_the_model_is_not_among_the_arguments_that_one_may_have_meant():
    with pytest.raises(TypeError, match="minibatch_states") as error:
        agents.make_policy("gflan", NO_MODEL, modell=1)
    assert " model," not in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gflan", True),
        ("gflan_prior", True),
        ("dqn", False),
        ("prior", False),
        ("frozen", True),
        ("by_rank", False),
        (f"{__name__}:frozen_policy", True),
        (f"{__name__}:by_rank", False),
        ("llmprior_jax.agents:gflan_prior", True),
        ("llmprior_jax.agents:prior_alone", False),
    ],
)
def test_what_an_agent_is_made_of_says_whether_its_policy_is_a_language_model(name, expected):
    agents.register("by_rank", by_rank)
    agents.register_policy("frozen", frozen_policy)
    assert agents.is_policy(name) == expected


@pytest.mark.parametrize("ask", [agents.make, agents.is_policy])
def test_an_unknown_name_is_refused_with_the_nearest(ask):
    with pytest.raises(ValueError, match="there is no agent 'gflan_piror'; did you mean 'gflan_p"):
        ask("gflan_piror")


def test_each_kind_of_agent_is_made_by_its_own_function():
    with pytest.raises(ValueError, match="policy of 'gflan' is a language model"):
        agents.make("gflan")
    with pytest.raises(ValueError, match="policy of 'dqn' is no language model"):
        agents.make_policy("dqn", NO_MODEL)


def test_each_kind_of_agent_is_registered_by_its_own_function():
    with pytest.raises(ValueError, match="'frozen' takes `model` first, as that of"):
        agents.register("frozen", frozen_policy)
    with pytest.raises(ValueError, match="'by_rank' has to take the language model as its first"):
        agents.register_policy("by_rank", by_rank)


def test_an_import_path_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"agent 'math:pi' is 3.14.*, which cannot be called"):
        agents.make("math:pi")


def test_the_names_of_both_kinds_are_all_there_are():
    assert " ".join(agents.names()) == (
        "dqn_prior dqn cql_prior cql bc_prior bc prior random mem_q search_prior"
    )
    assert agents.policy_names() == ("gflan_prior", "gflan")
