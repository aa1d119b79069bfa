"""The device table of priors: it holds exactly what was put in, found by observation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior

A, D = 3, 2
find = jax.jit(jax.vmap(tables.find, in_axes=(None, 0)))


def numbered_prior(first: int, count: int) -> ActionPrior:
    """Priors whose numbers tell their row."""
    rows = np.arange(first, first + count, dtype=np.float32)
    return ActionPrior(
        log_probs=np.tile(-rows[:, None], (1, A)), features=np.tile(rows[:, None, None], (1, A, D))
    )


def test_an_empty_table_holds_nothing():
    table = tables.empty(np.zeros(4, np.int32), A, D)
    assert find(table, jnp.zeros((2, 4), jnp.int32)).tolist() == [-1, -1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_row_is_found_and_no_other_observation_is(seed):
    rng = np.random.default_rng(seed)
    keys = np.unique(rng.integers(-2, 3, size=(200, 4)).astype(np.int32), axis=0)
    rng.shuffle(keys)
    inside, outside = keys[:60], keys[60:]
    table = tables.insert(tables.empty(keys[0], A, D), inside, numbered_prior(0, len(inside)))
    assert find(table, inside).tolist() == list(range(len(inside)))
    assert (np.asarray(find(table, outside)) == -1).all()


def test_rows_do_not_move_when_the_table_grows():
    keys = np.stack([np.arange(5000), np.arange(5000) % 7], axis=1).astype(np.int32)
    table = tables.empty(keys[0], A, D)
    for start in (0, 10, 500):
        stop = {0: 10, 10: 500, 500: 5000}[start]
        table = tables.insert(table, keys[start:stop], numbered_prior(start, stop - start))
    rows = find(table, keys)
    assert rows.tolist() == list(range(5000))
    prior = jax.vmap(tables.lookup, in_axes=(None, 0))(table, rows)
    np.testing.assert_array_equal(prior.features[:, 0, 0], np.arange(5000))
    np.testing.assert_array_equal(prior.log_probs[:, 0], -np.arange(5000))


@pytest.mark.parametrize("num_actions", [1, 3, 8])
def test_a_table_that_grows_one_by_one_has_few_shapes(num_actions):
    prior = ActionPrior(np.zeros((1, num_actions), np.float32), np.ones((1, num_actions, D)))
    table = tables.empty(np.zeros((), np.int32), num_actions, D)
    shapes = set()
    for state in range(1200):
        table = tables.insert(table, np.int32([state]), prior)
        shapes.add((len(table.observations), len(table.features)))
    # At first, and then at 1,024 and 4,096 rows, each with room for their actions.
    assert {rows for rows, _ in shapes} == {64, 1024, 4096}
    beginning = {actions for rows, actions in shapes if rows == 64}
    assert len(shapes) == len(beginning) + 2


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.uint8])
def test_scalar_observations_of_any_dtype_are_keys(dtype):
    keys = np.arange(100).astype(dtype)
    table = tables.insert(tables.empty(keys[0], A, D), keys, numbered_prior(0, 100))
    assert find(table, keys).tolist() == list(range(100))


def test_inserting_a_state_twice_is_refused():
    keys = np.arange(3, dtype=np.int32)
    table = tables.insert(tables.empty(keys[0], A, D), keys, numbered_prior(0, 3))
    with pytest.raises(ValueError, match="1 of the 1 observations"):
        tables.insert(table, keys[1:2], numbered_prior(0, 1))


def test_negative_zero_is_zero():
    keys = np.array([[0.0, 1.0], [2.0, -0.0]], np.float32)
    table = tables.insert(tables.empty(keys[0], A, D), keys, numbered_prior(0, 2))
    assert find(table, np.array([[-0.0, 1.0], [2.0, 0.0]], np.float32)).tolist() == [0, 1]
    with pytest.raises(ValueError, match="come twice"):
        tables.insert(tables.empty(keys[0, 0], A, D), keys[[0, 1], [0, 1]], numbered_prior(0, 2))


def test_nan_is_refused():
    keys = np.array([[0.0], [np.nan]], np.float32)
    with pytest.raises(ValueError, match="the first is observation 1"):
        tables.insert(tables.empty(keys[0], A, D), keys, numbered_prior(0, 2))


def test_actions_that_are_not_there_take_no_room_on_the_device():
    """83 slots, of which some 23 are in use, as in ALFWorld: at most two fifths of all slots."""
    rng = np.random.default_rng(0)
    num_states, num_slots, width = 800, 83, 32
    counts = rng.integers(13, 34, num_states)
    is_action = np.arange(num_slots) < counts[:, None]
    log_probs = np.where(is_action, -np.log(counts[:, None]), -np.inf).astype(np.float32)
    features = rng.standard_normal((num_states, num_slots, width)).astype(np.float32)
    features *= is_action[..., None]
    table = tables.empty(np.int32(0), num_slots, width)
    for some in np.array_split(np.arange(num_states), 7):
        prior = ActionPrior(jnp.asarray(log_probs[some]), jnp.asarray(features[some]))
        table = tables.insert(table, some.astype(np.int32), prior)
    kept = tables.rows(table)
    np.testing.assert_array_equal(kept.features, features)
    np.testing.assert_array_equal(kept.log_probs, log_probs)
    used = num_states * (table.log_probs.nbytes + table.place.nbytes) / len(table.log_probs) + int(
        table.num_actions
    ) * table.features.nbytes / len(table.features)
    assert used <= 0.4 * (features.nbytes + log_probs.nbytes)
