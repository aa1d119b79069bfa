"""What `llmprior_jax.refine` computes, by other routes: by hand, in closed form, by sampling."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from equation_cases import sampled
from hypothesis import strategies

from llmprior_jax import posterior, refine

MEMBERS = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.8, 0.0], [1 / 3, 1 / 3, 1 / 3, 0.0]])
WEIGHTS = np.array([0.5, 0.2, 0.3])


def log(probabilities):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probabilities), jnp.float32)


def remember(value, member, window=None):
    returns = refine.no_returns(window or len(value))
    ended = jnp.ones(len(value), bool)
    return refine.add_returns(returns, jnp.asarray(value), jnp.asarray(member), ended)


def test_a_mixture_is_the_weighted_sum():
    mixed = refine.mixed_log_probs(log(MEMBERS), jnp.asarray(WEIGHTS, jnp.float32))
    np.testing.assert_allclose(np.exp(mixed), WEIGHTS @ MEMBERS, rtol=1e-6)


def test_a_mixture_has_finite_gradients_where_no_action_is():
    def total(members):
        mixed = refine.mixed_log_probs(members, jnp.asarray(WEIGHTS, jnp.float32))
        return jnp.sum(jnp.where(jnp.isfinite(mixed), mixed, 0.0))

    gradients = jax.grad(total)(log(MEMBERS))
    assert np.isfinite(gradients).all()
    assert (gradients[:, 3] == 0).all()


def test_a_member_without_weight_counts_for_nothing():
    mixed = refine.mixed_log_probs(log(MEMBERS), jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(np.exp(mixed), MEMBERS[1], rtol=1e-6)


@sampled
@hypothesis.given(strategies.integers(0, 2**31 - 1))
def test_responsibilities_for_the_posterior_are_weights_times_evidence(seed):
    rng = np.random.default_rng(seed)
    members, weights = rng.dirichlet(np.ones(5), 3), rng.dirichlet(np.ones(3))
    q, alpha = rng.normal(size=5), 0.4
    mixed = log(weights @ members)
    policy = posterior.posterior_log_probs(mixed, jnp.asarray(q, jnp.float32), alpha)
    found = refine.responsibilities(policy, log(members), jnp.asarray(weights, jnp.float32))
    evidence = weights * (members @ np.exp(q / alpha))
    np.testing.assert_allclose(found, evidence / evidence.sum(), rtol=2e-4, atol=1e-6)


@sampled
@hypothesis.given(strategies.integers(0, 2**31 - 1))
def test_a_step_by_responsibilities_never_lowers_the_bound(seed):
    rng = np.random.default_rng(seed)
    members, weights = rng.dirichlet(np.ones(4), 3), rng.dirichlet(np.ones(3))
    policies = rng.dirichlet(np.ones(4), 6)
    of_states = jax.vmap(refine.responsibilities, in_axes=(0, None, None))
    found = of_states(log(policies), log(members), jnp.asarray(weights, jnp.float32))
    refined = np.mean(np.asarray(found, float), axis=0)

    def bound(weights):
        return np.mean(policies @ np.log(weights @ members))

    assert refined.sum() == pytest.approx(1, abs=1e-5)
    assert bound(refined) >= bound(weights) - 1e-6


def test_without_actions_responsibilities_are_the_weights():
    nothing = jnp.full(4, -jnp.inf)
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    found = refine.responsibilities(nothing, jnp.full((3, 4), -jnp.inf), weights)
    np.testing.assert_allclose(found, WEIGHTS, rtol=1e-6)


def test_the_oldest_episodes_are_forgotten():
    returns = remember([1.0, 2.0, 3.0], [0, 1, 0])
    ended = jnp.array([False, True])
    returns = refine.add_returns(returns, jnp.array([8.0, 4.0]), jnp.array([1, 1]), ended)
    np.testing.assert_array_equal(returns.value, [4.0, 2.0, 3.0])
    np.testing.assert_array_equal(returns.member, [1, 1, 0])


def test_trust_of_two_members_is_the_closed_form():
    rng = np.random.default_rng(0)
    value = np.concatenate([rng.normal(0.2, 0.3, 40), rng.normal(0.3, 0.2, 24)])
    member = np.repeat([0, 1], [40, 24])
    initial = np.array([0.3, 0.7])
    best, score, error = value.max(), [], []
    for number in (0, 1):
        own = value[member == number]
        # One episode more, spread as all of them are.
        known = len(own) + 1
        mean = (own.sum() + value.mean()) / known
        square = (np.sum(own**2) + np.mean(value**2)) / known
        score.append((mean - best) / np.sqrt(square - mean**2))
        error.append(np.sqrt((1 + score[-1] ** 2 / 2) / known))
    first = scipy.stats.norm.cdf((score[0] - score[1]) / np.hypot(*error))
    expected = initial * [first, 1 - first]
    expected = 0.97 * expected / expected.sum() + 0.03 * initial
    found = refine.trust(remember(value, member), jnp.asarray(initial, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_before_any_episode_trust_is_what_it_begins_with():
    found = refine.trust(refine.no_returns(8), jnp.asarray(WEIGHTS, jnp.float32))
    np.testing.assert_allclose(found, WEIGHTS, atol=1e-6)


def test_where_all_returns_are_the_same_trust_stays():
    found = refine.trust(remember(np.zeros(12), np.arange(12) % 3), jnp.full(3, 1 / 3))
    np.testing.assert_allclose(found, np.full(3, 1 / 3), atol=1e-6)


def test_a_member_that_sometimes_succeeds_is_trusted_more_than_one_that_does_nothing():
    rng = np.random.default_rng(1)
    stumbles, idles = rng.normal(-0.16, 0.095, 64), rng.normal(-0.06, 0.035, 64)
    assert stumbles.mean() < idles.mean()
    returns = remember(np.concatenate([stumbles, idles]), np.repeat([0, 1], 64))
    assert refine.trust(returns, jnp.array([0.5, 0.5]))[0] > 0.7


def test_trust_does_not_depend_on_the_scale_of_the_returns():
    rng = np.random.default_rng(2)
    value, member = rng.normal(size=64), rng.integers(0, 2, 64)
    initial = jnp.array([0.5, 0.5])
    found = refine.trust(remember(value, member), initial)
    scaled = refine.trust(remember(100 * value - 7, member), initial)
    np.testing.assert_allclose(scaled, found, atol=1e-3)


def test_of_more_episodes_than_are_remembered_the_last_stay():
    ended = jnp.array([True, True, False, True, True])
    value, member = jnp.arange(5.0), jnp.array([0, 1, 0, 1, 0])
    returns = refine.add_returns(refine.no_returns(3), value, member, ended)
    kept = sorted(zip(returns.value.tolist(), returns.member.tolist(), strict=True))
    assert kept == [(1.0, 1), (3.0, 1), (4.0, 0)]
    assert int(returns.number) == 4


# --- Distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("leash", [0.0, 0.25, 1.0, 9.0])
def test_with_a_table_of_logits_the_minimizer_lies_between_posterior_and_old_prior(leash):
    posterior_, old = np.array([0.7, 0.3, 0.0, 0.0]), np.array([0.1, 0.2, 0.7, 0.0])
    exists = jnp.array([True, True, True, False])

    def loss(logits):
        log_probs = jax.nn.log_softmax(jnp.where(exists, logits, -jnp.inf))
        return refine.distillation_loss(log_probs, log(posterior_), log(old), leash)

    logits = jnp.zeros(4)
    step = jax.jit(lambda logits: logits - 2.0 / (1 + leash) * jax.grad(loss)(logits))
    for _ in range(2_000):
        logits = step(logits)
    found = jax.nn.softmax(jnp.where(exists, logits, -jnp.inf))
    np.testing.assert_allclose(found, (posterior_ + leash * old) / (1 + leash), atol=2e-3)


def test_the_distillation_loss_by_hand():
    prior, posterior_, old = (np.array(p) for p in ([0.5, 0.5], [0.9, 0.1], [0.8, 0.2]))
    by_hand = np.log(2) + 0.5 * (0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5))
    found = refine.distillation_loss(log(prior), log(posterior_), log(old), 0.5)
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def test_a_prior_without_an_action_of_the_posterior_is_infinitely_far():
    found = refine.distillation_loss(log([1.0, 0.0]), log([0.5, 0.5]), log([1.0, 0.0]), 1.0)
    assert np.isposinf(found)


def test_gradients_of_distillation_are_of_the_prior_alone_and_finite():
    gradients = jax.grad(refine.distillation_loss, argnums=(0, 1, 2))(
        log([0.6, 0.4, 0.0]), log([1.0, 0.0, 0.0]), log([0.5, 0.5, 0.0]), 0.5
    )
    np.testing.assert_allclose(gradients[0], [-1 - 0.25, -0.25, 0.0])
    assert not np.any(gradients[1:])
