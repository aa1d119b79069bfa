"""DQN-Prior and its baselines on one state at a time: what they do before and after learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax import agents
from llmprior_jax.agents import Transitions
from llmprior_jax.types import ActionPrior

A, D = 4, 6
LOG_PROBS = jnp.log(jnp.array([0.6, 0.3, 0.1, 0.0]))
FEATURES = jax.random.normal(jax.random.key(0), (A, D)) * jnp.array([1, 1, 1, 0])[:, None]
STATE = ActionPrior(LOG_PROBS, FEATURES)


def bandit(rewards: jnp.ndarray, action: jnp.ndarray, weight: jnp.ndarray | None = None):
    """Transitions of a one-step problem."""
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(action), *leaf.shape)), STATE)
    return Transitions(
        prior=batch,
        action=action,
        reward=rewards[action],
        terminated=jnp.ones(len(action), bool),
        next_prior=batch,
        weight=jnp.ones(len(action)) if weight is None else weight,
    )


def learned(agent: agents.Agent, transitions: Transitions, updates: int = 300):
    state = agent.init(jax.random.key(0), STATE)

    @jax.jit
    def update_all(state):
        def step(state, key):
            return agent.update(state, key, transitions)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), updates))[0]

    return update_all(state)


def test_before_learning_dqn_prior_acts_by_the_prior():
    agent = agents.dqn_prior()
    view = agent.policy(agent.init(jax.random.key(0), STATE), STATE)
    np.testing.assert_allclose(view.log_probs, LOG_PROBS, atol=1e-6)
    np.testing.assert_array_equal(view.q_values, 0.0)


def test_before_learning_dqn_acts_uniformly_over_the_admissible_actions():
    agent = agents.make("dqn")
    view = agent.policy(agent.init(jax.random.key(0), STATE), STATE)
    np.testing.assert_allclose(np.exp(view.log_probs), [1 / 3, 1 / 3, 1 / 3, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["dqn_prior", "dqn"])
def test_q_of_a_one_step_problem_is_the_reward(name):
    rewards = jnp.array([0.1, 0.9, -0.5, 0.0])
    agent = agents.make(name, learning_rate=1e-2)
    state = learned(agent, bandit(rewards, jnp.array([0, 1, 2])))
    values = agent.policy(state, STATE).q_values
    np.testing.assert_allclose(values[:3], rewards[:3], atol=0.02)


def test_the_learned_policy_is_the_posterior_of_prior_and_q():
    rewards = jnp.array([0.0, 0.1, 0.2, 0.0])
    agent = agents.dqn_prior(alpha=0.1, learning_rate=1e-2)
    view = agent.policy(learned(agent, bandit(rewards, jnp.array([0, 1, 2]))), STATE)
    weights = np.exp(np.asarray(LOG_PROBS)) * np.exp(np.asarray(view.q_values) / 0.1)
    weights[3] = 0.0
    np.testing.assert_allclose(np.exp(view.log_probs), weights / weights.sum(), rtol=1e-4)


def test_entries_of_weight_zero_teach_nothing():
    rewards = jnp.array([0.1, 0.9, -0.5, 0.0])
    agent = agents.dqn_prior(learning_rate=1e-2)
    wrong = bandit(rewards + 5.0, jnp.array([0, 1, 2]))
    right = bandit(rewards, jnp.array([0, 1, 2]))
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), right, wrong)
    both = both._replace(weight=jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    values = agent.policy(learned(agent, both), STATE).q_values
    np.testing.assert_allclose(values[:3], rewards[:3], atol=0.02)


def test_the_value_of_the_next_state_is_bootstrapped_unless_it_is_terminal():
    agent = agents.dqn_prior(learning_rate=1e-2, discount=0.5, target_rate=0.1)
    batch = bandit(jnp.ones(A), jnp.array([0, 1, 2]))._replace(terminated=jnp.zeros(3, bool))
    values = agent.policy(learned(agent, batch, updates=1500), STATE).q_values
    # All actions are worth the same: Q = 1 + 0.5 Q.
    np.testing.assert_allclose(values[:3], 2.0, atol=0.05)


@pytest.mark.parametrize("name", ["dqn_prior", "dqn", "prior", "random"])
@pytest.mark.parametrize("num_candidates", [None, 2])
def test_no_agent_takes_an_action_that_is_not_there(name, num_candidates):
    agent = agents.make(name, num_candidates=num_candidates)
    state = agent.init(jax.random.key(0), STATE)
    keys = jax.random.split(jax.random.key(1), 500)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))(state, keys, STATE)
    assert set(np.asarray(taken).tolist()) == {0, 1, 2}


def test_the_actions_of_the_prior_alone_have_its_frequencies():
    agent = agents.prior_alone()
    keys = jax.random.split(jax.random.key(1), 4000)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))((), keys, STATE)
    frequencies = np.bincount(np.asarray(taken), minlength=A) / 4000
    np.testing.assert_allclose(frequencies, np.exp(LOG_PROBS), atol=0.04)  # five standard errors


def test_candidates_are_drawn_from_the_prior_and_then_weighed_by_q():
    rewards = jnp.array([0.0, 0.0, 1.0, 0.0])
    agent = agents.dqn_prior(num_candidates=2, alpha=0.01, learning_rate=1e-2)
    state = learned(agent, bandit(rewards, jnp.array([0, 1, 2])))
    keys = jax.random.split(jax.random.key(1), 4000)
    taken = jax.jit(jax.vmap(agent.act, in_axes=(None, 0, None)))(state, keys, STATE)
    # The best action is taken whenever one of the two draws is it: 1 - 0.9^2.
    assert abs(float((taken == 2).mean()) - 0.19) < 0.035


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("alpha", 0.0, "alpha is 0.0; use a number > 0"),
        ("alpha", float("nan"), "alpha is nan"),
        ("backup", "mean", "backup is 'mean'; use one of posterior, soft, max"),
        ("discount", 1.5, "discount is 1.5; use a number from 0 to 1"),
        ("num_candidates", -1, "num_candidates is -1"),
    ],
)
def test_parameters_out_of_range_are_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        agents.dqn_prior(**{argument: value})


def test_an_unknown_agent_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'dqn_prior'"):
        agents.make("dqn_pior")
