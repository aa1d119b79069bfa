"""Scored states on the device, keyed by the observation, looked up inside jit.

The prior is frozen, so `log p(a|s)` of a state is computed once and then only looked up. The table
is an open-addressing hash table (linear probing) held in arrays: a lookup hashes the observation,
reads a fixed window of slots and compares the stored observations with the one asked for, so a
collision can never return another state's prior. Rows are appended and never move: a row number
stands for a state in replay and in checkpoints.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.types import ActionPrior

# Slots read by one lookup. With at most a quarter of the slots in use, a longer run of taken slots
# is rare; `insert` doubles the slots until every row lies within its window.
_WINDOW = 8
_MIN_ROWS = 64
# A table has a row to spare for so many that are in use.
_ROWS_PER_SPARE_ROW = 8
# Programs are compiled for each capacity, which takes longer than all else in a small table. So one
# that grows has at least the first number of rows, then four times as many each time, and room for
# the actions of as many. From the last number on memory counts: rows and actions double as needed.
_FIRST_GROWTH, _LAST_LEAP = 1024, 4096
_EMPTY = -1

# Murmur3's finalizer and Weyl constants: they spread small integers over all 32 bits.
_MIX_1, _MIX_2, _WEYL = 0x85EBCA6B, 0xC2B2AE35, 0x9E3779B9


class PriorTable(NamedTuple):
    """Priors by observation. Make one with `empty`, add to it with `insert`.

    Attributes:
      slots: i32[S], the row that each hash slot points to, or -1; S is a power of two.
      observations: [N, *O], the observation of each row (N is the capacity, a power of two).
        Floats are compared as numbers are: -0.0 is 0.0, and NaN is refused.
      log_probs: f32[N, A], log p(a|s) of each row.
      others: f32[N, J, A], those of further priors; None where there are none.
      features: f32[F, D], of the actions that there are: where a state can have many and has few,
        most slots are empty (F is a capacity, too).
      place: i32[N, A], where in `features` those of an action are, or -1 where no action is.
      size: i32[], the number of rows in use.
      num_actions: i32[], the number of features in use.
    """

    slots: jax.Array
    observations: jax.Array
    log_probs: jax.Array
    others: jax.Array | None
    features: jax.Array
    place: jax.Array
    size: jax.Array
    num_actions: jax.Array


def empty(
    observation: np.ndarray, num_actions: int, num_features: int, num_others: int = 0
) -> PriorTable:
    """A table without rows.

    Args:
      observation: [*O], any observation; its shape and dtype are those of the keys.
      num_actions: A, action slots per state.
      num_features: D, features per (state, action).
      num_others: J, further priors of each state.
    """
    observation = np.asarray(observation)
    others = jnp.full((_MIN_ROWS, num_others, num_actions), -jnp.inf, jnp.float32)
    return PriorTable(
        slots=jnp.full(4 * _MIN_ROWS, _EMPTY, jnp.int32),
        observations=jnp.zeros((_MIN_ROWS, *observation.shape), observation.dtype),
        log_probs=jnp.full((_MIN_ROWS, num_actions), -jnp.inf, jnp.float32),
        others=others if num_others else None,
        features=jnp.zeros((_MIN_ROWS, num_features), jnp.float32),
        place=jnp.full((_MIN_ROWS, num_actions), _EMPTY, jnp.int32),
        size=jnp.zeros((), jnp.int32),
        num_actions=jnp.zeros((), jnp.int32),
    )


def insert(table: PriorTable, observations: np.ndarray, prior: ActionPrior) -> PriorTable:
    """Appends rows (host side), in time that depends on their number alone.

    Args:
      table: the table to extend. It is used up: its arrays are donated to the one returned.
      observations: [M, *O], states that the table does not hold yet, each once.
      prior: their priors: `log_probs` f32[M, A], `features` f32[M, A, D], and `others` f32[M, J, A]
        where the table has them. Features are kept where they are not zero.

    Returns:
      A table with the same rows first, then the new ones in the order given. Capacities grow by
      leaps, so that a growing table has few different shapes.

    Raises:
      ValueError: an observation comes twice or is in the table already, or has a NaN.
    """
    observations = np.asarray(observations)
    if len(observations) == 0:
        return table
    _check_comparable(observations)
    known = find_rows(table, observations) >= 0
    repeated = len(observations) - len(without_duplicates(observations[~known]))
    if repeated:
        raise ValueError(
            f"{repeated} of the {len(observations)} observations come twice or "
            "are in the table already; insert each state once"
        )
    size = int(table.size)
    features = np.asarray(prior.features)
    is_kept = np.any(features != 0, axis=-1)
    used = int(table.num_actions)
    place = np.where(is_kept, used + np.cumsum(is_kept).reshape(is_kept.shape) - 1, _EMPTY)
    num_actions = used + int(is_kept.sum())
    capacity, room = _capacities(table, size, size + len(observations), num_actions)
    slots = _assign_slots(
        np.asarray(table.slots), table.observations, size, observations, 4 * capacity
    )
    kept, of_actions = _grow(table, capacity, room)
    rows = np.arange(size, size + len(observations))
    kept = write_rows(kept, rows, (observations, prior.log_probs, prior.others, place))
    if num_actions > used:
        of_actions = write_rows(of_actions, np.arange(used, num_actions), features[is_kept])
    all_observations, log_probs, others, place = kept
    return PriorTable(
        slots=jnp.asarray(slots),
        observations=all_observations,
        log_probs=log_probs,
        others=others,
        features=of_actions,
        place=place,
        size=jnp.asarray(size + len(is_kept), jnp.int32),
        num_actions=jnp.asarray(num_actions, jnp.int32),
    )


def write_rows(leaves: Any, place: np.ndarray, new: Any) -> Any:
    """Writes rows into arrays on the device (host side), in time that depends on their number.

    Args:
      leaves: a pytree of arrays [N, ...]. They are used up: donated to those returned.
      place: i32[M], the rows to write, each once.
      new: the same pytree of arrays [M, ...].

    Returns:
      The arrays [N, ...], with the rows `place` as in `new`.
    """
    capacity = jax.tree.leaves(leaves)[0].shape[0]
    # Rows of padding lie beyond the capacity, and are dropped.
    rows = _padded(np.asarray(place, np.int32), capacity)
    padded = jax.tree.map(lambda leaf, old: _padded(np.asarray(leaf, old.dtype), 0), new, leaves)
    return _write(leaves, rows, padded)


def find(table: PriorTable, observation: jax.Array) -> jax.Array:
    """The row of an observation, or -1 where the table does not hold it.

    Args:
      table: the table.
      observation: [*O], one observation (vmap for more).

    Returns:
      i32[].
    """
    return _find(table.slots, table.observations, observation)


def find_rows(table: PriorTable, observations: np.ndarray) -> np.ndarray:
    """The rows of many observations [M, *O], from the host: i32[M], -1 for those not held."""
    rows = _find_all(table.slots, table.observations, _padded(np.asarray(observations), 0))
    return np.asarray(rows)[: len(observations)]


def lookup(table: PriorTable, row: jax.Array) -> ActionPrior:
    """The prior of one row: `log_probs` f32[A], `features` f32[A, D]."""
    place = table.place[row]
    features = jnp.where(place[:, None] >= 0, table.features[place], 0.0)
    others = None if table.others is None else table.others[row]
    return ActionPrior(table.log_probs[row], features, others)


def rows(table: PriorTable) -> ActionPrior:
    """The priors of all rows in use (host side): `log_probs` f32[size, A], and so on."""
    return jax.vmap(lookup, in_axes=(None, 0))(table, jnp.arange(int(table.size)))


def without_duplicates(observations: np.ndarray) -> np.ndarray:
    """The distinct observations [N, *O], in the order of their first appearance (host side)."""
    if len(observations) == 0:
        return observations
    flat = _without_negative_zero(_flat(observations), np)
    keys = np.ascontiguousarray(flat).view(np.dtype((np.void, flat[0].nbytes))).ravel()
    _, first = np.unique(keys, return_index=True)
    return observations[np.sort(first)]


def _check_comparable(observations: np.ndarray) -> None:
    bad = np.isnan(_flat(observations)).any(axis=1)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of the {len(observations)} observations have NaN, which equals nothing, "
            f"so they would never be found; the first is observation {bad.argmax()}. Mend the "
            "environment, or write what is not there as a number"
        )


def _capacities(table: PriorTable, size: int, num_rows: int, num_actions: int) -> tuple[int, int]:
    """The capacities, of rows and of actions, of a table that will hold so many of each.

    Args:
      table: as it is.
      size: rows that it holds now.
      num_rows: rows that it will hold.
      num_actions: actions that it will hold.
    """
    rows, actions = len(table.observations), len(table.features)
    grown = max(rows, _with_room(num_rows))
    if size == 0 or grown > _LAST_LEAP:
        return grown, max(actions, _with_room(num_actions))
    if grown == rows:
        return rows, max(actions, _capacity_for(num_actions))
    grown = max(grown, min(max(_FIRST_GROWTH, 4 * rows), _LAST_LEAP))
    return grown, max(actions, _capacity_for(num_actions * grown // num_rows))


def _with_room(count: int) -> int:
    """A capacity for so many, with room for more: states rarely come alone."""
    return _capacity_for(count + count // _ROWS_PER_SPARE_ROW)


def _grow(table: PriorTable, num_rows: int, num_actions: int) -> tuple[Any, jax.Array]:
    """What is kept of rows, and of actions, with room for more of them."""

    def grow(leaf: jax.Array, capacity: int, filler: float) -> jax.Array:
        if capacity == len(leaf):
            return leaf
        more = jnp.full((capacity - len(leaf), *leaf.shape[1:]), filler, leaf.dtype)
        return jnp.concatenate([leaf, more])

    of_rows = (
        grow(table.observations, num_rows, 0),
        grow(table.log_probs, num_rows, -np.inf),
        None if table.others is None else grow(table.others, num_rows, -np.inf),
        grow(table.place, num_rows, _EMPTY),
    )
    return of_rows, grow(table.features, num_actions, 0)


@functools.partial(jax.jit, donate_argnums=0)
def _write(leaves: Any, rows: jax.Array, new: Any) -> Any:
    return jax.tree.map(lambda leaf, values: leaf.at[rows].set(values, mode="drop"), leaves, new)


@jax.jit
def _find_all(slots: jax.Array, observations: jax.Array, wanted: jax.Array) -> jax.Array:
    return jax.vmap(_find, in_axes=(None, None, 0))(slots, observations, wanted)


def _find(slots: jax.Array, observations: jax.Array, observation: jax.Array) -> jax.Array:
    num_slots = slots.shape[0]
    first = _hash(observation[None], jnp)[0] % jnp.uint32(num_slots)
    window = (first + jnp.arange(_WINDOW, dtype=jnp.uint32)) % jnp.uint32(num_slots)
    rows = slots[window]
    same = (observations[rows] == observation).reshape(_WINDOW, -1).all(axis=1)
    return jnp.max(jnp.where((rows >= 0) & same, rows, _EMPTY))


def _padded(array: np.ndarray, filler: float) -> np.ndarray:
    """Filled up to a power of two of entries, so that few different shapes are compiled."""
    padding = _capacity_for(len(array)) - len(array)
    return np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1), constant_values=filler)


def _capacity_for(count: int) -> int:
    """The least capacity, a power of two, for so many rows."""
    return max(_MIN_ROWS, 1 << (count - 1).bit_length())


def _hash(observations: Any, xp: Any) -> Any:
    """Hashes uint32[M] of [M, *O]; `xp` is numpy or jax.numpy, with the same result."""
    words = xp.asarray(observations)
    words = _without_negative_zero(_flat(words), xp)
    words = words if words.dtype.itemsize == 4 else words.astype(xp.int32)
    words = words.view(xp.uint32)
    # Each word is keyed by its place and mixed on its own, so that the sum can be vectorized.
    places = xp.arange(1, words.shape[1] + 1, dtype=xp.uint32) * xp.uint32(_WEYL)
    return _mix(_mix(words + places, xp).sum(axis=1, dtype=xp.uint32), xp)


def _flat(observations: Any) -> Any:
    """[M, *O] as [M, words]."""
    return observations.reshape(observations.shape[0], math.prod(observations.shape[1:]))


def _without_negative_zero(observations: Any, xp: Any) -> Any:
    """0.0 for -0.0, which equals it and has other bits."""
    if not jnp.issubdtype(observations.dtype, jnp.floating):
        return observations
    return xp.where(observations == 0, xp.zeros((), observations.dtype), observations)


def _mix(x: Any, xp: Any) -> Any:
    x = (x ^ (x >> xp.uint32(16))) * xp.uint32(_MIX_1)
    x = (x ^ (x >> xp.uint32(13))) * xp.uint32(_MIX_2)
    return x ^ (x >> xp.uint32(16))


def _assign_slots(
    slots: np.ndarray, held: jax.Array, size: int, new: np.ndarray, min_slots: int
) -> np.ndarray:
    """Slots with the new keys in them: linear probing, each key within its window.

    Where there are too few, they double, and all keys, of which `held` has the first `size`, are
    placed again.
    """
    hashes = _hash(new, np)
    if len(slots) >= min_slots:
        placed = _place(slots, hashes, size)
        if placed is not None:
            return placed
        min_slots = 2 * len(slots)
    hashes = np.concatenate([_hash(np.asarray(held)[:size], np), hashes])
    while True:
        placed = _place(np.full(min_slots, _EMPTY, np.int32), hashes, 0)
        if placed is not None:
            return placed
        min_slots *= 2


def _place(slots: np.ndarray, hashes: np.ndarray, first_row: int) -> np.ndarray | None:
    """Puts keys, numbered from `first_row`, into free slots; None if one finds none in reach."""
    slots = slots.copy()
    waiting = np.arange(len(hashes))
    for step in range(_WINDOW):
        wanted = (hashes[waiting] + np.uint32(step)) % np.uint32(len(slots))
        free = slots[wanted] == _EMPTY
        # Of several keys that want the same free slot, one is put there.
        slots[wanted[free]] = first_row + waiting[free]
        waiting = waiting[slots[wanted] != first_row + waiting]
        if len(waiting) == 0:
            return slots
    return None
