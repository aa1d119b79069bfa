"""What llama.cpp's files hold, in the terms of Hugging Face checkpoints.

llama.cpp has names of its own for the fields of a config and for tensors, keeps some tensors in
another layout, and leaves to its code what Hugging Face's configs say. All that differs is undone
here, so that `DecoderConfig.from_hf` is the one place that knows families.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmprior_jax.models.checkpoint import Checkpoint, Tensor, listed
from llmprior_jax.models.config import FULL, SLIDING, CheckpointError
from llmprior_jax.models.formats import gguf_file, gguf_tokenizer
from llmprior_jax.models.formats.gguf_file import GGUFFile, GGUFTensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ARCHITECTURE = "general.architecture"
# By llama.cpp's names of architectures, the `model_type` of a config.
_MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
# Fields of a config, and the keys that they have after the architecture's name.
_KEYS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_NEEDED = tuple(_KEYS)[:6]
_TYPES = dict.fromkeys(_NEEDED, int) | {
    "rms_norm_eps": float,
    "num_key_value_heads": int,
    "head_dim": int,
    "sliding_window": int,
}
_EXPERTS = "expert_count"
_ROPE_FACTORS = "rope_freqs.weight"
_EMBED, _HEAD = "token_embd.weight", "output.weight"
_LONGEST_LIST = 10_000

_NAMES = {
    _EMBED: "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    _HEAD: "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k": "self_attn.k_proj",
    "attn_k_norm": "self_attn.k_norm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# With norms on both sides of attention and MLP, a name means something else.
_POST_NORM_BLOCK_NAMES = _BLOCK_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class GGUFCheckpoint(Checkpoint):
    """A GGUF file, or all parts of one that is split."""

    dtypes = tuple(gguf_file.QUANTIZATIONS.values())

    def __init__(self, path: Path):
        """Reads the headers.

        Args:
          path: the file, or any of its parts.

        Raises:
          CheckpointError: a part is missing or belongs to another model, or a header is damaged.
        """
        self.path = path
        self._parts = _read_parts(path)
        metadata = self._parts[0].metadata
        self._num_tokens = gguf_tokenizer.num_tokens(metadata)
        # Vocabularies are read again when they are needed, so that none is held beside the weights.
        self._metadata = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.")}
        self._parts = [part._replace(metadata={}) for part in self._parts]
        self._tensors = {name: t for part in self._parts for name, t in part.tensors.items()}
        self._architecture = self._metadata.get(ARCHITECTURE)
        self.config_file = self.tokenizer_file = self._parts[0].path.name
        self._standard_names = {name: self._standard_name(name) for name in self._tensors}

    def read_fields(self, problems: list[str]) -> Mapping[str, Any] | None:
        found: list[str] = []
        fields = self._fields(found)
        problems += [f"{self.config_file}: {problem}" for problem in found]
        return None if found else fields

    def _fields(self, problems: list[str]) -> dict[str, Any]:
        architecture = self._architecture
        if not self._is_known_architecture():
            supported = ", ".join(map(repr, _MODEL_TYPES))
            problems.append(f"{ARCHITECTURE} is {architecture!r}; supported are {supported}")
            return {}
        fields = {name: self._value(key) for name, key in _KEYS.items()}
        fields = {name: value for name, value in fields.items() if value is not None}
        for name, kind in _TYPES.items():
            if name not in fields and name in _NEEDED:
                problems.append(f"{self.field_in_file(name)} is missing")
            elif name in fields and not (type(fields[name]) is kind and fields[name] > 0):
                wanted = {int: "one whole number above 0", float: "a number above 0"}[kind]
                problems.append(
                    f"{self.field_in_file(name)} is {fields[name]!r}; it must be {wanted}"
                )
        embed = self._tensors.get(_EMBED)
        if embed is None:
            problems.append(f"{_EMBED} is missing")
        if problems or embed is None:
            return {}
        fields.setdefault("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
        fields |= {
            "model_type": _MODEL_TYPES[str(architecture)],
            "vocab_size": embed.shape[0],
            "tie_word_embeddings": _HEAD not in self._tensors,
            "attention_bias": "blk.0.attn_q.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_gate.bias" in self._tensors,
            "num_experts": self._value(_EXPERTS) or None,
            # What llama.cpp takes where a file does not say.
            "rope_theta": fields.get("rope_theta", 10_000.0),
            "rope_local_base_freq": self._value("rope.freq_base_swa") or 10_000.0,
            "rope_scaling": self._rope_scaling(problems),
        }
        self._check_heads(fields, problems)
        return fields | self._windows(fields, problems) | self._attention_scale(fields)

    def find_tensors(self, problems: list[str]) -> Mapping[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, tensor in self._tensors.items():
            if name == _ROPE_FACTORS and self._architecture == "llama":
                continue  # A part of the config.
            tensors[self._standard_names[name]] = self._as_in_hf(name, tensor)
        return tensors

    def check_tokenizer(self, problems: list[str]) -> None:
        tokens, embed = self._num_tokens, self._tensors.get(_EMBED)
        if tokens is None:
            problems.append(f"{self.config_file}: {gguf_tokenizer.TOKENS} is missing: no tokenizer")
        elif embed is not None and embed.shape[0] != tokens:
            problems.append(
                f"{self.config_file}: its tokenizer has {tokens} tokens, but the model embeds "
                f"{embed.shape[0]} ({_EMBED}): it belongs to another model"
            )

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        problems: list[str] = []
        metadata = gguf_file.read(self._parts[0].path).metadata
        tokenizer = gguf_tokenizer.make(metadata, problems)
        if tokenizer is None or problems:
            place = self.config_file
            raise CheckpointError(str(self.path), [f"{place}: {problem}" for problem in problems])
        return tokenizer

    def hashed(self) -> Sequence[tuple[str, Path]]:
        return [(f"gguf part {i}", part.path) for i, part in enumerate(self._parts)]

    def name_in_file(self, name: str) -> str:
        if not self._is_known_architecture():
            return name
        for ours, theirs in _NAMES.items():
            if theirs == name:
                return ours
        found = re.fullmatch(r"model\.layers\.(\d+)\.([\w.]+)\.(weight|bias)", name)
        for ours, theirs in self._block_names().items():
            if found and found[2] == theirs:
                return f"blk.{found[1]}.{ours}.{found[3]}"
        return name

    def field_in_file(self, name: str) -> str:
        return f"{self._architecture}.{_KEYS[name]}" if name in _KEYS else name

    def _is_known_architecture(self) -> bool:
        return isinstance(self._architecture, str) and self._architecture in _MODEL_TYPES

    def _is_gemma(self) -> bool:
        return self._architecture in ("gemma2", "gemma3")

    def _block_names(self) -> dict[str, str]:
        return _POST_NORM_BLOCK_NAMES if self._is_gemma() else _BLOCK_NAMES

    def _standard_name(self, name: str) -> str:
        found = _BLOCK.fullmatch(name)
        if found and found[2] in self._block_names():
            return f"model.layers.{found[1]}.{self._block_names()[found[2]]}.{found[3]}"
        return _NAMES.get(name, name)

    def _value(self, key: str) -> Any:
        """The value of a key of the architecture's; None if it is not there.

        An array is a list, and one that says the same of every layer is said once.
        """
        value = self._metadata.get(f"{self._architecture}.{key}")
        if not isinstance(value, np.ndarray | list):
            return value
        if len(value) > _LONGEST_LIST:
            return f"an array of {len(value)} values"
        values: list[Any] = value.tolist() if isinstance(value, np.ndarray) else value
        same = len(values) > 0 and all(other == values[0] for other in values)
        return values[0] if same and not isinstance(values[0], bool) else values

    def _check_heads(self, fields: Mapping[str, Any], problems: list[str]) -> None:
        """Keys are as wide as values, and all of a head is rotated."""
        for key in ("attention.value_length", "rope.dimension_count"):
            value = self._value(key)
            if value is not None and value != fields["head_dim"]:
                problems.append(
                    f"{self._architecture}.{key} is {value!r}, but heads are "
                    f"{fields['head_dim']} wide, and the two must be equal"
                )

    def _windows(self, fields: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """Which layers look only so far back."""
        window, layers = fields.get("sliding_window"), fields["num_hidden_layers"]
        if window is None or layers > _LONGEST_LIST:  # `DecoderConfig.from_hf` says the latter.
            return {}
        key = f"{self._architecture}.attention.sliding_window"
        pattern = self._value("attention.sliding_window_pattern")
        kinds: list[str] | None = None
        if isinstance(pattern, list):
            kinds = [SLIDING if slides else FULL for slides in pattern]
        elif type(pattern) is int and pattern > 0:  # All but the last of so many layers.
            kinds = [SLIDING if i % pattern < pattern - 1 else FULL for i in range(layers)]
        elif pattern is not None:
            problems.append(
                f"{key}_pattern is {pattern!r}; it must be a number of layers, or say for each "
                "layer whether it slides"
            )
        if self._is_gemma():  # Without a pattern it has that of its family.
            return {} if kinds is None else {"layer_types": kinds}
        if window >= fields["max_position_embeddings"]:
            return {}
        if self._architecture == "llama":
            # With a window in every layer it is what Hugging Face calls Mistral.
            return {"model_type": "mistral"}
        if kinds is None:
            problems.append(f"{key} is {window}, but {key}_pattern does not say in which layers")
        return {"use_sliding_window": True, "layer_types": kinds}

    def _attention_scale(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """What Gemma divides scores by; only the largest of each kind does not go by its heads."""
        largest = {"gemma2": 46, "gemma3": 62}.get(str(self._architecture))
        if fields["num_hidden_layers"] == largest:
            return {"query_pre_attn_scalar": fields["hidden_size"] // fields["num_attention_heads"]}
        return {"query_pre_attn_scalar": fields["head_dim"]}

    def _rope_scaling(self, problems: list[str]) -> dict[str, Any] | None:
        kind = self._value("rope.scaling.type")
        factor = self._value("rope.scaling.factor") or self._value("rope.scale_linear")
        scaled = None
        if kind not in (None, "none", "linear"):
            scaled = {"rope_type": kind}  # Refused by name.
        elif kind != "none" and factor is not None and factor != 1.0:
            scaled = {"rope_type": "linear", "factor": factor}
        divisors = self._tensors.get(_ROPE_FACTORS)
        if divisors is None or self._architecture != "llama":
            return scaled
        if scaled is not None:
            problems.append(
                f"it scales rotations twice, by {_ROPE_FACTORS} and by {self._architecture}"
                f".rope.scaling.type {scaled['rope_type']!r}"
            )
        if len(divisors.shape) != 1 or divisors.shape[0] > _LONGEST_LIST:
            problems.append(
                f"{_ROPE_FACTORS} is {list(divisors.shape)}; it must be a short list of numbers"
            )
            return scaled
        values = divisors.read_rows(0, divisors.shape[0])[1]
        return {"rope_type": "divided", "divisors": values.tolist()}

    def _as_in_hf(self, name: str, tensor: GGUFTensor) -> Tensor:
        if self._is_gemma() and name.endswith("norm.weight"):
            # llama.cpp keeps 1 + weight, which Gemma's norms multiply by.
            return dataclasses.replace(tensor, add=-1.0)
        found = _BLOCK.fullmatch(name)
        if self._architecture == "llama" and found and found[2] in ("attn_q", "attn_k"):
            key = "attention.head_count" if found[2] == "attn_q" else "attention.head_count_kv"
            heads = self._value(key) or self._value("attention.head_count")
            rows = tensor.shape[0]
            if type(heads) is int and 0 < heads <= rows and rows % (2 * heads) == 0:
                # llama.cpp rotates neighbors, and Hugging Face the first half with the second.
                places = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
                return dataclasses.replace(tensor, places=places)
        return tensor


def _read_parts(path: Path) -> list[GGUFFile]:
    """The headers of a file, or of all parts of one that is split, in order."""
    paths = gguf_file.parts(path)
    absent = [part.name for part in paths if not part.is_file()]
    if absent:
        raise CheckpointError(
            str(path), [f"{len(absent)} of its {len(paths)} parts are missing: {listed(absent)}"]
        )
    parts = [gguf_file.read(part) for part in paths]
    problems: list[str] = []
    for i, part in enumerate(parts):
        number, count = part.metadata.get("split.no", 0), part.metadata.get("split.count", 1)
        if (number, count) != (i, len(parts)):
            named = gguf_file.part(part.path)
            problems.append(
                f"{part.path.name} is named as {'a part' if named else 'a whole file'}, but says "
                f"split.no {number!r} (from 0 on) and split.count {count!r}; give the parts of a "
                "model their own names"
            )
        kind = part.metadata.get(ARCHITECTURE, parts[0].metadata.get(ARCHITECTURE))
        if kind != parts[0].metadata.get(ARCHITECTURE):
            problems.append(
                f"{part.path.name} is of the architecture {kind!r}: a part of another model"
            )
    counts = Counter(name for part in parts for name in part.tensors)
    expected = parts[0].metadata.get("split.tensors.count", counts.total())
    if twice := [name for name, count in counts.items() if count > 1]:
        problems.append(f"its parts are of different models: several have {listed(twice)}")
    elif expected != counts.total():
        problems.append(
            f"its parts are of different models: they hold {counts.total()} tensors, and "
            f"{parts[0].path.name} says {expected!r}"
        )
    if problems:
        raise CheckpointError(str(path), problems)
    return parts
