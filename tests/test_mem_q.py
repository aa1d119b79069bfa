"""Mem-Q: its values are those of a loop over the memory, and it forgets what it says it forgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lock_env import lock_table

from llmprior_jax import agents
from llmprior_jax.agents.mem_q import Memory, empty
from llmprior_jax.agents.mem_q import recall as one_recall
from llmprior_jax.agents.mem_q import remember as one_remember
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior

KEY = jax.random.key(0)
recall = jax.jit(one_recall, static_argnames=("num_neighbors", "delta"))
remember = jax.jit(one_remember)


def a_memory(capacity: int, size: int, num_features: int) -> Memory:
    """Random pairs in the first places, with values."""
    rng = np.random.default_rng(0)
    memory = empty(capacity, num_features)
    pairs = jnp.asarray(rng.normal(size=(size, num_features)), jnp.float32)
    return remember(memory, pairs, jnp.asarray(rng.normal(size=size), jnp.float32), jnp.ones(size))


@pytest.mark.parametrize("size", [3, 9])
def test_q_is_the_mean_of_the_nearest_weighed_by_how_near_they_are(size):
    k, delta = 4, 0.05
    memory = a_memory(12, size, num_features=5)
    pairs = np.random.default_rng(1).normal(size=(2, 3, 5)).astype(np.float32)
    pairs[0, 0] = np.asarray(memory.embedding)[np.asarray(memory.seen) > 0][1]
    q = recall(memory, jnp.asarray(pairs), k, delta)
    held = [i for i in range(12) if memory.seen[i] > 0]
    assert len(held) == size
    for place in np.ndindex(2, 3):
        distances = {}
        for i in held:
            gap = pairs[place] - np.asarray(memory.embedding[i], np.float64)
            distances[i] = float(np.sum(gap**2)) / 5
        nearest = sorted(distances, key=distances.get)[:k]
        weights = {i: 1 / (distances[i] + delta) for i in nearest}
        wanted = sum(w * float(memory.value[i]) for i, w in weights.items()) / sum(weights.values())
        assert float(q[place]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_q_is_zero_before_anything_is_remembered():
    q = recall(empty(4, 2), jnp.ones((3, 2)), 2, 0.1)
    np.testing.assert_array_equal(q, np.zeros(3))


def test_a_pair_that_is_seen_again_is_written_over():
    pairs = jnp.eye(2)
    memory = remember(empty(4, 2), pairs, jnp.array([1.0, 2.0]), jnp.ones(2))
    memory = remember(memory, pairs[:1], jnp.array([5.0]), jnp.ones(1))
    assert int((memory.seen > 0).sum()) == 2
    q = recall(memory, pairs, 1, 0.1)
    np.testing.assert_allclose(q, [5.0, 2.0])


def test_the_pairs_that_were_not_seen_for_the_longest_time_are_forgotten():
    def see(memory, *numbers):
        pairs = jnp.array([[float(number)] for number in numbers])
        return remember(memory, pairs, jnp.array(numbers, jnp.float32), jnp.ones(len(numbers)))

    memory = empty(3, 1)
    for number in (1, 2, 3, 1, 4):
        memory = see(memory, number)
    assert sorted(np.asarray(memory.value).tolist()) == [1.0, 3.0, 4.0]
    # What is seen in a batch is not what makes room for the rest of it.
    memory = see(memory, 5, 3)
    assert sorted(np.asarray(memory.value).tolist()) == [3.0, 4.0, 5.0]
    # More than there is room for.
    memory = see(memory, 6, 7, 8, 9)
    assert int((memory.seen > 0).sum()) == 3


def test_what_comes_twice_in_a_batch_is_one_pair():
    pairs = jnp.array([[1.0], [1.0], [2.0]])
    memory = remember(empty(4, 1), pairs, jnp.array([1.0, 1.0, 2.0]), jnp.ones(3))
    assert sorted(np.asarray(memory.value).tolist()) == [0.0, 0.0, 1.0, 2.0]


def test_entries_without_weight_leave_no_trace():
    pairs = jnp.array([[1.0], [1.0], [3.0]])
    memory = remember(empty(4, 1), pairs, jnp.arange(3.0) + 1, jnp.array([0.0, 1.0, 0.0]))
    assert sorted(np.asarray(memory.value).tolist()) == [0.0, 0.0, 0.0, 2.0]


def a_batch(prior: ActionPrior, action, reward, terminated, next_prior) -> agents.Transitions:
    size = len(action)
    return agents.Transitions(
        prior=prior,
        action=jnp.asarray(action),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated),
        next_prior=next_prior,
        weight=jnp.ones(size),
    )


def test_values_go_back_through_the_memory_a_transition_at_a_time():
    prior = jax.tree.map(lambda leaf: leaf[:3], tables.rows(lock_table(0.5)))
    agent = agents.mem_q(alpha=1e-4, discount=0.5, num_neighbors=1, delta=1e-6)
    state = agent.init(KEY, jax.tree.map(lambda leaf: leaf[0], prior))
    batch = a_batch(
        jax.tree.map(lambda leaf: leaf[jnp.array([1, 0])], prior),
        [2, 4],
        [1.0, 0.0],
        [True, False],
        jax.tree.map(lambda leaf: leaf[jnp.array([2, 1])], prior),
    )
    state, metrics = agent.update(state, KEY, batch)
    assert float(metrics["remembered"]) == 2
    state, _ = agent.update(state, KEY, batch)
    q = agent.policy(state, jax.tree.map(lambda leaf: leaf[0], prior)).q_values
    assert float(q[4]) == pytest.approx(0.5)
    q = agent.policy(state, jax.tree.map(lambda leaf: leaf[1], prior)).q_values
    assert float(q[2]) == pytest.approx(1.0)


def test_it_acts_by_the_posterior_and_never_by_what_is_no_action():
    prior = ActionPrior(jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.eye(3))
    agent = agents.mem_q(alpha=0.1)
    state = agent.init(KEY, prior)
    value = jnp.array([0.0, 0.2, 9.0])
    memory = remember(state.memory, prior.features, value, jnp.ones(3))
    policy = agent.policy(state._replace(memory=memory), prior)
    unnormalized = np.array([0.5, 0.5, 0.0]) * np.exp(np.asarray(policy.q_values) / 0.1)
    np.testing.assert_allclose(jnp.exp(policy.log_probs), unnormalized / unnormalized.sum())
    keys = jax.random.split(KEY, 64)
    actions = jax.vmap(agent.act, in_axes=(None, 0, None))(
        state._replace(memory=memory), keys, prior
    )
    assert int(actions.max()) < 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors is 0"),
        ({"capacity": 0}, "capacity is 0"),
        ({"capacity": 4, "num_neighbors": 5}, "capacity is 4, and num_neighbors 5"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"discount": 2.0}, "discount is 2.0"),
        ({"backup": "mean"}, "backup is 'mean'"),
    ],
)
def test_what_no_memory_can_have_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        agents.mem_q(**given)
