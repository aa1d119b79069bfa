"""The evidence lower bound, and the policy loss whose gradient is its gradient."""

import doctest
import itertools

import equation_cases
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from equation_cases import Case, all_variants, cases, check_gradients, float64

from llmprior_jax import (
    elbo,
    elbo_policy_loss,
    evidence_lower_bound,
    kl_to_prior,
    posterior_log_probs,
    soft_value,
)

PRIOR = jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0]))
POLICY = jnp.log(jnp.array([0.25, 0.25, 0.5, 0.0]))
DIVERGENCE = 0.25 * np.log(2.0)  # (1/4) log(1/2) + (1/2) log 2
PADDING = jnp.full(4, -jnp.inf)


def test_examples_in_docstrings_run():
    failures, tests = doctest.testmod(elbo)
    assert tests > 0
    assert failures == 0


# --- The bound ------------------------------------------------------------------------------------


@all_variants
def test_elbo_by_hand(variant):
    rewards, kls = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 1.0, 2.0])
    # (1 - 0.1) + 0.5 (2 - 0.2) + 0.25 (4 - 0.4), the last discount being without effect
    bound = variant(evidence_lower_bound)(rewards, jnp.array([0.5, 0.5, 0.3]), kls, 0.2)
    np.testing.assert_allclose(bound, 0.9 + 0.9 + 0.9, rtol=1e-6)


def test_one_discount_serves_for_all_steps():
    rewards, kls = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(evidence_lower_bound(rewards, 0.5, kls, 0.2), 2.7, rtol=1e-6)


def test_elbo_is_the_discounted_return_of_penalized_rewards():
    rng = np.random.default_rng(0)
    rewards, kls, discounts = jnp.asarray(rng.uniform(size=(3, 40)), jnp.float32)
    discounts = discounts.at[30].set(0.0)
    expected = rlax.discounted_returns(rewards - 0.7 * kls, discounts, jnp.zeros(40))
    bound = evidence_lower_bound(rewards, discounts, kls, 0.7)
    np.testing.assert_allclose(bound, jnp.asarray(expected)[0], rtol=1e-5)


def test_nothing_counts_after_the_end():
    rewards, kls = jnp.array([1.0, jnp.nan, jnp.inf]), jnp.array([0.5, jnp.inf, jnp.nan])
    discounts = jnp.array([0.0, 0.9, 0.9])
    value, gradients = jax.value_and_grad(evidence_lower_bound, (0, 1, 2, 3))(
        rewards, discounts, kls, 0.2
    )
    np.testing.assert_allclose(value, 0.9, rtol=1e-6)
    np.testing.assert_allclose(gradients[0], [1.0, 0.0, 0.0])
    np.testing.assert_array_equal(gradients[1], np.zeros(3))
    np.testing.assert_allclose(gradients[2], [-0.2, 0.0, 0.0])
    np.testing.assert_allclose(gradients[3], -0.5)


def test_elbo_is_float32_for_bfloat16():
    row = jnp.ones(3, jnp.bfloat16)
    assert evidence_lower_bound(row, row, row, 0.5).dtype == jnp.float32


def test_gradients_of_elbo_equal_finite_differences():
    with float64():
        rng = np.random.default_rng(0)
        rewards, discounts, kls = jnp.asarray(rng.uniform(0.1, 1.0, size=(3, 5)))
        check_gradients(evidence_lower_bound, rewards, discounts, kls, 0.3)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_an_impossible_temperature_raises(alpha):
    with pytest.raises(ValueError, match="alpha is a temperature"):
        evidence_lower_bound(jnp.ones(2), 0.9, jnp.ones(2), alpha)
    with pytest.raises(ValueError, match="alpha is a temperature"):
        elbo_policy_loss(POLICY, 0.0, 0, 1.0, PRIOR, alpha)


def test_wrong_shapes_are_refused():
    with pytest.raises(AssertionError):
        evidence_lower_bound(jnp.ones(3), 0.9, jnp.ones(2), 1.0)
    with pytest.raises(AssertionError):
        elbo_policy_loss(POLICY[None], 0.0, 0, 1.0, PRIOR[None], 1.0)


# --- The policy loss ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behavior", "advantage", "surrogate"),
    [
        pytest.param(0.5, 3.0, 3.0, id="on policy"),
        pytest.param(0.25, 3.0, 1.2 * 3.0, id="good action already likelier: clipped"),
        pytest.param(0.25, -3.0, 2.0 * -3.0, id="bad action likelier: not clipped"),
        pytest.param(1.0, 3.0, 0.5 * 3.0, id="good action less likely: not clipped"),
        pytest.param(1.0, -3.0, 0.8 * -3.0, id="bad action already less likely: clipped"),
    ],
)
@all_variants
def test_policy_loss_by_hand(variant, behavior, advantage, surrogate):
    loss = variant(elbo_policy_loss)(POLICY, jnp.log(behavior), 2, advantage, PRIOR, 0.1)
    np.testing.assert_allclose(loss, -surrogate + 0.1 * DIVERGENCE, rtol=1e-5)


def test_policy_loss_less_the_divergence_is_the_surrogate_of_rlax():
    rng = np.random.default_rng(0)
    logits, prior = jnp.asarray(rng.normal(size=(2, 30, 5)), jnp.float32)
    behavior = jnp.log(jnp.asarray(rng.uniform(0.05, 0.6, size=30), jnp.float32))
    advantages = jnp.asarray(rng.normal(size=30), jnp.float32)
    actions = jnp.asarray(rng.integers(0, 5, size=30))

    def ours(logits):
        log_probs = jax.nn.log_softmax(logits)
        losses = jax.vmap(elbo_policy_loss, (0, 0, 0, 0, 0, None, None))(
            log_probs, behavior, actions, advantages, prior, 0.4, 0.3
        )
        return jnp.mean(losses) - 0.4 * jnp.mean(jax.vmap(kl_to_prior)(log_probs, prior))

    def theirs(logits):
        log_probs = jax.nn.log_softmax(logits)[jnp.arange(30), actions]
        return rlax.clipped_surrogate_pg_loss(jnp.exp(log_probs - behavior), advantages, 0.3)

    value, gradient = jax.jit(jax.value_and_grad(ours))(logits)
    expected_value, expected_gradient = jax.jit(jax.value_and_grad(theirs))(logits)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_into_what_the_rollout_recorded():
    gradients = jax.jit(jax.grad(elbo_policy_loss, argnums=(1, 3)))(
        POLICY, jnp.log(0.5), 2, 3.0, PRIOR, 0.1
    )
    np.testing.assert_array_equal(gradients, [0.0, 0.0])


def test_expected_gradient_vanishes_at_the_posterior():
    """In one state with A = Q, the posterior is where the ELBO has its maximum, V."""
    q_values, alpha = jnp.array([0.3, -1.0, 0.8, jnp.nan]), 0.6
    actions = jnp.arange(3)

    @jax.jit
    @jax.value_and_grad
    def expected_loss(log_probs, behavior):
        losses = jax.vmap(elbo_policy_loss, (None, 0, 0, 0, None, None))(
            log_probs, behavior[:3], actions, q_values[:3], PRIOR, alpha
        )
        return jnp.sum(jnp.exp(behavior[:3]) * losses)

    optimum = posterior_log_probs(PRIOR, q_values, alpha)
    # Its KL is to count once: the surrogates already sum to E_pi[Q], the divergences to KL.
    value, gradient = expected_loss(optimum, optimum)
    np.testing.assert_allclose(value, -soft_value(PRIOR, q_values, alpha), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.zeros(4), atol=1e-6)
    _, elsewhere = expected_loss(POLICY, POLICY)
    assert np.max(np.abs(elsewhere)) > 0.01


def test_gradient_of_the_loss_is_that_of_the_exact_elbo():
    """On a two-step tree with every trajectory enumerated, differentiated through its probability.

    State 0 leads to state 1 + a. The losses of all steps, with the returns of `r - alpha KL` as
    advantages, weighted by the probability of the trajectory and g^t, have minus that gradient.
    """
    alpha, discount = 0.7, 0.8
    rng = np.random.default_rng(0)
    logits, prior_logits = jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32)
    prior = jax.nn.log_softmax(prior_logits)
    rewards = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    actions = jnp.array(list(itertools.product(range(3), repeat=2)))  # [9 trajectories, 2 steps]
    states = jnp.stack([jnp.zeros(9, int), 1 + actions[:, 0]], axis=1)

    def divergences(log_probs):
        return jax.vmap(kl_to_prior)(log_probs, prior)[states]

    def exact_elbo(logits):
        log_probs = jax.nn.log_softmax(logits)
        probabilities = jnp.exp(jnp.sum(log_probs[states, actions], axis=1))
        bounds = jax.vmap(evidence_lower_bound, (0, None, 0, None))(
            rewards[states, actions], discount, divergences(log_probs), alpha
        )
        return jnp.sum(probabilities * bounds)

    def expected_loss(logits, behavior):
        probabilities = jnp.exp(jnp.sum(behavior[states, actions], axis=1))
        penalized = rewards[states, actions] - alpha * divergences(behavior)
        returns = penalized.at[:, 0].add(discount * penalized[:, 1])
        loss = jax.vmap(jax.vmap(elbo_policy_loss, (0, 0, 0, 0, 0, None)), (0, 0, 0, 0, 0, None))
        losses = loss(
            jax.nn.log_softmax(logits)[states],
            behavior[states, actions],
            actions,
            returns,
            prior[states],
            alpha,
        )
        return jnp.sum(probabilities[:, None] * losses * jnp.array([1.0, discount]))

    gradient = jax.jit(jax.grad(expected_loss))(logits, jax.nn.log_softmax(logits))
    np.testing.assert_allclose(gradient, -jax.jit(jax.grad(exact_elbo))(logits), atol=1e-5)


posterior = jax.jit(posterior_log_probs)
loss_and_gradients = jax.jit(jax.value_and_grad(elbo_policy_loss, argnums=(0, 4, 5)))


@pytest.mark.parametrize("behavior", [-1.0, -jnp.inf])
def test_a_state_without_actions_costs_nothing(behavior):
    value, gradients = loss_and_gradients(PADDING, behavior, 0, jnp.nan, PADDING, 0.5)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_policy_mass_outside_the_prior_costs_infinity_with_finite_gradients():
    value, gradients = loss_and_gradients(jnp.log(jnp.full(4, 0.25)), -1.0, 0, 1.0, PRIOR, 0.5)
    assert value == np.inf
    assert np.all(np.isfinite(gradients[0]))


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_loss_of_any_policy_is_finite_with_finite_gradients(case: Case):
    """The policy is the posterior, which for small alpha is far from the prior."""
    policy = posterior(case.prior_log_probs, case.q_values, case.alpha)
    behavior = case.prior_log_probs[case.action].astype(jnp.float32)
    value, gradients = loss_and_gradients(
        policy, behavior, case.action, -1.0, case.prior_log_probs.astype(jnp.float32), case.alpha
    )
    assert np.isfinite(value)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient))
        if gradient.ndim:
            assert not np.any(gradient[~case.exists])


def test_gradients_of_the_loss_equal_finite_differences():
    with float64():
        rng = np.random.default_rng(0)
        log_pi, log_p = jnp.asarray(rng.normal(size=(2, 4)))

        def loss(log_pi, log_p, alpha):
            log_pi, log_p = jnp.append(log_pi, -jnp.inf), jnp.append(log_p, -jnp.inf)
            return elbo_policy_loss(log_pi, -1.0, 1, -2.0, log_p, alpha)

        check_gradients(loss, log_pi, log_p, 0.3)
