"""Bellman targets over the posterior, and the losses of DQN-Prior and CQL-Prior."""

import doctest
import functools

import equation_cases
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
from equation_cases import Case, all_variants, cases, check_gradients, exact, float64

from llmprior_jax import bellman
from llmprior_jax.bellman import (
    cql_prior_loss,
    cql_prior_penalty,
    dqn_prior_loss,
    posterior_bellman_target,
)
from llmprior_jax.posterior import kl_to_prior, posterior_log_probs, soft_value

BACKUPS = ("posterior", "soft", "max")

# By hand: p = (1/2, 1/4, 1/4, none), exp(Q) = (1, 2, 4, anything), hence pi = (1/4, 1/4, 1/2, 0).
PRIOR = jnp.log(jnp.array([0.5, 0.25, 0.25, 0.0]))
Q_VALUES = jnp.array([0.0, jnp.log(2.0), jnp.log(4.0), jnp.nan])
LOG2 = np.log(2.0)
BACKED_UP = {"posterior": 0.25 * LOG2 + 0.5 * 2 * LOG2, "soft": LOG2, "max": 2 * LOG2}

# Another network's values; they select by hand pi = (1/4, 1/4, 1/2, 0) as above, or action 2.
EVALUATED = jnp.array([4.0, 8.0, 2.0, jnp.inf])
# The soft backup is E_pi[Q] - KL(pi || p), and KL(pi || p) = (1/4) log(1/2) + (1/2) log 2.
SELECTED = {"posterior": 4.0, "soft": 4.0 - 0.25 * LOG2, "max": 2.0}

PADDING = jnp.full(4, -jnp.inf)
GARBAGE = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 1.0])


def test_examples_in_docstrings_run():
    failures, tests = doctest.testmod(bellman)
    assert tests > 0
    assert failures == 0


# --- The target -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backup", BACKUPS)
@all_variants
def test_target_by_hand(variant, backup):
    target = variant(functools.partial(posterior_bellman_target, backup=backup))
    expected = 3.0 + 0.5 * BACKED_UP[backup]
    np.testing.assert_allclose(target(3.0, 0.5, Q_VALUES, PRIOR, 1.0), expected, rtol=1e-6)


@pytest.mark.parametrize("backup", BACKUPS)
@all_variants
def test_double_q_target_by_hand(variant, backup):
    def target(q_values, selector):
        return posterior_bellman_target(3.0, 0.5, q_values, PRIOR, 1.0, backup, selector)

    expected = 3.0 + 0.5 * SELECTED[backup]
    np.testing.assert_allclose(variant(target)(EVALUATED, Q_VALUES), expected, rtol=1e-6)


@pytest.mark.parametrize("backup", BACKUPS)
def test_selecting_with_the_evaluated_values_changes_nothing(backup):
    np.testing.assert_allclose(
        posterior_bellman_target(1.0, 0.9, Q_VALUES, PRIOR, 0.3, backup, Q_VALUES),
        posterior_bellman_target(1.0, 0.9, Q_VALUES, PRIOR, 0.3, backup),
        rtol=1e-6,
    )


def test_soft_double_q_backup_is_expected_q_minus_divergence():
    log_pi = posterior_log_probs(PRIOR, Q_VALUES, 0.3)
    mean_q = np.sum(np.exp(log_pi[:3]) * EVALUATED[:3])
    expected = mean_q - 0.3 * kl_to_prior(log_pi, PRIOR)
    backup = posterior_bellman_target(0.0, 1.0, EVALUATED, PRIOR, 0.3, "soft", Q_VALUES)
    np.testing.assert_allclose(backup, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def transitions():
    """Q, next Q, selecting Q, rewards, discounts and actions of 20 transitions with 5 actions."""
    rng = np.random.default_rng(0)
    q, next_q, selector = jnp.asarray(rng.normal(size=(3, 20, 5)), jnp.float32)
    rewards, discounts = jnp.asarray(rng.uniform(size=(2, 20)), jnp.float32)
    return q, next_q, selector, rewards, discounts, jnp.asarray(rng.integers(0, 5, size=20))


UNIFORM = jnp.full(5, -jnp.log(5.0))


def test_uniform_prior_and_max_backup_is_q_learning(transitions):
    q, next_q, _, rewards, discounts, actions = transitions

    def error(q, action, reward, discount, next_q):
        target = posterior_bellman_target(reward, discount, next_q, UNIFORM, 1.0, "max")
        return target - q[action]

    arguments = (q, actions, rewards, discounts, next_q)
    expected = jax.jit(jax.vmap(rlax.q_learning))(*arguments)
    np.testing.assert_allclose(jax.jit(jax.vmap(error))(*arguments), expected, atol=1e-6)


def test_uniform_prior_and_max_backup_with_a_selector_is_double_q_learning(transitions):
    q, next_q, selector, rewards, discounts, actions = transitions

    def error(q, action, reward, discount, next_q, selector):
        target = posterior_bellman_target(reward, discount, next_q, UNIFORM, 1.0, "max", selector)
        return target - q[action]

    arguments = (q, actions, rewards, discounts, next_q, selector)
    expected = jax.jit(jax.vmap(rlax.double_q_learning))(*arguments)
    np.testing.assert_allclose(jax.jit(jax.vmap(error))(*arguments), expected, atol=1e-6)


@pytest.mark.parametrize("backup", BACKUPS)
def test_all_backups_are_the_best_of_the_support_as_alpha_vanishes(backup):
    q_values = jnp.array([1.0, 3.0, 2.0, 9.0])
    target = posterior_bellman_target(0.0, 1.0, q_values, PRIOR, 1e-8, backup)
    np.testing.assert_allclose(target, 3.0, rtol=1e-6)


@pytest.mark.parametrize("backup", BACKUPS)
@pytest.mark.parametrize(
    ("discount", "prior"), [(0.0, PRIOR), (0.9, PADDING)], ids=["terminated", "no actions"]
)
def test_target_is_the_reward_where_there_is_no_next_state(backup, discount, prior):
    q_values = jnp.where(prior > -jnp.inf, 1.0, GARBAGE)
    assert posterior_bellman_target(2.0, discount, q_values, prior, 1.0, backup) == 2.0


@pytest.mark.parametrize("backup", BACKUPS)
def test_target_is_float32_for_bfloat16(backup):
    to_bf16 = lambda x: jnp.asarray(x, jnp.bfloat16)  # noqa: E731
    target = posterior_bellman_target(
        to_bf16(1.0), to_bf16(0.9), to_bf16(Q_VALUES), to_bf16(PRIOR), 1.0, backup
    )
    assert target.dtype == jnp.float32


def test_an_unknown_backup_raises_with_the_valid_ones():
    with pytest.raises(ValueError, match="backup is 'mean'; use one of posterior, soft, max"):
        posterior_bellman_target(0.0, 1.0, Q_VALUES, PRIOR, 1.0, backup="mean")  # pyright: ignore


@pytest.mark.parametrize("backup", BACKUPS)
def test_an_impossible_temperature_raises(backup):
    with pytest.raises(ValueError, match=r"alpha .* got 0"):
        posterior_bellman_target(0.0, 1.0, Q_VALUES, PRIOR, 0.0, backup)


def test_wrong_shapes_are_refused():
    with pytest.raises(AssertionError):
        posterior_bellman_target(jnp.zeros(2), 1.0, Q_VALUES, PRIOR, 1.0)
    with pytest.raises(AssertionError):
        posterior_bellman_target(0.0, 1.0, Q_VALUES, PRIOR, 1.0, "max", Q_VALUES[:3])


@pytest.fixture(scope="module")
def targets_and_gradients():
    """All backups of a case, with its Q-values, negated, as the selector; and their gradients."""

    def targets(prior_log_probs, q_values, alpha):
        return jnp.stack(
            [
                posterior_bellman_target(0.0, 1.0, q_values, prior_log_probs, alpha, backup, s)
                for backup in BACKUPS
                for s in (None, -q_values)
            ]
        )

    return jax.jit(lambda *args: (targets(*args), jax.jacrev(targets, argnums=(0, 1, 2))(*args)))


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_backups_equal_the_formulas_in_many_digits(targets_and_gradients, case: Case):
    targets, _ = targets_and_gradients(case.prior_log_probs, case.q_values, case.alpha)
    q_values = np.where(case.exists, np.asarray(case.q_values, np.float64), 0.0)
    expected = exact(case.prior_log_probs, q_values, case.alpha)
    selected = exact(case.prior_log_probs, -q_values, case.alpha)
    best = np.max(q_values[case.exists])
    worst = np.min(q_values[case.exists])
    mean_q = selected.posterior @ q_values
    size = np.max(np.abs(q_values))
    # E_pi[Q] - alpha KL, where the selector's own value is E_pi[-Q] - alpha KL.
    soft = 2 * mean_q + selected.value
    by_formula = np.array([expected.mean_q, mean_q, expected.value, soft, best, worst])
    np.testing.assert_allclose(targets, by_formula, atol=1e-5 * size)


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_gradients_of_backups_are_finite_and_zero_where_no_action_is(
    targets_and_gradients, case: Case
):
    _, (d_prior, d_q, d_alpha) = targets_and_gradients(
        case.prior_log_probs, case.q_values, case.alpha
    )
    for jacobian in (d_prior, d_q, d_alpha):
        assert np.all(np.isfinite(jacobian.astype(jnp.float32)))
    assert not np.any(d_prior[:, ~case.exists])
    assert not np.any(d_q[:, ~case.exists])


def test_gradients_equal_finite_differences():
    with float64():
        rng = np.random.default_rng(0)
        log_p, q_values, selector = jnp.asarray(rng.normal(size=(3, 4)))

        def targets(reward, discount, q_values, log_p, alpha, selector):
            q_values, selector = jnp.append(q_values, jnp.nan), jnp.append(selector, jnp.inf)
            log_p = jnp.append(log_p, -jnp.inf)
            return jnp.stack(
                [
                    posterior_bellman_target(reward, discount, q_values, log_p, alpha, backup, s)
                    for backup in BACKUPS
                    for s in (None, selector)
                ]
            )

        check_gradients(targets, 0.3, 0.9, q_values, log_p, 0.7, selector, order=1)


# --- Soft value iteration -------------------------------------------------------------------------


def test_soft_value_iteration_solves_a_linearly_solvable_mdp():
    """The soft backup's fixed point against the linear system of Todorov (PNAS 2009).

    A walk on a graph: an action is the neighbor to go to, the prior is the passive dynamics, the
    reward depends on the state. With `z = exp(V/alpha)`, soft Bellman optimality is linear:
    `z = exp(r/alpha) P z` inside, given `z` at the terminal states. The optimal policy is
    `p(s'|s) z(s')`, normalized. States have 1 to 5 neighbors, so most slots are empty.
    """
    num_states, num_slots, alpha = 9, 5, 0.5
    rng = np.random.default_rng(3)
    terminal = np.zeros(num_states, bool)
    terminal[[7, 8]] = True
    rewards = -rng.uniform(0.1, 1.0, num_states)
    final_values = np.where(terminal, [0.0] * 8 + [2.0], 0.0)

    neighbors = np.zeros((num_states, num_slots), int)
    passive = np.zeros((num_states, num_slots))
    for state in range(num_states):
        degree = 1 + state % num_slots
        others = rng.permutation(np.delete(np.arange(num_states), state))[: degree - 1]
        neighbors[state, :degree] = [(state + 1) % num_states, *others][:degree]
        passive[state, :degree] = rng.dirichlet(np.ones(degree))
    transitions = np.zeros((num_states, num_states))
    np.add.at(transitions, (np.arange(num_states)[:, None], neighbors), passive)

    inside = ~terminal
    gain = np.diag(np.exp(-rewards[inside] / alpha))
    z = np.exp(final_values / alpha)
    z[inside] = np.linalg.solve(
        gain - transitions[np.ix_(inside, inside)],
        transitions[np.ix_(inside, terminal)] @ z[terminal],
    )

    # Q(s, a) is what the target gives for the transition from s to its neighbor a.
    log_passive = jnp.log(jnp.asarray(passive, jnp.float32))
    reward_of = jnp.asarray(rewards[:, None] + final_values[neighbors], jnp.float32)
    discount_of = jnp.asarray(1.0 - terminal[neighbors], jnp.float32)

    backup = functools.partial(posterior_bellman_target, alpha=alpha, backup="soft")
    sweep = jax.vmap(jax.vmap(backup))

    @jax.jit
    def solve():
        def step(q_values, _):
            return sweep(reward_of, discount_of, q_values[neighbors], log_passive[neighbors]), ()

        return jax.lax.scan(step, jnp.zeros((num_states, num_slots)), length=300)[0]

    q_values = solve()
    batched_value = jax.jit(jax.vmap(functools.partial(soft_value, alpha=alpha)))
    batched_policy = jax.jit(jax.vmap(functools.partial(posterior_log_probs, alpha=alpha)))
    np.testing.assert_allclose(
        batched_value(log_passive, q_values)[inside], alpha * np.log(z[inside]), rtol=1e-4
    )
    optimal = passive * z[neighbors]
    optimal /= optimal.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.exp(batched_policy(log_passive, q_values))[inside], optimal[inside], atol=1e-5
    )


# --- DQN-Prior ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backup", BACKUPS)
@all_variants
def test_dqn_loss_by_hand(variant, backup):
    loss = variant(functools.partial(dqn_prior_loss, backup=backup))
    # Q(s, 1) = 2; with reward 1.5 the error is within (-1, 1), with 10 it is beyond.
    q_values = jnp.array([0.0, 2.0, 0.0, jnp.nan])
    error = 1.5 + 0.5 * BACKED_UP[backup] - 2.0
    np.testing.assert_allclose(
        loss(q_values, 1, 1.5, 0.5, Q_VALUES, PRIOR, 1.0), error**2 / 2, rtol=1e-5
    )
    error = 10.0 + 0.5 * BACKED_UP[backup] - 2.0
    np.testing.assert_allclose(
        loss(q_values, 1, 10.0, 0.5, Q_VALUES, PRIOR, 1.0), error - 0.5, rtol=1e-6
    )


def test_dqn_loss_is_the_huber_loss_of_the_documented_error():
    rng = np.random.default_rng(0)
    rewards = jnp.asarray(rng.normal(scale=3.0, size=50), jnp.float32)
    q_values = jnp.array([0.5, 1.5, -1.0, 0.0])
    arguments = (0.9, Q_VALUES, PRIOR, 1.0)
    loss = jax.jit(jax.vmap(lambda reward: dqn_prior_loss(q_values, 1, reward, *arguments)))
    target = jax.jit(jax.vmap(lambda reward: posterior_bellman_target(reward, *arguments)))
    errors = target(rewards) - q_values[1]
    np.testing.assert_allclose(loss(rewards), optax.huber_loss(errors), rtol=1e-5)


def test_dqn_loss_moves_the_taken_action_only_and_not_the_target():
    gradient = jax.jit(
        jax.grad(
            lambda q, r, next_q, prior, alpha, selector: dqn_prior_loss(
                q, 1, r, 0.9, next_q, prior, alpha, "soft", selector
            ),
            argnums=(0, 1, 2, 3, 4, 5),
        )
    )
    q_values = jnp.array([0.5, 50.0, -1.0, 0.0])
    d_q, *others = gradient(q_values, 1.0, EVALUATED, PRIOR, 1.0, Q_VALUES)
    np.testing.assert_array_equal(d_q, [0.0, 1.0, 0.0, 0.0])  # Huber: clipped to the sign
    for other in others:
        np.testing.assert_array_equal(other, np.zeros_like(other))


# --- CQL-Prior ------------------------------------------------------------------------------------


@all_variants
def test_cql_penalty_by_hand(variant):
    # sum p exp(Q) = 1/2 + 2/4 + 4/4 = 2, and Q of the data is log 4.
    np.testing.assert_allclose(
        variant(cql_prior_penalty)(PRIOR, Q_VALUES, 2), LOG2 - 2 * LOG2, rtol=1e-6
    )


def test_cql_penalty_with_a_uniform_prior_is_that_of_cql_h_less_log_a():
    rng = np.random.default_rng(0)
    q_values = 5 * rng.normal(size=(20, 5))
    actions = rng.integers(0, 5, size=20)
    expected = np.log(np.sum(np.exp(q_values), axis=1)) - q_values[np.arange(20), actions]
    penalties = jax.jit(jax.vmap(cql_prior_penalty, (None, 0, 0)))(
        jnp.full(5, -jnp.log(5.0)), jnp.asarray(q_values, jnp.float32), jnp.asarray(actions)
    )
    np.testing.assert_allclose(penalties, expected - np.log(5.0), rtol=1e-5, atol=1e-5)


def test_cql_penalty_pushes_the_posterior_down_and_the_data_up():
    gradient = jax.jit(jax.grad(cql_prior_penalty, argnums=1))
    np.testing.assert_allclose(gradient(PRIOR, Q_VALUES, 2), [0.25, 0.25, -0.5, 0.0], atol=1e-6)


def test_cql_penalty_is_zero_without_actions():
    value, gradients = jax.jit(jax.value_and_grad(cql_prior_penalty, (0, 1)))(PADDING, GARBAGE, 0)
    assert value == 0
    np.testing.assert_array_equal(gradients, np.zeros((2, 4)))


@equation_cases.sampled
@hypothesis.given(case=cases())
def test_cql_penalty_is_finite_with_finite_gradients(penalty_and_gradients, case: Case):
    value, gradients = penalty_and_gradients(case.prior_log_probs, case.q_values, case.action)
    expected = exact(case.prior_log_probs, case.q_values, 1.0).value
    q_values = np.asarray(case.q_values, np.float64)
    size = np.max(np.abs(q_values[case.exists]))
    np.testing.assert_allclose(value, expected - q_values[case.action], atol=1e-5 * size)
    for gradient in gradients:
        assert np.all(np.isfinite(gradient.astype(jnp.float32)))
        assert not np.any(gradient[~case.exists])


@pytest.fixture(scope="module")
def penalty_and_gradients():
    return jax.jit(jax.value_and_grad(cql_prior_penalty, (0, 1)))


@all_variants
def test_cql_loss_adds_beta_times_the_penalty(variant):
    loss = variant(functools.partial(cql_prior_loss, backup="soft"))
    # The error is 1 + log(2)/2 - log(4), and the penalty -log 2.
    expected = (1.0 + LOG2 / 2 - 2 * LOG2) ** 2 / 2 - 3.0 * LOG2
    value = loss(PRIOR, Q_VALUES, 2, 1.0, 0.5, Q_VALUES, PRIOR, 1.0, 3.0)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_cql_loss_passes_the_selector_on():
    arguments = (Q_VALUES, 2, 1.0, 0.5, EVALUATED, PRIOR, 1.0)
    np.testing.assert_allclose(
        cql_prior_loss(PRIOR, *arguments, 0.0, backup="max", selector_q_values=Q_VALUES),
        dqn_prior_loss(*arguments, backup="max", selector_q_values=Q_VALUES),
    )


def test_the_penalty_at_a_temperature_pushes_down_what_acts_at_it():
    prior = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    q = jnp.array([0.1, 0.4, -0.2])
    gradient = jax.grad(bellman.cql_prior_penalty, argnums=1)(prior, q, 1, 0.25)
    policy = np.array([0.5, 0.3, 0.2]) * np.exp(np.array([0.1, 0.4, -0.2]) / 0.25)
    np.testing.assert_allclose(gradient, policy / policy.sum() - np.array([0, 1, 0]), atol=1e-6)
