"""T5 in Flax NNX: an encoder that reads the prompt and a decoder that writes the answer.

The architecture is that of T5 (Raffel et al., 2020, arXiv 1910.10683), of its version 1.1, and of
Flan-T5 (Chung et al., 2022, arXiv 2210.11416), which the paper's policy-based methods use. Where
tokens stand enters attention as a learned bias for each head and each bucket of distances; there is
no other notion of position.

As in `decoder`, masks and positions come from the caller, so that all candidate actions of a state
can be packed in one row of the decoder.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import Initializer

from llmprior_jax.models.config import CheckpointError, Reader
from llmprior_jax.models.decoder import KVCache, Past, write
from llmprior_jax.models.layers import INIT, MLP, Maker, RMSNorm, attend, embed, project

_FURTHEST = 1 << 16


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """Shape and variant of an `EncoderDecoder`.

    Examples:
      >>> config = models.EncoderDecoderConfig(
      ...     vocab_size=9,
      ...     hidden_size=4,
      ...     intermediate_size=8,
      ...     num_hidden_layers=1,
      ...     num_decoder_layers=1,
      ...     num_attention_heads=2,
      ...     head_dim=2,
      ... )
      >>> config.max_position_embeddings
      512

    Attributes:
      vocab_size: rows of the embedding, V.
      hidden_size: width of the residual streams, D ("d_model").
      intermediate_size: width of the MLPs ("d_ff").
      num_hidden_layers: blocks of the encoder ("num_layers").
      num_decoder_layers: blocks of the decoder.
      num_attention_heads: heads of every attention ("num_heads").
      head_dim: width of one head ("d_kv"), with which `num_attention_heads` need not make D.
      max_position_embeddings: longest text, in tokens, of encoder and decoder each. T5 has no table
        of positions, so this is the length it was trained with, not one that it cannot exceed:
        `n_positions` of the config, or 512. To go on beyond, raise it with `dataclasses.replace`.
      decoder_start_token_id: what every text of the decoder begins with.
      rms_norm_eps: added to the mean square in every norm.
      relative_attention_num_buckets: buckets of distances.
      relative_attention_max_distance: distances from here on share the last bucket.
      hidden_act: activation of the MLPs, "relu" (1.0) or "gelu_new" (1.1 and Flan).
      gated_mlp: the MLPs are gated (1.1 and Flan).
      tie_word_embeddings: logits use the embedding table instead of a matrix of their own.
      scale_outputs: hidden states are divided by sqrt(D) before they become logits (1.0).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_decoder_layers: int
    num_attention_heads: int
    head_dim: int
    max_position_embeddings: int = 512
    decoder_start_token_id: int = 0
    rms_norm_eps: float = 1e-6
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    hidden_act: str = "relu"
    gated_mlp: bool = False
    tie_word_embeddings: bool = True
    scale_outputs: bool = True

    @classmethod
    def from_hf(
        cls,
        fields: Mapping[str, Any],
        where: str = "this config",
        tensors: Collection[str] = (),
    ) -> "EncoderDecoderConfig":
        """Reads the fields of a Hugging Face `config.json`; see `DecoderConfig.from_hf`.

        Args:
          fields: the file's content.
          where: what to call it in an error.
          tensors: names of the tensors in the weight files. transformers 5 writes configs that say
            that the logits' matrix is the embedding table where it is not, so a file that holds
            such a matrix is believed.
        """
        reader = Reader(fields)
        reader.choice("model_type", ("t5",))
        reader.must_be_unquantized()
        reader.must_be("is_encoder_decoder", True)
        mlp = reader.choice("feed_forward_proj", ("relu", "gated-gelu"), "relu")
        layers = reader.integer("num_layers", 6)
        vocab_size = reader.integer("vocab_size", 32128)
        start = reader.integer("decoder_start_token_id", reader.fields.get("pad_token_id", 0), 0)
        if start >= vocab_size:
            reader.report("decoder_start_token_id", f"the vocabulary has {vocab_size} tokens")
        buckets = reader.integer("relative_attention_num_buckets", 32, minimum=4)
        if buckets % 4:
            reader.report("relative_attention_num_buckets", "it must be a multiple of 4")
        distance = reader.integer("relative_attention_max_distance", 128)
        if not buckets // 2 < distance <= _FURTHEST:
            reader.report(
                "relative_attention_max_distance",
                f"it must be more than half of relative_attention_num_buckets ({buckets}) and at "
                f"most {_FURTHEST}",
            )
        tied = reader.flag("tie_word_embeddings", True)
        config = cls(
            vocab_size=vocab_size,
            hidden_size=reader.integer("d_model", 512),
            intermediate_size=reader.integer("d_ff", 2048),
            num_hidden_layers=layers,
            num_decoder_layers=reader.integer("num_decoder_layers", layers),
            num_attention_heads=reader.integer("num_heads", 8),
            head_dim=reader.integer("d_kv", 64),
            max_position_embeddings=reader.integer("n_positions", 512),
            decoder_start_token_id=start,
            rms_norm_eps=reader.number("layer_norm_epsilon", 1e-6),
            relative_attention_num_buckets=buckets,
            relative_attention_max_distance=distance,
            hidden_act="relu" if mlp == "relu" else "gelu_new",
            gated_mlp=mlp == "gated-gelu",
            tie_word_embeddings=tied and "lm_head.weight" not in tensors,
            # Before transformers 5, whoever tied the two matrices divided, and nobody else did.
            scale_outputs=reader.flag("scale_decoder_outputs", tied),
        )
        if reader.problems:
            raise CheckpointError(where, reader.problems)
        return config


def distance_buckets(config: EncoderDecoderConfig, bidirectional: bool) -> np.ndarray:
    """The bucket of every distance, as T5 numbers them.

    Half of the buckets hold one distance each, the other half grow geometrically.

    Args:
      config: says how many buckets there are, and M, the distance from which on all are in one.
      bidirectional: half of the buckets are for keys after the query (the encoder); otherwise
        those share the bucket of distance 0 (the decoder, where the mask hides them).

    Returns:
      i32[2 * M + 1], the bucket of each distance from -M to M, where a distance is the position of
      the key minus that of the query.
    """
    # A table made on the host, because a logarithm that is a little off on some device would put
    # the distances at which a bucket begins into the one before.
    furthest = config.relative_attention_max_distance
    one_way = config.relative_attention_num_buckets // (2 if bidirectional else 1)
    exact = one_way // 2
    distance = np.arange(furthest + 1)
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(furthest / exact)) * np.float32(one_way - exact)
    far = np.minimum(exact + np.trunc(growth).astype(np.int32), one_way - 1)
    backward = np.where(distance < exact, distance, far)
    forward = one_way + backward[1:] if bidirectional else np.zeros(furthest, np.int32)
    return np.concatenate([backward[::-1], forward]).astype(np.int32)


class Attention(nnx.Module):
    """Attention whose scores are not scaled: T5's initialization does that (Raffel et al.)."""

    def __init__(self, config: EncoderDecoderConfig, make: Maker):
        self.head_dim = config.head_dim
        wide = config.num_attention_heads * config.head_dim
        self.q_proj = make.linear(config.hidden_size, wide)
        self.k_proj = make.linear(config.hidden_size, wide)
        self.v_proj = make.linear(config.hidden_size, wide)
        self.o_proj = make.linear(wide, config.hidden_size)

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None = None,
    ) -> jax.Array:
        """Lets `x` [B, L, D] attend to what has these keys and values; see `layers.attend`."""
        return self.o_proj(attend(self._heads(self.q_proj(x)), keys, values, mask, bias=bias))

    def keys_and_values(self, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of what is attended to, [B, S, D]: two [B, S, H, head_dim]."""
        return self._heads(self.k_proj(seen)), self._heads(self.v_proj(seen))

    def _heads(self, projected: jax.Array) -> jax.Array:
        return projected.reshape(*projected.shape[:2], -1, self.head_dim)


class _Read(NamedTuple):
    """A prompt as a layer attends to it: [B, S, H, head_dim] twice, and a mask for `attend`."""

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class AnswerCache(NamedTuple):
    """What `EncoderDecoder.extend` has read: prompts, as its layers see them, and answers so far.

    Attributes:
      own: the decoder's own tokens.
      prompt_keys: for each layer of the decoder [B, S, H, head_dim].
      prompt_values: for each layer [B, S, H, head_dim].
      prompt_mask: bool[B, S], which tokens of the prompts are no padding.
    """

    own: KVCache
    prompt_keys: tuple[jax.Array, ...]
    prompt_values: tuple[jax.Array, ...]
    prompt_mask: jax.Array

    def enlarged(self, capacity: int) -> "AnswerCache":
        """The same with empty slots for the decoder's tokens after its own, `capacity` in all."""
        return self._replace(own=self.own.enlarged(capacity))


class Block(nnx.Module):
    """Self-attention, in the decoder attention to the encoder's output, and MLP."""

    def __init__(self, config: EncoderDecoderConfig, cross: bool, make: Maker):
        self.attention_norm = _norm(config, make.dtype)
        self.attention = Attention(config, make)
        if cross:
            self.cross_attention_norm = _norm(config, make.dtype)
            self.cross_attention = Attention(config, make)
        self.mlp_norm = _norm(config, make.dtype)
        D, wide = config.hidden_size, config.intermediate_size
        self.mlp = MLP(make, D, wide, config.hidden_act, gated=config.gated_mlp)

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        bias: jax.Array,
        prompt: _Read | None,
        past: Past | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns hidden states, and the keys and values that could be attended to."""
        normed = self.attention_norm(x)
        own = self.attention.keys_and_values(normed)
        if past is not None:
            own = past.written(*own)
        x = x + self.attention(normed, *own, mask, bias)
        if prompt is not None:
            x = x + self.cross_attention(self.cross_attention_norm(x), *prompt)
        return x + self.mlp(self.mlp_norm(x)), *own


class Stack(nnx.Module):
    """The blocks of an encoder or of a decoder, which share one bias by distance."""

    def __init__(self, config: EncoderDecoderConfig, decoder: bool, make: Maker):
        self.config = config
        self.decoder = decoder
        self.distance_bias = make.table(
            config.relative_attention_num_buckets, config.num_attention_heads
        )
        num_layers = config.num_decoder_layers if decoder else config.num_hidden_layers
        self.blocks = nnx.data([Block(config, decoder, make) for _ in range(num_layers)])
        self.norm = _norm(config, make.dtype)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        prompts: Sequence[_Read] | None = None,
        cache: KVCache | None = None,
        start: jax.Array | int = 0,
    ) -> tuple[jax.Array, KVCache]:
        """Returns hidden states, and what was read: the tokens, or the cache with them in it."""
        others = positions
        if cache is not None:
            others = write(cache.positions, positions, start)
        furthest = self.config.relative_attention_max_distance
        distance = others[:, None, :] - positions[:, :, None]
        buckets = distance_buckets(self.config, bidirectional=not self.decoder)
        bucket = jnp.asarray(buckets)[jnp.clip(distance, -furthest, furthest) + furthest]
        bias = self.distance_bias[...].astype(jnp.float32)[bucket].transpose(0, 3, 1, 2)
        all_keys, all_values = [], []
        for layer, block in enumerate(self.blocks):
            prompt = None if prompts is None else prompts[layer]
            past = None if cache is None else Past(cache.keys[layer], cache.values[layer], start)
            x, keys, values = block(x, mask, bias, prompt, past)
            all_keys.append(keys)
            all_values.append(values)
        return self.norm(x), KVCache(tuple(all_keys), tuple(all_values), others)


class EncoderDecoder(nnx.Module):
    """Encodes a prompt; maps an answer and that encoding to hidden states, and these to logits.

    Examples:
      >>> from flax import nnx
      >>> config = models.EncoderDecoderConfig.from_hf({"model_type": "t5", "num_layers": 1})
      >>> @jax.eval_shape
      ... def logits():
      ...     model = models.EncoderDecoder(config, rngs=nnx.Rngs(0))
      ...     prompt, is_text = jnp.array([[1, 2, 3]]), jnp.ones((1, 3), bool)
      ...     answer, positions = jnp.array([[0, 4]]), jnp.arange(2)[None]
      ...     causal = jnp.tri(2, dtype=bool)[None]
      ...     encoded = model.encode(prompt, is_text)
      ...     return model.logits(model.decode(answer, positions, causal, encoded, is_text))
      >>> logits.shape  # [B, L, V]
      (1, 2, 32128)

    Attributes:
      config: shape and variant.
    """

    def __init__(
        self,
        config: EncoderDecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        init: Initializer = INIT,
    ):
        """Makes a model with random parameters; the arguments are those of `Decoder`.

        T5's activations are known to overflow float16; use bfloat16.
        """
        self.config = config
        make = Maker(jnp.dtype(dtype), init, rngs)
        self.embed = make.table(config.vocab_size, config.hidden_size)
        self.encoder = Stack(config, False, make)
        self.decoder = Stack(config, True, make)
        if not config.tie_word_embeddings:
            self.lm_head = make.linear(config.hidden_size, config.vocab_size)

    def encode(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Runs the encoder.

        Args:
          tokens: i32[B, S], token ids.
          mask: bool[B, S], which of them are text and not padding after it.

        Returns:
          [B, S, D] in the model's dtype, after the final norm.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = self.encoder(embed(self.embed[...], tokens), positions, mask[:, None, :])
        return hidden

    def decode(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        encoded: jax.Array,
        encoded_mask: jax.Array,
    ) -> jax.Array:
        """Runs the decoder.

        Args:
          tokens: i32[B, L], token ids; every text begins with `config.decoder_start_token_id`.
          positions: i32[B, L], each token's position in its own text.
          mask: bool[B, L, L]; `mask[b, i, j]` says whether token i may attend to token j. It must
            be `False` wherever j comes after i.
          encoded: [B, S, D], what `encode` gave for the prompt of each row.
          encoded_mask: bool[B, S], as in `encode`.

        Returns:
          Hidden states after the final norm, [B, L, D] in the model's dtype.
        """
        x = embed(self.embed[...], tokens)
        hidden, _ = self.decoder(x, positions, mask, self._read(encoded, encoded_mask))
        return hidden

    def new_cache(self, encoded: jax.Array, encoded_mask: jax.Array, capacity: int) -> AnswerCache:
        """A cache with prompts in it, and `capacity` empty slots for the decoder's tokens.

        Args:
          encoded: [B, S, D], what `encode` gave for the prompt of each row.
          encoded_mask: bool[B, S], as in `encode`.
          capacity: C.
        """
        prompts = self._read(encoded, encoded_mask)
        heads = prompts[0].keys.shape[2:]
        empty = (jnp.zeros((len(encoded), capacity, *heads), encoded.dtype),) * len(prompts)
        return AnswerCache(
            own=KVCache(empty, empty, jnp.zeros((len(encoded), capacity), jnp.int32)),
            prompt_keys=tuple(prompt.keys for prompt in prompts),
            prompt_values=tuple(prompt.values for prompt in prompts),
            prompt_mask=encoded_mask,
        )

    def extend(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        cache: AnswerCache,
        start: jax.Array | int,
    ) -> tuple[jax.Array, AnswerCache]:
        """Lets the decoder go on after the tokens that a cache holds; see `Decoder.extend`.

        Args:
          tokens: i32[B, L], token ids; those of an empty cache begin with the start token.
          positions: i32[B, L], each token's position in its own text.
          mask: bool[B, L, C], which slots of the cache each token may attend to.
          cache: made by `new_cache`.
          start: i32[], the slot of the first token.

        Returns:
          Hidden states after the final norm, [B, L, D], and the cache with the tokens in it.
        """
        seen = cache.prompt_mask[:, None, :]
        prompts = [
            _Read(keys, values, seen)
            for keys, values in zip(cache.prompt_keys, cache.prompt_values, strict=True)
        ]
        x = embed(self.embed[...], tokens)
        hidden, own = self.decoder(x, positions, mask, prompts, cache.own, start)
        return hidden, cache._replace(own=own)

    def _read(self, encoded: jax.Array, encoded_mask: jax.Array) -> list[_Read]:
        """Prompts as the layers of the decoder attend to them."""
        return [
            _Read(*block.cross_attention.keys_and_values(encoded), encoded_mask[:, None, :])
            for block in self.decoder.blocks
        ]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Unnormalized next-token log-probabilities, f32[..., V], of hidden states [..., D]."""
        if self.config.scale_outputs:
            hidden = hidden * jnp.asarray(self.config.hidden_size**-0.5, hidden.dtype)
        tied = self.config.tie_word_embeddings
        weight = self.embed[...] if tied else self.lm_head.kernel[...]
        return project(hidden, weight, tied)


def _norm(config: EncoderDecoderConfig, dtype: Any) -> RMSNorm:
    return RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
