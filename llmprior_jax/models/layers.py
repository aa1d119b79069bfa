"""The layers that all our transformers are made of."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

# One value for all models, because it is part of a graph definition: graph definitions of equal
# models must be equal, or each would be compiled anew.
INIT = nnx.initializers.normal(0.02)

# Queries whose scores are held at once where later keys are hidden: few enough that little is
# computed for keys that are, enough to keep matrix units busy.
_QUERIES_AT_ONCE = 256


def _exact_gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


# By the names that Hugging Face configs have for them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _exact_gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Maker(NamedTuple):
    """Makes the matrices of one model.

    Attributes:
      dtype: of parameters and activations.
      init: makes a matrix out of a key, a shape and a dtype.
      rngs: source of the initial parameters.
    """

    dtype: Any
    init: Initializer
    rngs: nnx.Rngs

    def table(self, rows: int, columns: int) -> nnx.Param[Any]:
        """A matrix whose rows are looked up."""
        return nnx.Param(self.init(self.rngs.params(), (rows, columns), self.dtype))

    def linear(self, fan_in: int, fan_out: int, bias: bool = False) -> nnx.Linear:
        """A linear layer."""
        # Accelerators multiply f32 matrices in fewer bits unless told otherwise. Whoever asks for
        # f32 wants its exactness; bf16 is there for speed.
        return nnx.Linear(
            fan_in,
            fan_out,
            use_bias=bias,
            dtype=self.dtype,
            param_dtype=self.dtype,
            precision=jax.lax.Precision.HIGHEST if self.dtype == jnp.float32 else None,
            kernel_init=self.init,
            rngs=self.rngs,
        )


def embed(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of `table` [V, D] for `tokens` i32[...]: [..., D]."""
    # An id outside the vocabulary gives NaN rather than the embedding of another token.
    return jnp.take(table, tokens, axis=0, mode="fill", fill_value=jnp.nan)


class RMSNorm(nnx.Module):
    """Root-mean-square norm, computed in f32 (Zhang and Sennrich, 2019, arXiv 1910.07467).

    `offset` is added to the weight, which a checkpoint may store as the difference from 1.
    """

    def __init__(self, features: int, eps: float, dtype: Any, offset: float = 0.0):
        self.scale = nnx.Param(jnp.full((features,), 1.0 - offset, dtype))
        self.offset = offset
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + self.eps)
        return (wide * (self.offset + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class MLP(nnx.Module):
    """Feed-forward layer, gated (Shazeer, 2020, arXiv 2002.05202) or not."""

    def __init__(
        self, make: Maker, width: int, wide: int, act: str, bias: bool = False, gated: bool = True
    ):
        self.act = ACTIVATIONS[act]
        self.gated = gated
        if gated:
            self.gate_proj = make.linear(width, wide, bias)
        self.up_proj = make.linear(width, wide, bias)
        self.down_proj = make.linear(wide, width, bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        up = self.up_proj(x)
        return self.down_proj(self.act(self.gate_proj(x)) * up if self.gated else self.act(up))


class Prefix(NamedTuple):
    """Keys and values that the queries of all rows may attend to, beside those of their own row.

    Attributes:
      keys: [1, P, K, d].
      values: [1, P, K, d].
      mask: bool[B, L, P], whether a query may attend to a key; None is that each may to all.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array | None


def _rows(of_queries: jax.Array, of_keys: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Queries [B, K, G, n, x] and keys [B or 1, K, S, y] as they are multiplied, by rows of keys.

    Rows of queries that have the same keys are one: a single product, and no copies of the keys.
    """
    B, K, G, n, x = of_queries.shape
    if len(of_keys) == B:
        return of_queries.reshape(B, K, G * n, x), of_keys
    return of_queries.swapaxes(0, 1).reshape(1, K, B * G * n, x), of_keys


def _as_rows(products: jax.Array, of_queries: jax.Array) -> jax.Array:
    """What `_rows` were multiplied to, [B, K, G, n, y] again."""
    B, K, G, n, _ = of_queries.shape
    if len(products) == B:
        return products.reshape(B, K, G, n, -1)
    return products.reshape(K, B, G, n, -1).swapaxes(0, 1)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array,
    scale: float = 1.0,
    bias: jax.Array | None = None,
    cap: float | None = None,
    first: int | None = None,
    prefix: Prefix | None = None,
) -> jax.Array:
    """Grouped-query attention under an arbitrary mask, with the softmax in f32.

    Ainslie et al., 2023, arXiv 2305.13245; with as many heads of keys as of queries it is that of
    Vaswani et al., 2017, arXiv 1706.03762.

    Args:
      q: [B, L, H, d], queries.
      k: [B, S, K, d], keys; K divides H, and neighboring heads of queries share one of keys.
      v: [B, S, K, d], values.
      mask: bool, broadcast to [B, L, S]: whether query i may attend to key j. A query that may
        attend to nothing gets a meaningless average instead of NaN, in values and in gradients.
      scale: factor on the scores.
      bias: f32, broadcast to [B, H, L, S], is added to the scaled scores.
      cap: scores are squashed smoothly into (-cap, cap); None leaves them.
      first: says that the mask hides from query i all keys after `first + i`, so that most of them
        need not be looked at; None says nothing.
      prefix: further keys and values, the same ones for all rows; without `bias`.

    Returns:
      [B, L, H * d].
    """
    (B, L, H, d), (S, K) = q.shape, k.shape[1:3]
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    mask = jnp.broadcast_to(mask, (B, L, S))
    bias = None if bias is None else jnp.broadcast_to(bias, (B, H, L, S))
    # Heads first, then a head's queries times its keys: no product needs to be transposed.
    q = q.reshape(B, L, K, H // K, d).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)

    def product(spec: str, left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.einsum(
            spec, left, right, precision=precision, preferred_element_type=jnp.float32
        )

    def look(
        here: jax.Array, keys: jax.Array, seen: jax.Array | None, bias: jax.Array | None
    ) -> jax.Array:
        """Scores [B, K, H / K, n, S] of queries [B, K, H / K, n, d] and keys [B or 1, K, S, d]."""
        rows, keys = _rows(here, keys)
        scores = product("bknd,bksd->bkns", rows, keys)
        scores = _as_rows(softcap(scores * scale, cap), here)
        if bias is not None:
            scores += bias.reshape(scores.shape)
        # A finite floor, so that there is no NaN where all is hidden.
        floor = jnp.finfo(jnp.float32).min
        return scores if seen is None else jnp.where(seen[:, None, None], scores, floor)

    def gather(weights: jax.Array, values: jax.Array) -> jax.Array:
        """Values [B or 1, K, S, d], weighed by [B, K, H / K, n, S]: [B, K, H / K, n, d]."""
        rows, values = _rows(weights, values)
        return _as_rows(product("bkns,bksd->bknd", rows.astype(values.dtype), values), weights)

    def block(begin: int, end: int) -> jax.Array:
        """What the queries from `begin` to `end` attend to, [B, K, H / K, end - begin, d]."""
        seen = S if first is None else min(S, first + end)
        here = q[:, :, :, begin:end]
        of_pairs = None if bias is None else bias[:, :, begin:end, :seen]
        scores = [look(here, k[:, :, :seen], mask[:, begin:end, :seen], of_pairs)]
        values = [v[:, :, :seen]]
        if prefix is not None:
            is_seen = None if prefix.mask is None else prefix.mask[:, begin:end]
            scores.append(look(here, prefix.keys.transpose(0, 2, 1, 3), is_seen, None))
            values.append(prefix.values.transpose(0, 2, 1, 3))
        # The highest score cancels out, in gradients too.
        tops = [jnp.max(each, axis=-1, keepdims=True) for each in scores]
        highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
        weights = [jnp.exp(each - highest) for each in scores]
        # Dividing what is attended to, instead of every weight, is a pass less over the weights.
        totals = [jnp.sum(each, axis=-1, keepdims=True) for each in weights]
        gathered = functools.reduce(jnp.add, map(gather, weights, values))
        return gathered / functools.reduce(jnp.add, totals)

    step = L if first is None else _QUERIES_AT_ONCE
    out = [block(begin, min(begin + step, L)) for begin in range(0, L, step)]
    attended = jnp.concatenate(out, axis=3).astype(v.dtype)
    return attended.transpose(0, 3, 1, 2, 4).reshape(B, L, H * d)


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """Squashes `x` smoothly into (-cap, cap); None leaves it as it is."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def project(hidden: jax.Array, weight: jax.Array, tied: bool) -> jax.Array:
    """Hidden states [..., D] onto the vocabulary, f32[..., V].

    Args:
      hidden: what is projected.
      weight: the embedding [V, D] if `tied`, a kernel [D, V] if not.
      tied: which of the two it is.
    """
    # The vocabulary first: a CPU multiplies a tall matrix by a narrow one faster than the other way
    # round (by a third at 32 positions of Qwen2.5's), for callers who reduce over it so.
    logits = jax.lax.dot_general(
        weight,
        hidden.reshape(-1, hidden.shape[-1]),
        (((1 if tied else 0,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if weight.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return logits.T.reshape(*hidden.shape[:-1], -1)
