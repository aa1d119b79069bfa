"""What a decoder looks like: one frozen dataclass for every family of language model we read.

Qwen2 and Llama (and what came after them) are the same decoder with small differences: biases here,
a norm there, another frequency base. Each difference is a field of `DecoderConfig`. The fields
have the names they have in a Hugging Face `config.json` wherever that file has them.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Rotary position embedding (Su et al., 2021, arXiv 2104.09864) and its context extensions.

    Attributes:
      rope_theta: base of the geometric series of wavelengths.
      rope_type: "default"; "linear" divides every frequency by `factor`; "llama3" divides the low
        frequencies by `factor`, keeps the high ones, and interpolates in between (Llama 3.1).
      factor: how many times longer than in pre-training the context is ("linear", "llama3").
      low_freq_factor: wavelengths above `original_max_position_embeddings / low_freq_factor` are
        divided by the whole factor ("llama3").
      high_freq_factor: wavelengths below `original_max_position_embeddings / high_freq_factor` are
        kept ("llama3").
      original_max_position_embeddings: context length in pre-training ("llama3").
    """

    rope_theta: float = 10_000.0
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and variant of a `Decoder`.

    Attributes:
      vocab_size: rows of the embedding, V.
      hidden_size: width of the residual stream, D.
      intermediate_size: width of the gated MLP.
      num_hidden_layers: number of blocks.
      num_attention_heads: query heads.
      num_key_value_heads: key/value heads; each serves `num_attention_heads / num_key_value_heads`
        query heads.
      head_dim: width of one head.
      max_position_embeddings: longest context the model was made for, in tokens.
      rms_norm_eps: added to the mean square in every norm.
      tie_word_embeddings: logits use the embedding table instead of a matrix of their own.
      qkv_bias: query, key and value projections have biases (Qwen2).
      output_bias: the attention's output projection has a bias.
      mlp_bias: the MLP's three projections have biases.
      rope: rotary embedding.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    rope: RotaryConfig = RotaryConfig()
