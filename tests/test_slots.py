"""What is computed of actions: the same as of all slots, and of no more than there are actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax.agents.slots import of_actions
from llmprior_jax.types import ActionPrior

WEIGHTS = jnp.array([1.0, -2.0, 0.5])


def q_values(features: jax.Array) -> jax.Array:
    return jnp.tanh(features @ WEIGHTS)


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
    values = jax.jit(lambda prior: of_actions(q_values, prior))(prior)
    wanted = np.asarray(q_values(prior.features))
    np.testing.assert_allclose(np.asarray(values)[exists], wanted[exists], atol=1e-6)
    assert np.all(np.isfinite(values))


def test_seeds_with_more_and_fewer_actions_are_computed_together():
    exists = (
        np.random.default_rng(2).random((4, 30, 40)) < np.array([0, 0.1, 0.6, 1])[:, None, None]
    )
    prior = a_prior(exists)
    values = jax.jit(jax.vmap(lambda prior: of_actions(q_values, prior)))(prior)
    wanted = np.asarray(q_values(prior.features))
    np.testing.assert_allclose(values, np.where(exists, wanted, 0.0), atol=1e-6)


def test_an_action_of_a_further_prior_exists():
    exists = np.zeros((2, 40), bool)
    prior = a_prior(exists)
    others = jnp.full((2, 1, 40), -jnp.inf).at[0, 0, 7].set(-1.0)
    values = of_actions(q_values, prior._replace(others=others))
    assert np.flatnonzero(values).tolist() == [7]


def test_no_more_is_computed_than_there_are_actions():
    exists = np.zeros((64, 83), bool)
    exists[:, :23] = True
    rows = []

    def counted(features: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: rows.append(len(features)))
        return q_values(features)

    jax.block_until_ready(of_actions(counted, a_prior(exists)))
    jax.effects_barrier()
    assert 64 * 23 <= sum(rows) < 64 * 28
