"""What is computed of actions: the same as of all slots, and of no more than there are actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax.agents.slots import of_actions
from llmprior_jax.types import ActionPrior

WEIGHTS = jnp.array([1.0, -2.0, 0.5])


def q_values(weights: jax.Array, features: jax.Array) -> jax.Array:
    return jnp.tanh(features @ weights)


def a_prior(exists: np.ndarray) -> ActionPrior:
    """Of states with these actions, bool[..., A]."""
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(*exists.shape, 3)), jnp.float32)
    return ActionPrior(jnp.where(exists, -1.0, -jnp.inf), features)


@pytest.mark.parametrize("num_actions", [5, 40])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_values_of_actions_are_those_of_all_slots(num_actions, share):
    exists = np.random.default_rng(1).random((30, num_actions)) < share
    prior = a_prior(exists)
    values = jax.jit(lambda prior: of_actions(q_values, WEIGHTS, prior))(prior)
    wanted = np.asarray(q_values(WEIGHTS, prior.features))
    np.testing.assert_allclose(np.asarray(values)[exists], wanted[exists], atol=1e-6)
    assert np.all(np.isfinite(values))


def test_seeds_with_more_and_fewer_actions_are_computed_together():
    exists = (
        np.random.default_rng(2).random((4, 30, 40)) < np.array([0, 0.1, 0.6, 1])[:, None, None]
    )
    prior = a_prior(exists)
    values = jax.jit(jax.vmap(lambda prior: of_actions(q_values, WEIGHTS, prior)))(prior)
    wanted = np.asarray(q_values(WEIGHTS, prior.features))
    np.testing.assert_allclose(values, np.where(exists, wanted, 0.0), atol=1e-6)


def test_an_action_of_a_further_prior_exists():
    exists = np.zeros((2, 40), bool)
    prior = a_prior(exists)
    others = jnp.full((2, 1, 40), -jnp.inf).at[0, 0, 7].set(-1.0)
    values = of_actions(q_values, WEIGHTS, prior._replace(others=others))
    assert np.flatnonzero(values).tolist() == [7]


def test_the_action_that_was_taken_counts_as_one():
    prior = a_prior(np.zeros((2, 40), bool))
    values = of_actions(q_values, WEIGHTS, prior, jnp.array([3, 39]))
    assert np.argwhere(values).tolist() == [[0, 3], [1, 39]]


@pytest.mark.parametrize("num_actions", [5, 40])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_gradients_are_those_of_all_slots(num_actions, share):
    exists = np.random.default_rng(3).random((4, 30, num_actions)) < share
    prior = a_prior(exists)
    # Each seed has parameters, and more than one part of actions where there are many.
    weights = WEIGHTS * jnp.arange(1.0, 5.0)[:, None]
    of_values = jnp.asarray(np.random.default_rng(4).normal(size=exists.shape), jnp.float32)

    def of_existing(weights, prior, of_values):
        return jnp.sum(of_values * of_actions(q_values, weights, prior))

    def of_all(weights, prior, of_values):
        values = q_values(weights, prior.features)
        if num_actions > 16:
            values = jnp.where(jnp.isfinite(prior.log_probs), values, 0.0)
        return jnp.sum(of_values * values)

    found, wanted = (
        jax.jit(jax.vmap(jax.grad(function)))(weights, prior, of_values)
        for function in (of_existing, of_all)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_no_more_is_computed_than_there_are_actions():
    exists = np.zeros((64, 83), bool)
    exists[:, :23] = True
    rows = []

    def counted(weights: jax.Array, features: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: rows.append(len(features)))
        return q_values(weights, features)

    jax.block_until_ready(of_actions(counted, WEIGHTS, a_prior(exists)))
    jax.effects_barrier()
    assert 64 * 23 <= sum(rows) < 64 * 28
