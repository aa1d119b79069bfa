"""Agents: DQN-Prior, CQL-Prior, GFlan-Prior and their baselines, as pure functions over arrays."""

from llmprior_jax.agents import prior_transforms, temperature, trust
from llmprior_jax.agents.agent import (
    Agent,
    AgentState,
    Candidates,
    Exploration,
    Policy,
    Search,
    Transitions,
    best_of_candidates,
    greedy,
    prior_alone,
    uniform,
    with_prior,
    with_uniform_prior,
)
from llmprior_jax.agents.behavior_cloning import bc_prior
from llmprior_jax.agents.cql_prior import cql_prior
from llmprior_jax.agents.dqn_prior import dqn_prior
from llmprior_jax.agents.gflan_prior import GFlanState, gflan_prior
from llmprior_jax.agents.mem_q import mem_q
from llmprior_jax.agents.policy_agent import PolicyAgent, Rollout, States
from llmprior_jax.agents.q_learning import QLearnerState, q_learner
from llmprior_jax.agents.registry import (
    is_policy,
    make,
    make_policy,
    names,
    policy_names,
    register,
    register_policy,
    searches,
    sees_prior,
    weighs_prior,
)
from llmprior_jax.agents.search_prior import search_prior, with_search

__all__ = [
    "Agent",
    "AgentState",
    "Candidates",
    "Exploration",
    "GFlanState",
    "Policy",
    "PolicyAgent",
    "QLearnerState",
    "Rollout",
    "Search",
    "States",
    "Transitions",
    "bc_prior",
    "best_of_candidates",
    "cql_prior",
    "dqn_prior",
    "gflan_prior",
    "greedy",
    "is_policy",
    "make",
    "make_policy",
    "mem_q",
    "names",
    "policy_names",
    "prior_alone",
    "prior_transforms",
    "q_learner",
    "register",
    "register_policy",
    "search_prior",
    "searches",
    "sees_prior",
    "temperature",
    "trust",
    "uniform",
    "weighs_prior",
    "with_prior",
    "with_search",
    "with_uniform_prior",
]
