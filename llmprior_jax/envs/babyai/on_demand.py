"""Making something for some environments of a batch, at the cost of these alone.

Under `vmap`, what one environment needs is computed for all. A new level is costly to draw, is
needed once in an episode, and a draw may fail. So here the environments of a batch that need one
queue up before a few counters, at each of which one attempt after the other is made until one is
valid; then the next is served. What an environment is given depends on its random key alone, not on
the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import custom_batching

Attempt = Callable[[jax.Array, jax.Array], tuple[Any, jax.Array]]
"""`(key, number i32[]) -> (what is made, valid bool[])`."""

_SHARE = 256  # environments of a batch for each counter


class _Queue(NamedTuple):
    """B environments before N counters.

    Attributes:
      made: what each environment has, [B, ...].
      order: i32[B], the environments that queue, first come first served, and B after them.
      served: i32[], how many of them are or were at a counter.
      at: i32[N], the environment at each counter, B where there is none.
      number: i32[N], the attempts made for it.
    """

    made: Any
    order: jax.Array
    served: jax.Array
    at: jax.Array
    number: jax.Array


def on_demand(attempt: Attempt) -> Callable[[jax.Array, jax.Array, Any], Any]:
    """Makes something where it is wanted.

    Args:
      attempt: makes it, or fails to, from a random key and the number of the attempt. It must not
        use arrays of an enclosing transformation.

    Returns:
      `(key, wanted bool[], otherwise) -> made`: where it is wanted, the first valid attempt of the
      key, and elsewhere `otherwise`, of the same structure.
    """

    @custom_batching.custom_vmap
    def make_many(keys: jax.Array, wanted: jax.Array, otherwise: Any) -> Any:
        """The same for a batch [B]."""
        batch = wanted.shape[0]
        counters = -(-batch // _SHARE)

        def serve(queue: _Queue) -> _Queue:
            new, valid = jax.vmap(attempt)(keys.at[queue.at].get(mode="clip"), queue.number)
            made = _set(queue.made, jnp.where(valid, queue.at, batch), new)
            # Where somebody was served, and where nobody was, whoever is next comes.
            free = valid | (queue.at == batch)
            place = queue.served + jnp.cumsum(free) - 1
            nearest = queue.order.at[place].get(mode="fill", fill_value=batch)
            return queue._replace(
                made=made,
                served=queue.served + free.sum(),
                at=jnp.where(free, nearest, queue.at),
                number=jnp.where(free, 0, queue.number + 1),
            )

        (order,) = jnp.nonzero(wanted, size=batch, fill_value=batch)
        start = _Queue(
            made=otherwise,
            order=order,
            served=jnp.int32(counters),
            at=order[:counters],
            number=jnp.zeros(counters, jnp.int32),
        )
        return jax.lax.while_loop(lambda queue: (queue.at < batch).any(), serve, start).made

    @make_many.def_vmap
    def _(size: int, batched: Any, keys: jax.Array, wanted: jax.Array, otherwise: Any) -> Any:
        """A batch of batches is one batch."""
        batches = _batch(size, batched, (keys, wanted, otherwise))
        made = make_many(*jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batches))
        made = jax.tree.map(lambda leaf: leaf.reshape(size, -1, *leaf.shape[1:]), made)
        return made, jax.tree.map(lambda _: True, made)

    @custom_batching.custom_vmap
    def make(key: jax.Array, wanted: jax.Array, otherwise: Any) -> Any:
        made = make_many(*jax.tree.map(lambda leaf: leaf[None], (key, wanted, otherwise)))
        return jax.tree.map(lambda leaf: leaf[0], made)

    @make.def_vmap
    def _(size: int, batched: Any, key: jax.Array, wanted: jax.Array, otherwise: Any) -> Any:
        made = make_many(*_batch(size, batched, (key, wanted, otherwise)))
        return made, jax.tree.map(lambda _: True, made)

    return make


def _set(old: Any, index: jax.Array, new: Any) -> Any:
    """Rows with those of some indices replaced; an index beyond the last replaces none."""
    return jax.tree.map(lambda rows, row: rows.at[index].set(row, mode="drop"), old, new)


def _batch(size: int, batched: Any, values: Any) -> Any:
    """Values with a leading axis of that size, those that had none repeated."""

    def repeat(is_batched: bool, leaf: jax.Array) -> jax.Array:
        return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

    return jax.tree.map(repeat, tuple(batched), values)
