"""Scored states on the device, keyed by the observation, looked up inside jit.

The prior is frozen, so `log p(a|s)` of a state is computed once and then only looked up. The table
is an open-addressing hash table (linear probing) held in arrays: a lookup hashes the observation,
reads a fixed window of slots and compares the stored observations with the one asked for, so a
collision can never return another state's prior. Rows are appended and never move: a row number
stands for a state in replay and in checkpoints.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.types import ActionPrior

# Slots read by one lookup. With at most a quarter of the slots in use, a longer run of taken slots
# is rare; `insert` doubles the slots until every row lies within its window.
_WINDOW = 8
_MIN_ROWS = 64
_EMPTY = -1

# Murmur3's finaliser and Weyl constants: they spread small integers over all 32 bits.
_MIX_1, _MIX_2, _WEYL = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9


class PriorTable(NamedTuple):
    """Priors by observation. Make one with `empty`, add to it with `insert`.

    Attributes:
      slots: i32[S], the row that each hash slot points to, or -1; S is a power of two.
      observations: [N, *O], the observation of each row (N is the capacity, a power of two).
      prior: the prior of each row: `log_probs` f32[N, A], `features` f32[N, A, D].
      size: i32[], the number of rows in use.
    """

    slots: jax.Array
    observations: jax.Array
    prior: ActionPrior
    size: jax.Array


def empty(observation: np.ndarray, num_actions: int, num_features: int) -> PriorTable:
    """A table without rows.

    Args:
      observation: [*O], any observation; its shape and dtype are those of the keys.
      num_actions: A, action slots per state.
      num_features: D, features per (state, action).
    """
    observation = np.asarray(observation)
    return PriorTable(
        slots=jnp.full(4 * _MIN_ROWS, _EMPTY, jnp.int32),
        observations=jnp.zeros((_MIN_ROWS, *observation.shape), observation.dtype),
        prior=ActionPrior(
            log_probs=jnp.full((_MIN_ROWS, num_actions), -jnp.inf, jnp.float32),
            features=jnp.zeros((_MIN_ROWS, num_actions, num_features), jnp.float32),
        ),
        size=jnp.zeros((), jnp.int32),
    )


def insert(table: PriorTable, observations: np.ndarray, prior: ActionPrior) -> PriorTable:
    """Appends rows (host side).

    Args:
      table: the table to extend; it is not changed.
      observations: [M, *O], states that the table does not hold yet, each once.
      prior: their priors: `log_probs` f32[M, A], `features` f32[M, A, D].

    Returns:
      A table with the same rows first, then the new ones in the order given. Capacities double as
      needed, so that a growing table has few different shapes.

    Raises:
      ValueError: an observation comes twice or is in the table already.
    """
    if len(observations) == 0:
        return table
    size = int(table.size)
    keys = np.concatenate([np.asarray(table.observations)[:size], observations])
    distinct = np.unique(keys.reshape(len(keys), -1), axis=0)
    if len(distinct) != len(keys):
        raise ValueError(
            f"{len(keys) - len(distinct)} of the {len(observations)} observations come twice or "
            "are in the table already; insert each state once"
        )
    capacity = table.observations.shape[0]
    while capacity < len(keys):
        capacity *= 2

    def extend(old: jax.Array, new: jax.Array | np.ndarray, filler: float) -> jax.Array:
        array = np.full((capacity, *old.shape[1:]), filler, old.dtype)
        array[: len(keys)] = np.concatenate([np.asarray(old)[:size], np.asarray(new)])
        return jnp.asarray(array)

    return PriorTable(
        slots=jnp.asarray(_assign_slots(keys, max(table.slots.shape[0], 4 * capacity))),
        observations=extend(table.observations, observations, 0),
        prior=ActionPrior(
            log_probs=extend(table.prior.log_probs, prior.log_probs, -np.inf),
            features=extend(table.prior.features, prior.features, 0),
        ),
        size=jnp.asarray(len(keys), jnp.int32),
    )


def find(table: PriorTable, observation: jax.Array) -> jax.Array:
    """The row of an observation, or -1 where the table does not hold it.

    Args:
      table: the table.
      observation: [*O], one observation (vmap for more).

    Returns:
      i32[].
    """
    num_slots = table.slots.shape[0]
    first = _hash(observation, jnp) % jnp.uint32(num_slots)
    window = (first + jnp.arange(_WINDOW, dtype=jnp.uint32)) % jnp.uint32(num_slots)
    rows = table.slots[window]
    same = (table.observations[rows] == observation).reshape(_WINDOW, -1).all(axis=1)
    return jnp.max(jnp.where((rows >= 0) & same, rows, _EMPTY))


def lookup(table: PriorTable, row: jax.Array) -> ActionPrior:
    """The prior of one row: `log_probs` f32[A], `features` f32[A, D]."""
    return jax.tree.map(lambda leaf: leaf[row], table.prior)


def _hash(observation, xp):
    """A uint32 hash of [*O]; `xp` is numpy or jax.numpy, with the same result."""
    words = xp.asarray(observation).reshape(-1)
    if words.dtype.itemsize == 4:
        words = words.view(xp.uint32)
    else:
        words = words.astype(xp.int32).view(xp.uint32)
    # Each word is keyed by its place and mixed on its own, so that the sum can be vectorised.
    places = xp.arange(1, words.shape[0] + 1, dtype=xp.uint32) * xp.uint32(_WEYL)
    return _mix(_mix(words + places, xp).sum(dtype=xp.uint32), xp)


def _mix(x, xp):
    x = (x ^ (x >> xp.uint32(16))) * xp.uint32(_MIX_1)
    x = (x ^ (x >> xp.uint32(13))) * xp.uint32(_MIX_2)
    return x ^ (x >> xp.uint32(16))


def _assign_slots(keys: np.ndarray, num_slots: int) -> np.ndarray:
    """Linear probing; doubles the slots until every key lies within its window."""
    with np.errstate(over="ignore"):
        hashes = [int(_hash(key, np)) for key in keys]
    while True:
        slots = np.full(num_slots, _EMPTY, np.int32)
        for row, first in enumerate(hashes):
            window = (first + np.arange(_WINDOW)) % num_slots
            free = window[slots[window] == _EMPTY]
            if len(free) == 0:
                break
            slots[free[0]] = row
        else:
            return slots
        num_slots *= 2
