"""Small GGUF files, written with llama.cpp's own writer out of models in PyTorch.

What llama.cpp's converter does to a checkpoint is done here again, by its names.
"""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np

TOKENS = "tokenizer.ggml.tokens"


def byte_alphabet() -> list[str]:
    """One character for each byte, as GPT-2 writes bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) for byte in shown] + [chr(256 + i) for i in range(len(hidden))]


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in llama.cpp's order: the halves of a head are interleaved."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def llama3_divisors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    low = rope["original_max_position_embeddings"] / rope["low_freq_factor"]
    high = rope["original_max_position_embeddings"] / rope["high_freq_factor"]
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / head_dim)
        smooth = rope["original_max_position_embeddings"] / wavelength - rope["low_freq_factor"]
        smooth /= rope["high_freq_factor"] - rope["low_freq_factor"]
        if wavelength < high:
            divisors.append(1.0)
        elif wavelength > low:
            divisors.append(rope["factor"])
        else:
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def write(
    model: Any,
    path: Path,
    quantization: str = "F32",
    metadata: dict[str, Any] | None = None,
    tokens: bool = True,
    split: int = 0,
) -> Path:
    """Writes a decoder of transformers.

    Args:
      model: the decoder.
      path: the file.
      quantization: of the matrices.
      metadata: more keys, or other values for keys; None leaves one out.
      tokens: whether the file has a tokenizer.
      split: most tensors in a file; 0 for one file.

    Returns:
      The file, or its first part.
    """
    path.parent.mkdir(exist_ok=True)
    config = model.config.to_dict()
    family = {"mistral": "llama", "gemma3_text": "gemma3"}.get(
        config["model_type"], config["model_type"]
    )
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rope = config["rope_parameters"]
    full = rope.get("full_attention", rope)
    keys: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "block_count": config["num_hidden_layers"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.freq_base": float(full["rope_theta"]),
    }
    slides = config.get("layer_types") or []
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        keys["attention.sliding_window"] = config["sliding_window"]
        if "full_attention" in slides:
            keys["attention.sliding_window_pattern"] = [s != "full_attention" for s in slides]
    if full["rope_type"] == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": full["factor"]}
    if family == "gemma2":
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            keys[name] = config[name]
    if "sliding_attention" in rope:
        keys["rope.freq_base_swa"] = rope["sliding_attention"]["rope_theta"]
    keys = {f"{family}.{name}": value for name, value in keys.items()}
    alphabet = byte_alphabet()[: config["vocab_size"] - 3]
    words = [*alphabet, "ab", "<|start|>", "<|end|>"]
    if tokens:
        keys |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            TOKENS: words,
            "tokenizer.ggml.token_type": [1] * (len(words) - 2) + [3, 3],
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.bos_token_id": len(words) - 2,
            "tokenizer.ggml.eos_token_id": len(words) - 1,
        }
    keys |= metadata or {}

    writer = gguf.GGUFWriter(str(path), keys.pop("general.architecture", family), **_split(split))
    for key, value in keys.items():
        if value is not None:
            add(writer, key, value)
    architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    tied = config["tie_word_embeddings"]
    for name, parameter in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        value = parameter.float().numpy()
        if family == "llama" and ".q_proj." in name:
            value = permuted(value, config["num_attention_heads"])
        if family == "llama" and ".k_proj." in name:
            value = permuted(value, config["num_key_value_heads"])
        if family.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        kind = gguf.GGMLQuantizationType[quantization if value.ndim == 2 else "F32"]
        if value.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:  # Rows of no whole blocks.
            kind = gguf.GGMLQuantizationType.F32
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(written, gguf.quantize(value, kind), raw_dtype=kind)
    if full["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(full, head_dim))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(path.parent.glob(f"{path.stem}-00001-of-*.gguf")) if split else path


def _split(tensors: int) -> dict[str, Any]:
    return {"split_max_tensors": tensors} if tensors else {}


def add(writer: Any, key: str, value: Any) -> None:
    """Adds a value as the type that llama.cpp has for it."""
    if isinstance(value, list | np.ndarray):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
