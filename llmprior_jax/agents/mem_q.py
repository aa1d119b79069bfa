"""Mem-Q: Q of a pair (state, action) is what similar remembered pairs were worth.

There is no network. What was done is remembered, with its value; Q of any pair is the mean over the
nearest remembered ones, weighed by how near they are. So one visit is enough to know what a pair is
worth, and pairs like it profit at once. The idea is that of Mem-Q (Yan et al., 2025, "Memory-Driven
Self-Improvement for Decision Making with Large Language Models", arXiv 2509.26340), after Neural
Episodic Control (Pritzel et al., 2017, arXiv 1703.01988), whose kernel is used here. Unlike theirs,
values are not the returns of episodes, but Bellman targets of single transitions, in which the next
state's value is that of the memory itself: they serve with any transitions, of whatever policy,
online and offline.

    d(x, y) = |x - y|^2 / D
    Q(x)    = sum_i w_i v_i / sum_i w_i,   w_i = 1 / (d(x, x_i) + delta),   over the k nearest x_i
    v_i     = r + g V(s'),   V = E_pi[Q] under the posterior, when the transition was last replayed

The embedding x of a pair is its features (`ActionPrior.features`), whitened by whoever made them.

Forgetting: a pair that is seen again is written over, and counts as new. When the memory is full,
the pairs go that were not seen for the longest time.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax import bellman, posterior, ranges
from llmprior_jax.agents import temperature
from llmprior_jax.agents.agent import Agent, Metrics, Policy, Transitions
from llmprior_jax.agents.q_learning import check_target
from llmprior_jax.agents.slots import of_actions
from llmprior_jax.types import ActionPrior


class Memory(NamedTuple):
    """What an agent remembers: C pairs.

    Attributes:
      embedding: f32[C, D].
      value: f32[C].
      seen: i32[C], the update in which a pair was last seen, counted from 1; 0 where none is.
      updates: i32[], how many there were.
    """

    embedding: jax.Array
    value: jax.Array
    seen: jax.Array
    updates: jax.Array


class MemQState(NamedTuple):
    """The state of an agent that remembers.

    Attributes:
      memory: the pairs.
      temperature: of alpha, see `temperature.Temperature`.
    """

    memory: Memory
    temperature: Any


def empty(capacity: int, num_features: int) -> Memory:
    """A memory without pairs."""
    return Memory(
        embedding=jnp.zeros((capacity, num_features)),
        value=jnp.zeros(capacity),
        seen=jnp.zeros(capacity, jnp.int32),
        updates=jnp.zeros((), jnp.int32),
    )


def recall(memory: Memory, embedding: jax.Array, num_neighbors: int, delta: float) -> jax.Array:
    """Q f32[...] of pairs f32[..., D]; 0 while nothing is remembered.

    Examples:
      >>> from llmprior_jax.agents.mem_q import empty, recall, remember
      >>> pairs = jnp.array([[0.0], [2.0]])
      >>> memory = remember(empty(4, 1), pairs, jnp.array([1.0, 5.0]), jnp.ones(2))
      >>> q = recall(memory, jnp.array([1.0]), num_neighbors=2, delta=0.1)  # half way between
      >>> print(f"{q:.2f}")
      3.00
    """
    size = embedding.shape[-1]
    products = embedding @ memory.embedding.T
    squares = jnp.sum(embedding**2, -1)[..., None] + jnp.sum(memory.embedding**2, -1)
    distance = jnp.maximum(squares - 2 * products, 0.0) / size
    # Places without a pair are infinitely far, and weigh nothing.
    near, place = jax.lax.top_k(jnp.where(memory.seen > 0, -distance, -jnp.inf), num_neighbors)
    weight = 1.0 / (delta - near)
    total = jnp.sum(weight, -1)
    return jnp.sum(weight * memory.value[place], -1) / jnp.where(total > 0, total, 1.0)


def remember(memory: Memory, pairs: jax.Array, values: jax.Array, weight: jax.Array) -> Memory:
    """Writes pairs f32[B, D] with values f32[B] into the memory, but for those of weight 0, f32[B].

    Of a pair that comes twice in them, the first is written. Of new pairs beyond the capacity, so
    many are written as there is room for.
    """
    capacity = memory.value.shape[0]
    is_first = ~jnp.any(
        jnp.tril((pairs[:, None] == pairs[None]).all(-1) & (weight != 0)[None], k=-1), axis=1
    )
    is_new = is_first & (weight != 0)
    same = (pairs[:, None] == memory.embedding[None]).all(-1) & (memory.seen > 0)
    is_held = same.any(-1)
    # A place of `capacity` is none: nothing is written there.
    held_place = jnp.where(is_new & is_held, jnp.argmax(same, -1), capacity)
    # What is seen again just now is not old, and makes no room for others.
    updates = memory.updates + 1
    seen = memory.seen.at[held_place].set(updates, mode="drop")
    _, oldest = jax.lax.top_k(-seen, min(pairs.shape[0], capacity))
    number = jnp.cumsum(is_new & ~is_held) - 1
    has_room = is_new & ~is_held & (number < oldest.shape[0]) & (seen[oldest[number]] < updates)
    place = jnp.where(has_room, oldest[number], held_place)
    return Memory(
        embedding=memory.embedding.at[place].set(pairs, mode="drop"),
        value=memory.value.at[place].set(values, mode="drop"),
        seen=seen.at[place].set(updates, mode="drop"),
        updates=updates,
    )


def mem_q(
    *,
    alpha: float | temperature.Temperature = 0.03,
    backup: bellman.Backup = "posterior",
    discount: float = 0.95,
    num_neighbors: int = 8,
    delta: float = 0.01,
    capacity: int = 2_000,
) -> Agent:
    """Mem-Q as pure functions: acts by the posterior of the prior and of the memory's Q.

    Examples:
      >>> agent = agents.mem_q(alpha=0.1, num_neighbors=1)
      >>> prior = ActionPrior(jnp.log(jnp.full((1, 2), 0.5)), jnp.eye(2)[None])
      >>> batch = agents.Transitions(
      ...     prior, jnp.array([0]), jnp.ones(1), jnp.array([True]), prior, jnp.ones(1)
      ... )
      >>> seen = jax.tree.map(lambda leaf: leaf[0], prior)
      >>> state = agent.init(jax.random.key(0), seen)
      >>> state, metrics = agent.update(state, jax.random.key(1), batch)
      >>> print(agent.policy(state, seen).q_values[0])  # after a single visit
      1.0

    Args:
      alpha: temperature of the posterior, in units of reward; a number, or a
        `temperature.Temperature` that changes it.
      backup: value of the next state, "posterior", "soft" or "max" (`posterior_bellman_target`).
      discount: g, per decision.
      num_neighbors: k, the remembered pairs that Q is a mean over.
      delta: added to distances, which for unlike pairs are about 2; a smaller one trusts more in
        the nearest pair alone.
      capacity: C, the pairs that are remembered at most, at least k.

    Returns:
      An `Agent`; its metrics are `loss`, half the squared error of Q before each write, `q`, the
      mean value of the actions in the batch, and `remembered`, the pairs in the memory.

    Raises:
      ValueError: a parameter is out of its range.
    """
    check_target(backup, discount)
    ranges.WIDTH.check("num_neighbors", num_neighbors)
    ranges.POSITIVE.check("delta", delta)
    ranges.SIZE.check("capacity", capacity)
    if capacity < num_neighbors:
        raise ValueError(
            f"capacity is {capacity}, and num_neighbors {num_neighbors}: remember at least as many "
            "pairs as are to be found"
        )
    alphas = temperature.as_temperature(alpha)

    def q_of(memory: Memory, features: jax.Array) -> jax.Array:
        return recall(memory, features, num_neighbors, delta)

    def init(key: jax.Array, prior: ActionPrior) -> MemQState:
        del key
        return MemQState(empty(capacity, prior.features.shape[-1]), alphas.init())

    def policy(state: MemQState, prior: ActionPrior) -> Policy:
        q_values = q_of(state.memory, prior.features)
        alpha = alphas.value(state.temperature)
        return Policy(posterior.posterior_log_probs(prior.log_probs, q_values, alpha), q_values)

    def act(state: MemQState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        return jax.random.categorical(key, policy(state, prior).log_probs).astype(jnp.int32)

    def update(state: MemQState, key: jax.Array, batch: Transitions) -> tuple[MemQState, Metrics]:
        del key
        alpha = alphas.value(state.temperature)
        next_q = of_actions(q_of, state.memory, batch.next_prior)
        targets = jax.vmap(
            lambda reward, terminated, q_values, log_probs: bellman.posterior_bellman_target(
                reward, discount * (1.0 - terminated), q_values, log_probs, alpha, backup
            )
        )(batch.reward, batch.terminated, next_q, batch.next_prior.log_probs)
        pairs = jnp.take_along_axis(batch.prior.features, batch.action[:, None, None], axis=1)[:, 0]
        q_taken = q_of(state.memory, pairs)
        memory = remember(state.memory, pairs, targets, batch.weight)
        weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)
        temperature_state, metrics = alphas.update(
            state.temperature, batch.next_prior.log_probs, next_q, weight
        )
        metrics |= {
            "loss": jnp.sum(weight * (targets - q_taken) ** 2) / 2,
            "q": jnp.sum(weight * q_taken),
            "remembered": jnp.sum(memory.seen > 0).astype(jnp.float32),
        }
        return MemQState(memory, temperature_state), metrics

    return Agent(init, policy, act, update, alpha=lambda state: alphas.value(state.temperature))
