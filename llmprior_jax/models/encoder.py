"""BERT in Flax NNX: an encoder in which every token sees every other.

The architecture is that of BERT (Devlin et al., 2019, arXiv 1810.04805) and of the sentence
encoders that were trained from it, such as MiniLM's (Wang et al., 2020, arXiv 2002.10957; Reimers
and Gurevych, 2019, arXiv 1908.10084). `text_encoder` makes vectors of texts with it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer

from llmprior_jax.models.config import CheckpointError, Reader
from llmprior_jax.models.layers import INIT, MLP, Maker, attend, embed

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape and variant of an `Encoder`.

    Examples:
      >>> config = models.EncoderConfig(
      ...     vocab_size=9,
      ...     hidden_size=4,
      ...     intermediate_size=8,
      ...     num_hidden_layers=1,
      ...     num_attention_heads=2,
      ...     max_position_embeddings=16,
      ... )
      >>> config.head_dim
      2

    Attributes:
      vocab_size: rows of the embedding, V.
      hidden_size: width of the residual stream, D.
      intermediate_size: width of the MLP.
      num_hidden_layers: number of blocks.
      num_attention_heads: heads; each is `hidden_size / num_attention_heads` wide.
      max_position_embeddings: longest text in tokens, special ones among them.
      num_segments: rows of the embedding that tells the first text of a pair from the second.
      layer_norm_eps: added to the variance in every norm.
      hidden_act: activation of the MLP.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_segments: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any], where: str = "this config") -> "EncoderConfig":
        """Reads the fields of a Hugging Face `config.json`; see `DecoderConfig.from_hf`."""
        reader = Reader(fields)
        reader.choice("model_type", ("bert",))
        reader.must_be_unquantized()
        reader.must_be("is_decoder", False)
        reader.must_be("add_cross_attention", False)
        reader.must_be("position_embedding_type", "absolute")
        config = cls(
            vocab_size=reader.integer("vocab_size", 30522),
            hidden_size=reader.integer("hidden_size", 768),
            intermediate_size=reader.integer("intermediate_size", 3072),
            num_hidden_layers=reader.integer("num_hidden_layers", 12),
            num_attention_heads=reader.integer("num_attention_heads", 12),
            max_position_embeddings=reader.integer("max_position_embeddings", 512),
            num_segments=reader.integer("type_vocab_size", 2),
            layer_norm_eps=reader.number("layer_norm_eps", 1e-12),
            hidden_act=reader.choice("hidden_act", _ACTIVATIONS, "gelu"),
        )
        if config.hidden_size % config.num_attention_heads:
            reader.report(
                "hidden_size",
                f"it must be a multiple of num_attention_heads ({config.num_attention_heads})",
            )
        if reader.problems:
            raise CheckpointError(where, reader.problems)
        return config


class Block(nnx.Module):
    """Attention and MLP, each added to the residual stream, which is normed after that."""

    def __init__(self, config: EncoderConfig, make: Maker):
        self.head_dim = config.head_dim
        D = config.hidden_size
        self.q_proj = make.linear(D, D, bias=True)
        self.k_proj = make.linear(D, D, bias=True)
        self.v_proj = make.linear(D, D, bias=True)
        self.o_proj = make.linear(D, D, bias=True)
        self.attention_norm = _norm(config, make)
        self.mlp = MLP(make, D, config.intermediate_size, config.hidden_act, bias=True, gated=False)
        self.mlp_norm = _norm(config, make)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        heads = (*x.shape[:2], -1, self.head_dim)
        q, k, v = (proj(x).reshape(heads) for proj in (self.q_proj, self.k_proj, self.v_proj))
        attended = attend(q, k, v, mask, scale=self.head_dim**-0.5)
        x = self.attention_norm(x + self.o_proj(attended))
        return self.mlp_norm(x + self.mlp(x))


class Encoder(nnx.Module):
    """Maps tokens to hidden states.

    Examples:
      >>> from flax import nnx
      >>> config = models.EncoderConfig.from_hf({"model_type": "bert", "num_hidden_layers": 1})
      >>> @jax.eval_shape
      ... def hidden():
      ...     encoder = models.Encoder(config, rngs=nnx.Rngs(0))
      ...     tokens = jnp.array([[1, 2, 3]])
      ...     return encoder(tokens, jnp.zeros_like(tokens), jnp.ones_like(tokens, bool))
      >>> hidden.shape  # [B, L, D]
      (1, 3, 768)

    Attributes:
      config: shape and variant.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        init: Initializer = INIT,
    ):
        """Makes an encoder with random parameters; the arguments are those of `Decoder`."""
        self.config = config
        make = Maker(jnp.dtype(dtype), init, rngs)
        self.embed = make.table(config.vocab_size, config.hidden_size)
        self.position_embed = make.table(config.max_position_embeddings, config.hidden_size)
        self.segment_embed = make.table(config.num_segments, config.hidden_size)
        self.norm = _norm(config, make)
        self.blocks = nnx.data([Block(config, make) for _ in range(config.num_hidden_layers)])

    def __call__(self, tokens: jax.Array, segments: jax.Array, mask: jax.Array) -> jax.Array:
        """Runs the encoder.

        Args:
          tokens: i32[B, L], token ids; L is `config.max_position_embeddings` at most.
          segments: i32[B, L], 0 in the first text of a pair and 1 in the second.
          mask: bool[B, L], which tokens are text and not padding after it.

        Returns:
          Hidden states, [B, L, D] in the encoder's dtype.
        """
        x = embed(self.embed[...], tokens) + embed(self.segment_embed[...], segments)
        x = self.norm(x + embed(self.position_embed[...], jnp.arange(tokens.shape[1])))
        for block in self.blocks:
            x = block(x, mask[:, None, :])
        return x


def _norm(config: EncoderConfig, make: Maker) -> nnx.LayerNorm:
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        dtype=make.dtype,
        param_dtype=make.dtype,
        use_fast_variance=False,  # Its difference of two large numbers costs digits.
        rngs=make.rngs,
    )
