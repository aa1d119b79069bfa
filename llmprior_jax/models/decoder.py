"""A decoder-only transformer in Flax NNX: the language model behind the prior.

The block is the one that Llama (Touvron et al., 2023, arXiv 2302.13971) and Qwen2 (Yang et al.,
2024, arXiv 2407.10671) share: RMS norm, rotary positions, grouped-query attention, gated MLP.
Families differ in `DecoderConfig` fields only.

There is no causal mask in here: the caller says which token may see which, and where each token
stands. That is what lets the prior pack a prompt and all its candidate actions in one row, and what
lets a sampler write many answers into one cache that begins with their prompt.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer

from llmprior_jax.models.config import FULL, SLIDING, DecoderConfig, RotaryConfig
from llmprior_jax.models.layers import (
    INIT,
    MLP,
    Maker,
    Prefix,
    RMSNorm,
    attend,
    embed,
    project,
    softcap,
)


class KVCache(NamedTuple):
    """Keys and values of tokens that a decoder has read; `Decoder.extend` reads and writes it.

    B rows of C slots. A slot that nothing was written to holds zeros, and a mask must hide it.

    Examples:
      >>> from flax import nnx
      >>> lm = models.load("tiny")
      >>> cache = nnx.merge(lm.graphdef, lm.params).new_cache(rows=1, capacity=8)
      >>> cache.positions.shape, cache.enlarged(16).positions.shape
      ((1, 8), (1, 16))

    Attributes:
      keys: for each layer [B, C, num_key_value_heads, head_dim], rotated.
      values: for each layer [B, C, num_key_value_heads, head_dim].
      positions: i32[B, C], the position of each slot's token in its own text.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    positions: jax.Array

    def enlarged(self, capacity: int) -> "KVCache":
        """The same with empty slots after its own, `capacity` in all."""
        room = capacity - self.positions.shape[1]

        def pad(leaf: jax.Array) -> jax.Array:
            return jnp.pad(leaf, [(0, 0), (0, room)] + [(0, 0)] * (leaf.ndim - 2))

        return jax.tree.map(pad, self)


class Past(NamedTuple):
    """One layer of a cache, and the first slot to write to: [B, C, Hkv, head_dim] twice, i32[]."""

    keys: jax.Array
    values: jax.Array
    start: jax.Array | int

    def written(self, keys: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Its keys and values, with those of new tokens among them."""
        return write(self.keys, keys, self.start), write(self.values, values, self.start)


def write(slots: jax.Array, new: jax.Array, start: jax.Array | int) -> jax.Array:
    """`slots` [B, C, ...] with `new` [B, L, ...] in them from `start` on."""
    return jax.lax.dynamic_update_slice_in_dim(slots, new, start, axis=1)


def inverse_frequencies(rope: RotaryConfig, head_dim: int) -> np.ndarray:
    """Angular frequency of each pair of rotary dimensions, f32[head_dim / 2]."""
    frequencies = rope.rope_theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.rope_type == "linear":
        frequencies = frequencies / rope.factor
    elif rope.rope_type == "divided":
        frequencies = frequencies / np.asarray(rope.divisors)
    elif rope.rope_type == "llama3":
        turns = rope.original_max_position_embeddings * frequencies / (2 * np.pi)
        keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        frequencies = keep * frequencies + (1 - keep) * frequencies / rope.factor
    return frequencies.astype(np.float32)


def rotary_table(
    rope: RotaryConfig, head_dim: int, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines for positions i32[B, L]: two f32[B, L, 1, head_dim / 2]."""
    angles = positions[:, :, None, None] * inverse_frequencies(rope, head_dim)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, rotary: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates `x` [B, L, H, head_dim]; the first half of a head pairs with the second half."""
    cos, sin = rotary
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


class Surroundings(NamedTuple):
    """Where the tokens of a layer stand, and what they may attend to.

    Attributes:
      rotary: their cosines and sines, see `rotary_table`.
      mask: bool[B, L, C], which slots of their own row they may attend to.
      past: those slots, where some were written before.
      prefix: what all rows may attend to beside.
    """

    rotary: tuple[jax.Array, jax.Array]
    mask: jax.Array
    past: Past | None = None
    prefix: Prefix | None = None


def _norm(features: int, config: DecoderConfig, dtype: Any) -> RMSNorm:
    return RMSNorm(features, config.rms_norm_eps, dtype, config.norm_offset)


class Attention(nnx.Module):
    """Grouped-query attention under an arbitrary mask (Ainslie et al., 2023, arXiv 2305.13245)."""

    def __init__(self, config: DecoderConfig, make: Maker):
        self.config = config
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = make.linear(config.hidden_size, queries, config.qkv_bias)
        self.k_proj = make.linear(config.hidden_size, keys, config.qkv_bias)
        self.v_proj = make.linear(config.hidden_size, keys, config.qkv_bias)
        self.o_proj = make.linear(queries, config.hidden_size, config.output_bias)
        if config.qk_norm:
            self.q_norm = _norm(config.head_dim, config, make.dtype)
            self.k_norm = _norm(config.head_dim, config, make.dtype)

    def __call__(
        self, x: jax.Array, around: Surroundings
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what is attended to, and the keys and values of its own row that could be."""
        config = self.config
        heads = (*x.shape[:2], -1, config.head_dim)
        q, k, v = (proj(x).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, around.rotary), rotate(k, around.rotary)
        if around.past is not None:
            k, v = around.past.written(k, v)

        # Slots after a token's own are hidden. Where they begin is known unless it is traced.
        start = 0 if around.past is None else around.past.start
        attended = attend(
            q,
            k,
            v,
            around.mask,
            scale=(config.query_pre_attn_scalar or config.head_dim) ** -0.5,
            cap=config.attn_logit_softcapping,
            first=start if isinstance(start, int) else None,
            prefix=around.prefix,
        )
        return self.o_proj(attended), k, v


class Block(nnx.Module):
    """Attention and MLP, each normed before and added to the residual stream."""

    def __init__(self, config: DecoderConfig, make: Maker):
        D = config.hidden_size
        self.input_norm = _norm(D, config, make.dtype)
        self.attention = Attention(config, make)
        self.mlp_norm = _norm(D, config, make.dtype)
        self.mlp = MLP(make, D, config.intermediate_size, config.hidden_act, config.mlp_bias)
        self.post_norms = config.post_norms
        if config.post_norms:
            self.attention_post_norm = _norm(D, config, make.dtype)
            self.mlp_post_norm = _norm(D, config, make.dtype)

    def __call__(
        self, x: jax.Array, around: Surroundings
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        attended, keys, values = self.attention(self.input_norm(x), around)
        x = x + (self.attention_post_norm(attended) if self.post_norms else attended)
        mapped = self.mlp(self.mlp_norm(x))
        x = x + (self.mlp_post_norm(mapped) if self.post_norms else mapped)
        return x, keys, values


class Decoder(nnx.Module):
    """Maps tokens, positions and a mask to hidden states, and hidden states to logits.

    Examples:
      >>> from flax import nnx
      >>> lm = models.load("tiny")
      >>> decoder = nnx.merge(lm.graphdef, lm.params)
      >>> tokens, positions = jnp.array([[1, 2, 3]]), jnp.arange(3)[None]
      >>> hidden = jax.jit(decoder)(tokens, positions, jnp.tri(3, dtype=bool)[None])
      >>> decoder.logits(hidden).shape == (1, 3, lm.config.vocab_size)
      True

    Attributes:
      config: shape and variant.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        init: Initializer = INIT,
    ):
        """Makes a decoder with random parameters.

        Args:
          config: shape and variant.
          rngs: source of the initial parameters, e.g. `nnx.Rngs(0)`.
          dtype: of parameters and activations. Norms, softmax and logits are f32 always.
          init: makes a matrix out of a key, a shape and a dtype.
        """
        self.config = config
        make = Maker(jnp.dtype(dtype), init, rngs)
        self.embed = make.table(config.vocab_size, config.hidden_size)
        # A plain list, walked by a plain loop. Stacked parameters under `jax.lax.scan` compile
        # about three times faster (24 layers of Qwen2.5-0.5B on 2 CPU cores: 0.5 s instead of 1.4 s
        # per shape), but the scan copies every layer's weights out of the stack in every call
        # (0.2 s more per call), and one checkpoint tensor would no longer be one parameter.
        self.blocks = nnx.data([Block(config, make) for _ in range(config.num_hidden_layers)])
        self.norm = _norm(config.hidden_size, config, make.dtype)
        if not config.tie_word_embeddings:
            self.lm_head = make.linear(config.hidden_size, config.vocab_size)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        head: KVCache | None = None,
    ) -> jax.Array:
        """Runs the decoder.

        Args:
          tokens: i32[B, L], token ids.
          positions: i32[B, L], each token's position in its own text.
          mask: bool[B, L, L]; `mask[b, i, j]` says whether token i may attend to token j. It
            must be `False` wherever j comes after i: these models were trained so. A token that
            may attend to nothing (padding) gets a finite but meaningless hidden state. In sliding
            layers a token sees, of those, the ones whose positions are above its own minus
            `config.sliding_window`.
          head: one row of slots, all in use, that every token may attend to beside those of its
            own row: what all texts begin with, read before. It is not copied for each row.

        Returns:
          Hidden states after the final norm, [B, L, D] in the decoder's dtype.
        """
        return self.extend(tokens, positions, mask, None, 0, head)[0]

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache of `rows` rows with `capacity` slots."""
        config = self.config
        shape = (rows, capacity, config.num_key_value_heads, config.head_dim)
        empty = (jnp.zeros(shape, self.embed[...].dtype),) * config.num_hidden_layers
        return KVCache(keys=empty, values=empty, positions=jnp.zeros(shape[:2], jnp.int32))

    def extend(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        cache: KVCache | None,
        start: jax.Array | int,
        head: KVCache | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Reads tokens after those that a cache holds, and adds them to it.

        Args:
          tokens: i32[B, L], token ids.
          positions: i32[B, L], each token's position in its own text.
          mask: bool[B, L, C]; `mask[b, i, j]` says whether token i may attend to slot j. Token i
            itself is in slot `start + i`. See `__call__` for the rest.
          cache: B rows of C slots, made by `new_cache`; None begins one that is full, C = L.
          start: i32[], the slot of the first token, at most C - L; what was there is overwritten.
          head: see `__call__`.

        Returns:
          Hidden states after the final norm, [B, L, D], the same that `__call__` gives for these
          tokens when it reads the whole text; and the cache with the tokens in it.
        """
        config = self.config
        x = embed(self.embed[...], tokens)
        x = x * jnp.asarray(config.embedding_scale, x.dtype)

        others = positions
        if cache is not None:
            others = write(cache.positions, positions, start)
        rotary = rotary_table(config.rope, config.head_dim, positions)
        surroundings = {FULL: Surroundings(rotary, mask)}
        head_masks: dict[str, jax.Array | None] = {FULL: None}
        if (window := config.sliding_window) is not None:

            def is_near(slots: jax.Array) -> jax.Array:
                return positions[:, :, None] - slots[:, None, :] < window

            rotary = rotary_table(config.sliding_rope or config.rope, config.head_dim, positions)
            surroundings[SLIDING] = Surroundings(rotary, mask & is_near(others))
            head_masks[SLIDING] = None if head is None else is_near(head.positions)
        kinds = config.layer_types or (FULL,) * config.num_hidden_layers
        all_keys, all_values = [], []
        for layer, (block, kind) in enumerate(zip(self.blocks, kinds, strict=True)):
            past = prefix = None
            if cache is not None:
                past = Past(cache.keys[layer], cache.values[layer], start)
            if head is not None:
                prefix = Prefix(head.keys[layer], head.values[layer], head_masks[kind])
            around = surroundings[kind]._replace(past=past, prefix=prefix)
            x, keys, values = block(x, around)
            all_keys.append(keys)
            all_values.append(values)
        return self.norm(x), KVCache(tuple(all_keys), tuple(all_values), others)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalized next-token log-probabilities, f32[..., V], of hidden states [..., D]."""
        return self.some_logits(0, self.config.vocab_size)(hidden)

    def some_logits(self, begin: jax.Array | int, size: int) -> Callable[[jax.Array], jax.Array]:
        """A function that gives `logits` of a part of the vocabulary, f32[..., size].

        Args:
          begin: i32[], the first token of the part, at most `V - size`.
          size: how many tokens it has.
        """
        tied = self.config.tie_word_embeddings
        weight = self.embed[...] if tied else self.lm_head.kernel[...]
        if size < self.config.vocab_size:
            weight = jax.lax.dynamic_slice_in_dim(weight, begin, size, axis=0 if tied else 1)

        def project_onto(hidden: jax.Array) -> jax.Array:
            logits = project(hidden, weight, tied)
            return softcap(logits, self.config.final_logit_softcapping)

        return project_onto
