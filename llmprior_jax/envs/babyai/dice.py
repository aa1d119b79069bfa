"""Random decisions, whose random bits are made in large blocks.

Drawing a level takes some dozens of small decisions. A call of `jax.random` for each would take
longer to compile than all the rest of an environment.
"""

import jax
import jax.numpy as jnp
import numpy as np

_BLOCK = 128  # decisions


class Dice:
    """Random decisions, each with 32 random bits of its own.

    Args:
      key: random key.
    """

    def __init__(self, key: jax.Array):
        self._key = key
        self._blocks = 0
        self._bits = jnp.zeros(0, jnp.uint32)

    def roll(self, sides: int, number: int) -> jax.Array:
        """So many numbers in 0 .. sides - 1: i32[number]."""
        return (self._take(number) % sides).astype(jnp.int32)

    def shuffle(self, number: int) -> jax.Array:
        """Ranks that put so many things into a random order, for `first`, too: u32[number].

        The low bits of a rank are the index, so the highest rank says whose it is. XLA finds the
        highest number much faster than where it is. Some 20 bits are left to chance.
        """
        low = _index_bits(number)
        return self._take(number) >> low << low | np.arange(number, dtype=np.uint32)

    def choose(self, candidates: jax.Array) -> jax.Array:
        """The index of one of some candidates bool[N], 0 if there is none: i32[]."""
        return first(self.shuffle(candidates.shape[0]), candidates)

    def choose_by_weight(self, weights: jax.Array) -> jax.Array:
        """An index with a probability in proportion to its weight, of i32[N]: i32[]."""
        ends = jnp.cumsum(weights)
        return jnp.argmax(ends > (self._take(1)[0] % ends[-1].astype(jnp.uint32)).astype(jnp.int32))

    def _take(self, number: int) -> jax.Array:
        if number > self._bits.shape[0]:
            key = jax.random.fold_in(self._key, self._blocks)
            self._bits = jax.random.bits(key, (max(number, _BLOCK),), jnp.uint32)
            self._blocks += 1
        taken, self._bits = self._bits[:number], self._bits[number:]
        return taken


def first(ranks: jax.Array, candidates: jax.Array) -> jax.Array:
    """The index of the candidate, of bool[N], with the highest rank, 0 if there is none: i32[]."""
    highest = jnp.where(candidates, ranks, 0).max()
    return (highest & np.uint32((1 << _index_bits(ranks.shape[0])) - 1)).astype(jnp.int32)


def _index_bits(number: int) -> np.uint32:
    return np.uint32((number - 1).bit_length())
