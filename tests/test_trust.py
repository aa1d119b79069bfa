"""Trust within agents: what it does to a prior, and what agents learn under good and bad ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import LENGTH, RIGHT, Lock, LockState, lock_table

from llmprior_jax import agents
from llmprior_jax.agents import trust
from llmprior_jax.learning import make_loop
from llmprior_jax.priors import table as tables
from llmprior_jax.settings import LoopSettings
from llmprior_jax.types import ActionPrior

ITERATIONS = 100
CONFIG = LoopSettings(num_envs=8, replay_capacity=4_000, warmup_steps=4, batch_size=32)
FIRST = 0  # The language model's prior among the members.
PRIOR = ActionPrior(jnp.log(jnp.array([0.7, 0.2, 0.1, 0.0])), jnp.ones((4, 3)))


class ShortLock(Lock):
    """Two wheels are left: blind search opens it once in 36 episodes."""

    def reset_env(self, key, params):
        return jnp.int32(LENGTH - 2), LockState(time=jnp.int32(0), wheel=jnp.int32(LENGTH - 2))


@functools.cache
def trained(confidence: float, kind: str, lock=ShortLock, segments: int = 8):
    """Two seeds of DQN-Prior after 800 iterations, and the metrics of the last hundred."""
    env = lock()
    of_kind = {"fixed": None, "learned": trust.by_episodes()}[kind]
    agent = agents.dqn_prior(alpha=0.02, learning_rate=3e-3, trust=of_kind)
    loop = make_loop(env, env.default_params, agent, CONFIG)
    table = lock_table(confidence)
    state = jax.vmap(loop.init, in_axes=(0, None))(jax.vmap(jax.random.key)(jnp.arange(2)), table)
    segment = jax.jit(jax.vmap(loop.segment, in_axes=(0, None, None)))
    state, metrics, _ = segment(state, table, jnp.int32(segments * ITERATIONS))
    return agent, state, metrics, table


def chance_of_opening(confidence: float, kind: str, lock=ShortLock, first: int = LENGTH - 2):
    """The probability [S] that each seed's policy turns all wheels rightly, from `first`."""
    agent, state, _, table = trained(confidence, kind, lock)
    prior = jax.vmap(lambda row: tables.lookup(table, row))(jnp.arange(first, LENGTH))
    policies = jax.vmap(jax.vmap(agent.policy, in_axes=(None, 0)), in_axes=(0, None))
    log_probs = policies(state.agent, prior).log_probs
    right = jnp.asarray(RIGHT[first:])[None, :, None]
    return np.exp(np.sum(np.take_along_axis(np.asarray(log_probs), right, axis=2), axis=(1, 2)))


@pytest.mark.long
def test_a_prior_that_rules_out_what_is_right_is_overcome():
    assert (chance_of_opening(1e-6, "learned") > 0.8).all()


@pytest.mark.long
def test_taken_as_it_is_such_a_prior_is_never_overcome():
    assert (chance_of_opening(1e-6, "fixed") < 0.01).all()


@pytest.mark.long
def test_a_good_prior_opens_a_lock_that_blind_search_does_not():
    assert (chance_of_opening(0.67, "learned", Lock, 0) > 0.8).all()


def test_the_prior_of_the_policy_is_the_mixture():
    agent = agents.dqn_prior(trust=trust.by_episodes(odds=1 / 3))
    policy = agent.policy(agent.init(jax.random.key(0), PRIOR), PRIOR)
    expected = 0.25 * np.array([0.7, 0.2, 0.1, 0.0]) + 0.75 * np.array([1, 1, 1, 0]) / 3
    np.testing.assert_allclose(np.exp(policy.prior), expected, rtol=1e-5)
    # Q is 0 at first.
    np.testing.assert_allclose(np.exp(policy.log_probs), expected, rtol=1e-5)
    assert policy.trust == pytest.approx(0.25, rel=1e-5)


def test_each_way_of_exploring_acts_by_its_own_prior():
    agent = agents.dqn_prior(trust=trust.by_episodes())
    state = agent.init(jax.random.key(0), PRIOR)
    keys = jax.random.split(jax.random.key(1), 4_000)
    for way, expected in ((FIRST, [0.7, 0.2, 0.1, 0]), (FIRST + 1, [1 / 3] * 3 + [0])):
        act = jax.vmap(agent.explore.act, in_axes=(None, 0, None, None))
        counts = np.bincount(act(state, keys, PRIOR, jnp.int32(way)), minlength=4)
        # Five standard errors of a share of 4,000 are 0.04.
        np.testing.assert_allclose(counts / len(keys), expected, atol=0.04)


def test_ways_are_drawn_by_their_weights():
    agent = agents.dqn_prior(trust=trust.by_episodes(odds=3 / 7))
    state = agent.init(jax.random.key(0), PRIOR)
    draws = jax.vmap(agent.explore.begin, in_axes=(None, 0))(
        state, jax.random.split(jax.random.key(1), 4_000)
    )
    assert np.mean(draws == FIRST) == pytest.approx(0.3, abs=0.04)


def test_another_prior_reaches_exploration_too():
    agent = agents.with_prior(
        agents.dqn_prior(trust=trust.by_episodes()), agents.prior_transforms.reversed_order
    )
    state = agent.init(jax.random.key(0), PRIOR)
    keys = jax.random.split(jax.random.key(1), 1_000)
    act = jax.vmap(agent.explore.act, in_axes=(None, 0, None, None))
    counts = np.bincount(act(state, keys, PRIOR, jnp.int32(FIRST)), minlength=4)
    assert counts.argmax() == 2


def test_responsibilities_are_averaged_over_states():
    prior = ActionPrior(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])), jnp.zeros((2, 2, 1)))
    policy = jnp.log(jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    weights, share = jnp.array([0.5, 0.5]), jnp.array([0.25, 0.75])
    found = trust.mean_responsibilities(prior, policy, weights, share)
    expected = 0.25 * 0.9 / 1.4 + 0.75 * 0.2 / 0.7
    np.testing.assert_allclose(found, [expected, 1 - expected], rtol=1e-5)


def test_without_states_responsibilities_are_the_weights():
    nothing, weights = jnp.full((1, 2), -jnp.inf), jnp.array([0.3, 0.7])
    prior = ActionPrior(nothing, jnp.zeros((1, 2, 1)))
    found = trust.mean_responsibilities(prior, nothing, weights, jnp.zeros(1))
    np.testing.assert_allclose(found, weights)


def test_by_states_the_weights_follow_the_responsibilities():
    by_states = trust.by_states(odds=1.0, rate=0.5)
    weights = by_states.weights(by_states.see_states(by_states.init(), jnp.array([0.9, 0.1])))
    np.testing.assert_allclose(weights, [0.7, 0.3], rtol=1e-6)


SEVERAL = PRIOR._replace(others=jnp.log(jnp.array([[0.1, 0.1, 0.8, 0.0]])))


def test_several_priors_share_the_weight_at_first():
    agent = agents.dqn_prior(trust=trust.by_episodes(odds=0.75, num_priors=2))
    policy = agent.policy(agent.init(jax.random.key(0), SEVERAL), SEVERAL)
    expected = np.array([0.3 * 0.8 + 0.4 / 3, 0.3 * 0.3 + 0.4 / 3, 0.3 * 0.9 + 0.4 / 3, 0])
    np.testing.assert_allclose(np.exp(policy.prior), expected, rtol=1e-5)
    assert policy.trust == pytest.approx(0.6, rel=1e-5)


def test_each_of_several_priors_can_play_whole_episodes():
    agent = agents.dqn_prior(trust=trust.by_episodes(num_priors=2))
    state = agent.init(jax.random.key(0), SEVERAL)
    keys = jax.random.split(jax.random.key(1), 4_000)
    act = jax.vmap(agent.explore.act, in_axes=(None, 0, None, None))
    for way, expected in enumerate([[0.7, 0.2, 0.1, 0], [0.1, 0.1, 0.8, 0], [1 / 3] * 3 + [0]]):
        counts = np.bincount(act(state, keys, SEVERAL, jnp.int32(way)), minlength=4)
        np.testing.assert_allclose(counts / len(keys), expected, atol=0.04)


def test_the_metrics_have_the_weight_of_each_of_several():
    found = trust.metrics(jnp.array([0.2, 0.5, 0.3]))
    assert {name: round(float(value), 5) for name, value in found.items()} == {
        "trust": 0.7,
        "trust_1": 0.2,
        "trust_2": 0.5,
    }


def test_other_priors_that_nothing_weighs_are_an_error():
    agent = agents.dqn_prior(trust=trust.by_episodes(num_priors=1))
    with pytest.raises(AssertionError):
        agent.policy(agent.init(jax.random.key(0), SEVERAL), SEVERAL)


def test_a_baseline_weighs_nothing():
    agent = agents.make("dqn", trust=trust.by_episodes())
    assert agent.explore is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trust.by_episodes(odds=0.0), "odds is 0.0; use a number from"),
        (lambda: trust.by_episodes(window=0), "at least 1"),
        (lambda: trust.by_states(rate=0.0), "rate is 0.0; use a number from"),
        (lambda: trust.by_states(num_priors=0), "num_priors"),
        (lambda: trust.choose("always", online=True), "learned"),
        (lambda: trust.choose("fixed", online=True, num_priors=2), "a single prior"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
