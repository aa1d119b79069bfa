"""The posterior over actions, its value, its samples, and the divergence from the prior."""

import doctest
import itertools
import json
import subprocess
import sys

import equation_cases
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from equation_cases import Case, all_variants, cases, check_gradients, exact, float64

import llmprior_jax
from llmprior_jax import posterior as posterior_module
from llmprior_jax.posterior import (
    candidate_log_probs,
    empirical_log_probs,
    kl_to_prior,
    normalize,
    posterior_log_probs,
    sample_candidates,
    sample_posterior,
    soft_value,
)

INF = float("inf")

# By hand: p = (1/2, 1/4, 1/4, none), exp(Q) = (1, 2, 4, anything). Then p exp(Q) is
# (1/2, 1/2, 1), which sums to 2.
PRIOR = jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0]))
Q_VALUES = jnp.array([0.0, np.log(2.0), np.log(4.0), np.nan])
POSTERIOR = jnp.array([0.25, 0.25, 0.5, 0.0])
VALUE = np.log(2.0)

PADDING = jnp.full(4, -INF)


def test_examples_in_docstrings_run():
    failures, tests = doctest.testmod(posterior_module)
    assert tests > 0
    assert failures == 0


# --- Posterior and value --------------------------------------------------------------------------


@all_variants
def test_posterior_by_hand(variant):
    log_probs = variant(posterior_log_probs)(PRIOR, Q_VALUES, 1.0)
    np.testing.assert_allclose(np.exp(log_probs), POSTERIOR, rtol=1e-6)
    assert log_probs[3] == -INF


@all_variants
def test_soft_value_by_hand(variant):
    np.testing.assert_allclose(variant(soft_value)(PRIOR, Q_VALUES, 1.0), VALUE, rtol=1e-6)


def test_temperature_divides_the_q_values():
    np.testing.assert_allclose(
        np.exp(posterior_log_probs(PRIOR, 3 * Q_VALUES, 3)), POSTERIOR, rtol=1e-6
    )
    np.testing.assert_allclose(soft_value(PRIOR, 3 * Q_VALUES, 3), 3 * VALUE, rtol=1e-6)


@pytest.fixture(scope="module")
def value_and_gradients():
    """V and its gradients with respect to the prior, Q and alpha, compiled once per dtype."""
    return jax.jit(jax.value_and_grad(soft_value, argnums=(0, 1, 2)))


@pytest.fixture(scope="module")
def posterior_and_jacobians():
    def fn(*args):
        return posterior_log_probs(*args), jax.jacrev(posterior_log_probs, argnums=(0, 1, 2))(*args)

    return jax.jit(fn)


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_posterior_equals_the_formula_in_many_digits(posterior_and_jacobians, case: Case):
    log_probs, _ = posterior_and_jacobians(case.prior_log_probs, case.q_values, case.alpha)
    expected = exact(case.prior_log_probs, case.q_values, case.alpha)
    np.testing.assert_allclose(np.exp(log_probs), expected.posterior, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(log_probs) > -INF, case.exists)


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_gradients_of_the_posterior_are_finite_and_zero_where_no_action_is(
    posterior_and_jacobians, case: Case
):
    _, (d_prior, d_q, d_alpha) = posterior_and_jacobians(
        case.prior_log_probs, case.q_values, case.alpha
    )
    for jacobian in (d_prior, d_q, d_alpha):
        assert np.all(np.isfinite(jacobian.astype(np.float32)))
    assert not np.any(d_prior[:, ~case.exists])
    assert not np.any(d_q[:, ~case.exists])
    assert not np.any(d_alpha[~case.exists])


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_soft_value_equals_the_formula_in_many_digits(value_and_gradients, case: Case):
    value, _ = value_and_gradients(case.prior_log_probs, case.q_values, case.alpha)
    expected = exact(case.prior_log_probs, case.q_values, case.alpha)
    size = np.max(np.abs(np.asarray(case.q_values, np.float64)[case.exists]))
    np.testing.assert_allclose(value, expected.value, atol=3e-6 * size)


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_gradients_of_the_soft_value_equal_their_closed_forms(value_and_gradients, case: Case):
    """dV/dQ = pi, dV/dalpha = -KL(pi || p), and dV/dlog p = alpha (pi - p)."""
    _, (d_prior, d_q, d_alpha) = value_and_gradients(
        case.prior_log_probs, case.q_values, case.alpha
    )
    expected = exact(case.prior_log_probs, case.q_values, case.alpha)
    half = d_q.dtype == jnp.bfloat16  # gradients come in the dtype of the inputs
    rounding = 1e-2 if half else 1e-5
    np.testing.assert_allclose(d_q.astype(np.float64), expected.posterior, atol=rounding)
    np.testing.assert_allclose(d_alpha, -expected.divergence, rtol=1e-5, atol=1e-5)
    size = np.max(np.abs(np.asarray(case.q_values, np.float64)[case.exists]))
    np.testing.assert_allclose(
        d_prior.astype(np.float64), expected.tilt, rtol=rounding, atol=1e-5 * size
    )
    assert not np.any(d_q[~case.exists])
    assert not np.any(d_prior[~case.exists])


def test_small_alpha_is_greedy_inside_the_support():
    q_values = jnp.array([1.0, 3.0, 2.0, 9.0])
    np.testing.assert_array_equal(
        np.exp(posterior_log_probs(PRIOR, q_values, 1e-8)), [0.0, 1.0, 0.0, 0.0]
    )
    np.testing.assert_allclose(soft_value(PRIOR, q_values, 1e-8), 3.0, rtol=1e-6)


def test_small_alpha_leaves_ties_to_the_prior():
    q_values = jnp.array([1e8, 1e8, 2.0, 9.0])
    np.testing.assert_allclose(
        np.exp(posterior_log_probs(PRIOR, q_values, 1e-8)), [2 / 3, 1 / 3, 0.0, 0.0], rtol=1e-6
    )


def test_large_alpha_is_the_prior():
    q_values = jnp.array([1.0, 3.0, -2.0, 9.0])
    np.testing.assert_allclose(posterior_log_probs(PRIOR, q_values, 1e8), PRIOR, rtol=1e-6)
    mean_q = 0.5 * 1.0 + 0.25 * 3.0 - 0.25 * 2.0
    np.testing.assert_allclose(soft_value(PRIOR, q_values, 1e8), mean_q, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_value_is_expected_q_minus_divergence(alpha):
    log_probs = posterior_log_probs(PRIOR, Q_VALUES, alpha)
    mean_q = np.sum(np.exp(log_probs[:3]) * Q_VALUES[:3])
    objective = mean_q - alpha * kl_to_prior(log_probs, PRIOR)
    np.testing.assert_allclose(soft_value(PRIOR, Q_VALUES, alpha), objective, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 1.0, 20.0])
def test_no_policy_beats_the_posterior(alpha):
    rng = np.random.default_rng(0)
    policies = np.concatenate(
        [rng.dirichlet(np.full(3, concentration), 500) for concentration in (0.1, 1.0, 10.0)]
    )
    log_policies = jnp.log(jnp.pad(policies, [(0, 0), (0, 1)]).astype(jnp.float32))
    divergences = jax.jit(jax.vmap(kl_to_prior, (0, None)))(log_policies, PRIOR)
    objectives = policies @ Q_VALUES[:3] - alpha * divergences
    value = soft_value(PRIOR, Q_VALUES, alpha)
    assert np.max(objectives) <= value + 1e-5 * max(alpha, 1.0)


def test_logits_serve_as_a_prior():
    logits = PRIOR + 3.0
    np.testing.assert_allclose(np.exp(normalize(logits)), np.exp(PRIOR), rtol=1e-6)
    np.testing.assert_allclose(soft_value(logits, Q_VALUES, 1.0), VALUE, rtol=1e-6)


@pytest.mark.parametrize("log_alpha", [-1.0, 2.0])
def test_gradients_equal_finite_differences(log_alpha):
    with float64():
        rng = np.random.default_rng(0)
        log_p, q_values, weights = jnp.asarray(rng.normal(size=(3, 4)))

        def both(log_p, q_values, log_alpha):
            """V and a projection of log pi, of 4 actions and one that does not exist."""
            log_p, q_values = jnp.append(log_p, -jnp.inf), jnp.append(q_values, jnp.nan)
            log_probs = posterior_log_probs(log_p, q_values, jnp.exp(log_alpha))
            return jnp.stack(
                [soft_value(log_p, q_values, jnp.exp(log_alpha)), weights @ log_probs[:4]]
            )

        check_gradients(both, log_p, q_values, log_alpha)


# --- Padding, dtypes, errors ----------------------------------------------------------------------


@all_variants
def test_a_state_without_actions_has_value_zero_and_no_log_probs(variant):
    q_values = jnp.array([1.0, jnp.nan, jnp.inf, 2.0])
    np.testing.assert_array_equal(variant(posterior_log_probs)(PADDING, q_values, 0.5), PADDING)
    np.testing.assert_array_equal(variant(soft_value)(PADDING, q_values, 0.5), 0.0)


def test_padding_rows_leave_the_gradients_of_a_batch_alone():
    """The gradient of a batch with a padding row is that of the other row, and zero in padding."""

    def loss(priors, q_values, alpha):
        log_probs = jax.vmap(posterior_log_probs, (0, 0, None))(priors, q_values, alpha)
        values = jax.vmap(soft_value, (0, 0, None))(priors, q_values, alpha)
        divergences = jax.vmap(kl_to_prior)(log_probs, priors)
        return jnp.sum(values) + jnp.sum(divergences)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    padded = gradients(
        jnp.stack([PRIOR, PADDING]), jnp.stack([Q_VALUES, jnp.full(4, jnp.nan)]), 0.5
    )
    alone = gradients(PRIOR[None], Q_VALUES[None], 0.5)
    for with_padding, without in zip(padded[:2], alone[:2], strict=True):
        np.testing.assert_allclose(with_padding[:1], without, rtol=1e-6)
        np.testing.assert_array_equal(with_padding[1], np.zeros(4))
    np.testing.assert_allclose(padded[2], alone[2], rtol=1e-6)


def test_a_long_masked_tail_changes_nothing():
    tail = jnp.full(1000, -jnp.inf)
    prior, q_values = jnp.append(PRIOR, tail), jnp.append(Q_VALUES, jnp.full(1000, jnp.nan))
    value, (d_prior, d_q) = jax.jit(jax.value_and_grad(soft_value, (0, 1)))(prior, q_values, 1.0)
    np.testing.assert_allclose(value, VALUE, rtol=1e-6)
    np.testing.assert_allclose(d_q, np.append(POSTERIOR, np.zeros(1000)), atol=1e-6)
    np.testing.assert_array_equal(d_prior[4:], np.zeros(1000))


def test_results_are_float32_for_lower_precision_and_float64_for_float64():
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        prior, q_values = jnp.asarray(PRIOR, dtype), jnp.asarray(Q_VALUES, dtype)
        assert posterior_log_probs(prior, q_values, 1.0).dtype == jnp.float32
        assert soft_value(prior, q_values, 1.0).dtype == jnp.float32
        assert kl_to_prior(prior, prior).dtype == jnp.float32
        assert candidate_log_probs(jnp.arange(2), q_values, 1.0).dtype == jnp.float32
    with float64():
        prior, q_values = jnp.asarray(PRIOR, jnp.float64), jnp.asarray(Q_VALUES, jnp.float64)
        assert posterior_log_probs(prior, q_values, 1.0).dtype == jnp.float64
        assert soft_value(prior, q_values, 1.0).dtype == jnp.float64


@pytest.mark.parametrize("alpha", [0, -1.0, np.float32(-1.0), INF, float("nan"), 1e-50])
def test_an_impossible_temperature_raises(alpha):
    for fn in (posterior_log_probs, soft_value):
        with pytest.raises(ValueError, match=r"alpha is a temperature .*, got"):
            fn(PRIOR, Q_VALUES, alpha)


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_an_impossible_traced_temperature_gives_nan(alpha):
    assert np.isnan(jax.jit(soft_value)(PRIOR, Q_VALUES, alpha))
    assert np.all(np.isnan(jax.jit(posterior_log_probs)(PRIOR, Q_VALUES, alpha)[:3]))


def test_nan_among_real_actions_is_not_hidden():
    q_values = Q_VALUES.at[0].set(jnp.nan)
    assert np.isnan(soft_value(PRIOR, q_values, 1.0))
    assert np.all(np.isnan(posterior_log_probs(PRIOR, q_values, 1.0)[:3]))


@pytest.mark.parametrize(
    ("prior", "q_values"),
    [
        pytest.param(PRIOR[None], Q_VALUES[None], id="batched"),
        pytest.param(PRIOR, Q_VALUES[:3], id="different lengths"),
        pytest.param(PRIOR, jnp.zeros(4, jnp.int32), id="integers"),
    ],
)
def test_wrong_shapes_and_types_are_refused(prior, q_values):
    for fn in (posterior_log_probs, soft_value):
        with pytest.raises(AssertionError):
            fn(prior, q_values, 1.0)


# --- Samples and candidates -----------------------------------------------------------------------

NUM_SAMPLES = 20_000
# Hoeffding: each of 4 frequencies is off by more than this with probability below 1e-9 in total.
FREQUENCY_ERROR = np.sqrt(np.log(2 * 4 / 1e-9) / (2 * NUM_SAMPLES))


def frequencies(actions):
    return np.bincount(actions, minlength=4) / len(actions)


def test_samples_follow_the_posterior():
    keys = jax.random.split(jax.random.key(0), NUM_SAMPLES)
    sample = jax.jit(jax.vmap(sample_posterior, (0, None, None, None)))
    actions = sample(keys, PRIOR, Q_VALUES, 1.0)
    assert actions.dtype == jnp.int32
    np.testing.assert_allclose(frequencies(actions), POSTERIOR, atol=FREQUENCY_ERROR)
    assert frequencies(actions)[3] == 0


def test_candidates_follow_the_prior():
    candidates = sample_candidates(jax.random.key(0), PRIOR, NUM_SAMPLES)
    assert candidates.dtype == jnp.int32
    np.testing.assert_allclose(frequencies(candidates), np.exp(PRIOR), atol=FREQUENCY_ERROR)
    assert frequencies(candidates)[3] == 0


def test_same_key_same_samples():
    key = jax.random.key(7)
    np.testing.assert_array_equal(
        sample_candidates(key, PRIOR, 8),
        jax.jit(sample_candidates, static_argnums=2)(key, PRIOR, 8),
    )
    np.testing.assert_array_equal(
        sample_posterior(key, PRIOR, Q_VALUES, 1.0),
        jax.jit(sample_posterior)(key, PRIOR, Q_VALUES, 1.0),
    )


def test_a_state_without_actions_samples_action_zero():
    assert sample_posterior(jax.random.key(0), PADDING, Q_VALUES, 1.0) == 0
    np.testing.assert_array_equal(sample_candidates(jax.random.key(0), PADDING, 3), [0, 0, 0])


def test_no_candidates_raises():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        sample_candidates(jax.random.key(0), PRIOR, 0)


@all_variants
def test_candidate_log_probs_by_hand(variant):
    # Action 1 twice and action 2 once: weights 2 * 2, 4.
    log_probs = variant(candidate_log_probs)(jnp.array([1, 2, 1]), Q_VALUES, 1.0)
    np.testing.assert_allclose(np.exp(log_probs), [0.0, 0.5, 0.5, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(np.isneginf(log_probs), [True, False, False, True])


def test_gradient_of_candidate_log_probs_is_zero_for_other_actions():
    jacobian = jax.jit(jax.jacrev(candidate_log_probs, argnums=1))(
        jnp.array([1, 2, 1]), Q_VALUES, 1.0
    )
    # d log pi(a) / d Q(b) = [a = b] - pi(b)
    expected = [[0, 0, 0, 0], [0, 0.5, -0.5, 0], [0, -0.5, 0.5, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(jacobian, expected, atol=1e-6)


def test_candidates_of_every_action_are_a_uniform_prior():
    uniform = jnp.full(3, -jnp.log(3.0))
    np.testing.assert_allclose(
        candidate_log_probs(jnp.arange(3), Q_VALUES[:3], 0.5),
        posterior_log_probs(uniform, Q_VALUES[:3], 0.5),
        rtol=1e-6,
    )


def test_k_sample_policy_goes_from_prior_to_posterior():
    """Marginal over all A^k candidate sets, by enumeration: k=1 is the prior, then ever nearer."""
    prior = np.exp(PRIOR)[:3]
    batched = jax.jit(jax.vmap(candidate_log_probs, (0, None, None)))
    distances = []
    for k in (1, 2, 3, 5):
        sets = np.array(list(itertools.product(range(3), repeat=k)))
        marginal = np.prod(prior[sets], axis=1) @ np.exp(batched(sets, Q_VALUES, 1.0))
        if k == 1:
            np.testing.assert_allclose(marginal[:3], prior, rtol=1e-5)
        distances.append(0.5 * np.sum(np.abs(marginal - POSTERIOR)))
    assert np.all(np.diff(distances) < 0)


def test_many_candidates_give_the_posterior():
    candidates = sample_candidates(jax.random.key(1), PRIOR, NUM_SAMPLES)
    probs = np.exp(candidate_log_probs(candidates, Q_VALUES, 1.0))
    # If every frequency is p (1 +- e), every weight p exp(Q) is too, and so is their sum.
    e = FREQUENCY_ERROR / np.min(np.exp(PRIOR[:3]))
    np.testing.assert_allclose(probs, POSTERIOR, rtol=(1 + e) / (1 - e) - 1)


def test_empirical_log_probs_count():
    np.testing.assert_allclose(
        np.exp(empirical_log_probs(jnp.array([2, 0, 2, 2]), 4)), [0.25, 0.0, 0.75, 0.0]
    )


# --- Divergence from the prior --------------------------------------------------------------------


kl_and_gradients = jax.jit(jax.value_and_grad(kl_to_prior, (0, 1)))


@all_variants
def test_divergence_by_hand(variant):
    # The posterior doubles the last action and halves the first: (1/4) log(1/2) + (1/2) log 2.
    divergence = variant(kl_to_prior)(jnp.log(POSTERIOR), PRIOR)
    np.testing.assert_allclose(divergence, 0.25 * np.log(2.0), rtol=1e-6)


def test_divergence_equals_scipy():
    rng = np.random.default_rng(0)
    policy, prior = rng.dirichlet(np.full(8, 0.3), size=(2, 50))
    policy[:, 2] = 0.0
    policy /= policy.sum(axis=1, keepdims=True)
    divergences = jax.jit(jax.vmap(kl_to_prior))(
        jnp.log(jnp.asarray(policy, jnp.float32)), jnp.log(jnp.asarray(prior, jnp.float32))
    )
    expected = scipy.stats.entropy(policy, prior, axis=1)
    np.testing.assert_allclose(divergences, expected, rtol=1e-4)


def test_divergence_of_the_prior_from_itself_is_zero_with_zero_gradient():
    value, gradients = kl_and_gradients(jnp.asarray(PRIOR), PRIOR)
    assert value == 0
    np.testing.assert_array_equal(gradients, np.zeros((2, 4)))


def test_curvature_of_the_divergence_at_the_prior_is_the_fisher_information():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    hessian = jax.jit(jax.hessian(kl_to_prior))(logits, logits)
    p = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-6)


def test_tiny_divergences_keep_their_digits():
    """Here the divergence is 3.4e-7, while log pi itself is rounded to 1e-7."""
    prior, q_values = np.array([0.5, 0.25, 0.25]), np.array([0.0, 1.0, 2.0])
    policy = prior + 1e-3 * prior * (q_values - prior @ q_values)
    divergence = kl_to_prior(
        jnp.log(jnp.asarray(policy, jnp.float32)), jnp.log(jnp.asarray(prior, jnp.float32))
    )
    np.testing.assert_allclose(divergence, scipy.stats.entropy(policy, prior), rtol=1e-3)


@pytest.fixture(scope="module")
def divergence_and_gradients():
    def divergence(prior_log_probs, q_values, alpha):
        return kl_to_prior(posterior_log_probs(prior_log_probs, q_values, alpha), prior_log_probs)

    return jax.jit(jax.value_and_grad(divergence, argnums=(0, 1, 2)))


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_divergence_of_the_posterior_is_right_and_never_negative(divergence_and_gradients, case):
    divergence, gradients = divergence_and_gradients(
        case.prior_log_probs, case.q_values, case.alpha
    )
    expected = exact(case.prior_log_probs, case.q_values, case.alpha).divergence
    assert divergence >= 0
    np.testing.assert_allclose(divergence, expected, rtol=1e-4, atol=1e-10)
    for gradient in gradients:
        gradient = np.asarray(gradient.astype(jnp.float32))
        assert np.all(np.isfinite(gradient))
        if gradient.ndim:
            assert not np.any(gradient[~case.exists])


def test_policy_mass_outside_the_prior_costs_infinity_with_finite_gradients():
    policy = jnp.log(jnp.full(4, 0.25))
    value, gradients = kl_and_gradients(policy, PRIOR)
    assert value == INF
    np.testing.assert_array_equal(gradients, np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("policy", "prior"), [(PADDING, PADDING), (PRIOR, PADDING), (PADDING, PRIOR)]
)
def test_divergence_is_zero_where_no_actions_are(policy, prior):
    value, gradients = kl_and_gradients(policy, prior)
    assert value == 0
    np.testing.assert_array_equal(gradients, np.zeros((2, 4)))


def test_gradients_of_the_divergence_equal_finite_differences():
    with float64():
        rng = np.random.default_rng(0)
        log_pi, log_p = jnp.asarray(rng.normal(size=(2, 4)))
        # The policy lacks an action of the prior, and both lack the last.
        check_gradients(
            lambda log_pi, log_p: kl_to_prior(
                jnp.append(log_pi, jnp.array([-jnp.inf, -jnp.inf])),
                jnp.append(log_p, jnp.array([-1.0, -jnp.inf])),
            ),
            log_pi,
            log_p,
        )


# --- The package ----------------------------------------------------------------------------------


def test_every_public_name_is_there():
    assert all(hasattr(llmprior_jax, name) for name in llmprior_jax.__all__)


def test_an_unknown_name_of_the_package_raises():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llmprior_jax.nothing  # pyright: ignore[reportAttributeAccessIssue]


def test_importing_the_equations_is_light():
    """No language-model library, no neural-network library, no backend: see the package's head."""
    script = """
import json, sys
import llmprior_jax
from jax._src import xla_bridge
heavy = {"flax", "gymnax", "optax", "orbax", "rlax", "tokenizers", "torch",
         "transformers"}
loaded = sorted(heavy & set(sys.modules))
packages = [name for name in dir(llmprior_jax) if name == "envs"]
print(json.dumps([loaded, len(xla_bridge._backends), packages]))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded, num_backends, packages = json.loads(result.stdout)
    assert loaded == []
    assert num_backends == 0
    assert packages == ["envs"]


@pytest.mark.parametrize("name", ["agents", "envs", "models", "priors", "training"])
def test_packages_are_reached_from_the_top(name):
    assert getattr(llmprior_jax, name).__name__ == f"llmprior_jax.{name}"
