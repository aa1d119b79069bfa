"""What a decoder looks like: one frozen dataclass for every family of language model we read.

Qwen2 and Llama (and what came after them) are the same decoder with small differences: biases here,
a norm there, another frequency base. Each difference is a field of `DecoderConfig`, and
`DecoderConfig.from_hf` fills the fields from a Hugging Face `config.json`, in its old spelling and
in that of transformers 5. What it does not know how to compute it refuses by name: a language model
that is nearly right is worse than none.
"""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

_MOST_LAYERS = 10_000
FULL, SLIDING = "full_attention", "sliding_attention"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message lists everything that is wrong with it.

    Attributes:
      problems: one sentence for each thing that is wrong.
    """

    def __init__(self, where: str, problems: Iterable[str]):
        self.problems = tuple(problems)
        super().__init__(f"cannot load {where}:" + "".join(f"\n  - {p}" for p in self.problems))


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Rotary position embedding (Su et al., 2021, arXiv 2104.09864) and its context extensions.

    Examples:
      >>> models.RotaryConfig(rope_theta=1e6, rope_type="linear", factor=4.0).factor
      4.0

    Attributes:
      rope_theta: base of the geometric series of wavelengths.
      rope_type: "default"; "linear" divides every frequency by `factor`; "llama3" divides the low
        frequencies by `factor`, keeps the high ones, and interpolates in between (Llama 3.1);
        "divided" divides each by one of `divisors`, which GGUF files have worked out.
      factor: how many times longer than in pre-training the context is ("linear", "llama3").
      low_freq_factor: wavelengths above `original_max_position_embeddings / low_freq_factor` are
        stretched by the whole factor ("llama3").
      high_freq_factor: wavelengths below `original_max_position_embeddings / high_freq_factor` are
        kept ("llama3").
      original_max_position_embeddings: context length in pre-training ("llama3").
      divisors: of the frequencies, from the highest on, head_dim / 2 of them ("divided").
    """

    rope_theta: float = 10_000.0
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    divisors: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Shape and variant of a `Decoder`.

    Examples:
      >>> config = models.DecoderConfig(
      ...     vocab_size=100,
      ...     hidden_size=16,
      ...     intermediate_size=32,
      ...     num_hidden_layers=2,
      ...     num_attention_heads=4,
      ...     num_key_value_heads=2,
      ...     head_dim=4,
      ...     max_position_embeddings=64,
      ... )
      >>> config.tie_word_embeddings
      False

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
      hidden_act: the MLP's gate, "silu" or "gelu_pytorch_tanh" (Gemma).
      qk_norm: queries and keys are normed in each head before they are rotated (Qwen3, Gemma 3).
      layer_types: for each layer "full_attention" or "sliding_attention"; None means all full.
      sliding_window: in sliding layers a token at position p sees positions above
        `p - sliding_window` only (Mistral, Gemma).
      sliding_rope: rotary embedding of the sliding layers, None for the same (Gemma 3).
      norm_offset: added to every norm's weight: 1 where the checkpoint stores `weight - 1` (Gemma).
      post_norms: attention and MLP outputs are normed before they join the residual stream (Gemma).
      embedding_scale: factor on the embeddings, sqrt(hidden_size) in Gemma.
      query_pre_attn_scalar: attention scores are divided by its square root; None for head_dim.
      attn_logit_softcapping: attention scores are squashed into +- this value (Gemma 2).
      final_logit_softcapping: logits are squashed into +- this value (Gemma 2).
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
    hidden_act: str = "silu"
    qk_norm: bool = False
    layer_types: tuple[str, ...] | None = None
    sliding_window: int | None = None
    sliding_rope: RotaryConfig | None = None
    norm_offset: float = 0.0
    post_norms: bool = False
    embedding_scale: float = 1.0
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None

    def __post_init__(self):
        problems = []
        if self.num_attention_heads % self.num_key_value_heads:
            problems.append(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of "
                f"num_key_value_heads ({self.num_key_value_heads})"
            )
        if self.head_dim % 2:
            problems.append(f"head_dim ({self.head_dim}) must be even, to be rotated in pairs")
        if self.rope.rope_type == "divided" and 2 * len(self.rope.divisors) != self.head_dim:
            problems.append(
                f"rope has {len(self.rope.divisors)} divisors of frequencies, but head_dim is "
                f"{self.head_dim}, which makes {self.head_dim // 2}"
            )
        if self.layer_types is not None:
            if len(self.layer_types) != self.num_hidden_layers:
                problems.append(
                    f"layer_types names {len(self.layer_types)} layers, but num_hidden_layers is "
                    f"{self.num_hidden_layers}"
                )
            unknown = sorted({repr(t) for t in self.layer_types} - {repr(FULL), repr(SLIDING)})
            if unknown:
                problems.append(
                    f"layer_types has {', '.join(unknown)}; supported are {FULL!r} and {SLIDING!r}"
                )
            if SLIDING in self.layer_types and self.sliding_window is None:
                problems.append("layer_types has sliding layers, but sliding_window is not given")
        if problems:
            raise CheckpointError("this decoder config", problems)

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any], where: str = "this config") -> "DecoderConfig":
        """Reads the fields of a Hugging Face `config.json`.

        Args:
          fields: the file's content.
          where: what to call it in an error.

        Returns:
          The decoder's config.

        Raises:
          CheckpointError: fields are missing or malformed, or ask for something not supported;
            the message names each such field, its value, and what is supported.
        """
        reader = Reader(fields)
        family = reader.choice("model_type", FAMILIES)
        if not family:  # What its other fields mean is anybody's guess.
            raise CheckpointError(where, reader.problems)
        if family == "gemma3":  # It reads images too; its text model has a config of its own.
            reader.must_be_unquantized()
            reader = reader.table("text_config").with_defaults(_GEMMA3_TEXT)
            reader.must_be("model_type", "gemma3_text")
        read, context = _FAMILIES[family]
        known = read(reader, _common_fields(reader, context))
        if reader.problems:
            raise CheckpointError(where, reader.problems)
        try:
            return cls(**known)
        except CheckpointError as error:
            raise CheckpointError(where, error.problems) from None


class Reader:
    """Reads fields one by one and collects what is wrong with them.

    A field that is wrong reads as a placeholder, so that reading goes on to the next problem.
    A field that is null reads as if it were absent.
    """

    def __init__(
        self, fields: Mapping[str, Any], prefix: str = "", problems: list[str] | None = None
    ):
        self.fields = {name: value for name, value in fields.items() if value is not None}
        self.nulls = {name for name, value in fields.items() if value is None}
        self.prefix = prefix
        self.problems: list[str] = [] if problems is None else problems

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Reader":
        """The same where a field is given, and `defaults` where it is not."""
        return Reader({**defaults, **self.fields}, self.prefix, self.problems)

    def report(self, name: str, problem: str) -> None:
        given = f"is {self.fields[name]!r}" if name in self.fields else "is missing"
        self.problems.append(f"{self.prefix}{name} {given}: {problem}")

    def choice(self, name: str, supported: tuple[str, ...], default: str | None = None) -> str:
        value = self.fields.get(name, default)
        if value in supported:
            return value
        self.report(name, f"supported are {', '.join(map(repr, supported))}")
        return ""

    def must_be_unquantized(self) -> None:
        if "quantization_config" in self.fields:
            self.report("quantization_config", "supported are unquantized checkpoints only")

    def must_be(self, name: str, supported: Any) -> None:
        """Refuses a field that is there and is not this."""
        if self.fields.get(name, supported) != supported:
            self.report(name, f"supported is {supported!r}")

    def integer(self, name: str, default: int | None = None, minimum: int = 1) -> int:
        value = self.fields.get(name, default)
        if type(value) is int and value >= minimum:
            return value
        self.report(name, f"it must be an integer of at least {minimum}")
        return minimum

    def number(self, name: str, default: float | None = None) -> float:
        value = self.fields.get(name, default)
        if type(value) in (int, float) and 0 < value < sys.float_info.max:
            return float(value)
        self.report(name, "it must be a positive number")
        return 1.0

    def off_or_number(self, name: str, default: float | None) -> float | None:
        """A number that null switches off."""
        if name in self.nulls or (default is None and name not in self.fields):
            return None
        return self.number(name, default)

    def flag(self, name: str, default: bool) -> bool:
        value = self.fields.get(name, default)
        if type(value) is bool:
            return value
        self.report(name, "it must be true or false")
        return default

    def strings(self, name: str, default: Iterable[str]) -> tuple[str, ...]:
        value = self.fields.get(name, list(default))
        if type(value) is list and all(type(item) is str for item in value):
            return tuple(value)
        self.report(name, "it must be a list of strings")
        return ()

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self.fields.get(name)
        if type(value) is list and all(
            type(item) in (int, float) and 0 < item < sys.float_info.max for item in value
        ):
            return tuple(map(float, value))
        self.report(name, "it must be a list of positive numbers")
        return ()

    def table(self, name: str) -> "Reader":
        value = self.fields.get(name, {})
        if type(value) is not dict:
            self.report(name, "it must be a table")
            value = {}
        return Reader(value, f"{self.prefix}{name}.", self.problems)


def _common_fields(reader: Reader, context: int) -> dict[str, Any]:
    reader.must_be_unquantized()
    for experts in ("num_experts", "num_local_experts"):
        reader.must_be(experts, None)
    reader.must_be("use_bidirectional_attention", False)
    heads = reader.integer("num_attention_heads")
    hidden_size = reader.integer("hidden_size")
    layers = reader.integer("num_hidden_layers")
    if layers > _MOST_LAYERS:  # What is known of each layer is listed, so the list must be short.
        reader.report("num_hidden_layers", f"it must be at most {_MOST_LAYERS}")
        layers = 1
    return {
        "vocab_size": reader.integer("vocab_size"),
        "hidden_size": hidden_size,
        "intermediate_size": reader.integer("intermediate_size"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": reader.integer("num_key_value_heads", heads),
        "head_dim": reader.integer("head_dim", max(hidden_size // heads, 1)),
        "max_position_embeddings": reader.integer("max_position_embeddings", context),
        "rms_norm_eps": reader.number("rms_norm_eps", 1e-6),
    }


def _rope(context: int, theta: float, *tables: Reader) -> RotaryConfig:
    """Reads a rotary embedding from the first of the tables that is not empty.

    Args:
      context: the model's context length.
      theta: the base, unless the table has one.
      *tables: where the config may say more: `rope_scaling` until transformers 4,
        `rope_parameters` from 5 on.
    """
    table = next((table for table in tables if table.fields), tables[-1])
    for name, value in table.fields.items():
        if type(value) is dict:
            table.report(name, "supported is one rotary embedding for all layers")
    table.must_be("partial_rotary_factor", 1.0)
    rope = RotaryConfig(
        rope_theta=table.number("rope_theta", theta),
        rope_type=table.choice(
            "type" if "type" in table.fields and "rope_type" not in table.fields else "rope_type",
            ("default", "linear", "llama3", "divided"),
            "default",
        ),
    )
    if rope.rope_type in ("linear", "llama3"):
        rope = dataclasses.replace(rope, factor=table.number("factor"))
    if rope.rope_type == "divided":
        rope = dataclasses.replace(rope, divisors=table.numbers("divisors"))
    if rope.rope_type == "llama3":
        low, high = table.number("low_freq_factor"), table.number("high_freq_factor")
        if low >= high:
            table.report("low_freq_factor", f"it must be less than high_freq_factor ({high})")
        rope = dataclasses.replace(
            rope,
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position_embeddings=table.integer(
                "original_max_position_embeddings", context
            ),
        )
    return rope


def _rope_for_all_layers(reader: Reader, common: dict[str, Any]) -> RotaryConfig:
    return _rope(
        common["max_position_embeddings"],
        reader.number("rope_theta", 10_000.0),
        reader.table("rope_scaling"),
        reader.table("rope_parameters"),
    )


# What each family adds to the common fields. A default is the one that transformers takes for a
# file that leaves the field out.


def _llama(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return _plain_block(reader, common) | {
        "qkv_bias": bias,
        "output_bias": bias,
        "mlp_bias": reader.flag("mlp_bias", False),
    }


def _mistral(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    known = _plain_block(reader, common)
    if "sliding_window" not in reader.nulls:
        known["sliding_window"] = reader.integer("sliding_window", 4096)
        known["layer_types"] = (SLIDING,) * common["num_hidden_layers"]
    return known


def _qwen2(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    return _plain_block(reader, common) | {"qkv_bias": True} | _qwen_windows(reader, common)


def _qwen3(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    bias = reader.flag("attention_bias", False)
    return (
        _plain_block(reader, common)
        | {"head_dim": reader.integer("head_dim", 128), "qk_norm": True}
        | {"qkv_bias": bias, "output_bias": bias}
        | _qwen_windows(reader, common)
    )


def _plain_block(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    reader.must_be("hidden_act", "silu")
    return common | {
        "tie_word_embeddings": reader.flag("tie_word_embeddings", False),
        "rope": _rope_for_all_layers(reader, common),
    }


def _qwen_windows(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    if not reader.flag("use_sliding_window", False):
        return {}
    first = reader.integer("max_window_layers", 28, minimum=0)
    layers = range(common["num_hidden_layers"])
    return {
        "sliding_window": reader.integer("sliding_window", 4096),
        "layer_types": reader.strings(
            "layer_types", (SLIDING if i >= first else FULL for i in layers)
        ),
    }


def _gemma2(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    return _gemma_block(reader, common, sliding_window_pattern=2) | {
        "rope": _rope_for_all_layers(reader, common),
        "attn_logit_softcapping": reader.off_or_number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": reader.off_or_number("final_logit_softcapping", 30.0),
    }


def _gemma3(reader: Reader, common: dict[str, Any]) -> dict[str, Any]:
    reader.must_be("attn_logit_softcapping", None)
    context = common["max_position_embeddings"]
    scaling, parts = reader.table("rope_scaling"), reader.table("rope_parameters")
    theta = reader.number("rope_theta", 1e6)
    sliding_theta = reader.number("rope_local_base_freq", 1e4)
    pattern = reader.integer("sliding_window_pattern", 6)
    return _gemma_block(reader, common, pattern) | {
        "qk_norm": True,
        "rope": _rope(context, theta, scaling, parts.table(FULL)),
        "sliding_rope": _rope(context, sliding_theta, parts.table(SLIDING)),
        "final_logit_softcapping": reader.off_or_number("final_logit_softcapping", None),
    }


def _gemma_block(
    reader: Reader, common: dict[str, Any], sliding_window_pattern: int
) -> dict[str, Any]:
    reader.must_be("hidden_activation", "gelu_pytorch_tanh")
    bias = reader.flag("attention_bias", False)
    layers = range(1, common["num_hidden_layers"] + 1)
    return common | {
        "head_dim": reader.integer("head_dim", 256),
        "tie_word_embeddings": reader.flag("tie_word_embeddings", True),
        "qkv_bias": bias,
        "output_bias": bias,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_types": reader.strings(
            "layer_types", (SLIDING if i % sliding_window_pattern else FULL for i in layers)
        ),
        "sliding_window": reader.integer("sliding_window", 4096),
        "norm_offset": 1.0,
        "post_norms": True,
        "embedding_scale": common["hidden_size"] ** 0.5,
        "query_pre_attn_scalar": reader.number("query_pre_attn_scalar", 256),
    }


# By `model_type`, with the context of a file that does not say, such as Llama 1's.
_FAMILIES = {
    "llama": (_llama, 2048),
    "qwen2": (_qwen2, 32_768),
    "qwen3": (_qwen3, 32_768),
    "mistral": (_mistral, 131_072),
    "gemma2": (_gemma2, 8192),
    "gemma3_text": (_gemma3, 131_072),
    "gemma3": (_gemma3, 131_072),
}
# What `text_config` of Gemma 3's larger files may leave out.
_GEMMA3_TEXT = {
    "model_type": "gemma3_text",
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
FAMILIES = tuple(_FAMILIES)
