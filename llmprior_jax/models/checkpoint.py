"""Hugging Face checkpoint directories, read as they are.

A directory holds `config.json`, the weights in `model.safetensors` or in several shards that
`model.safetensors.index.json` lists, and the tokenizer. The weights are read tensor by tensor, so
that the host never holds more than the parameters and one tensor. The files come from outside:
everything about them is checked before it is believed, and all that is wrong is said at once.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from llmprior_jax.models.config import CheckpointError, DecoderConfig
from llmprior_jax.models.decoder import Decoder

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# Our parameter -> the checkpoint's tensor. A kernel is [in, out] here and [out, in] there.
_TENSORS = {
    "embed": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "lm_head.kernel": "lm_head.weight",
}
_BLOCK_TENSORS = {
    "input_norm.scale": "input_layernorm.weight",
    "attention.q_proj.kernel": "self_attn.q_proj.weight",
    "attention.q_proj.bias": "self_attn.q_proj.bias",
    "attention.q_norm.scale": "self_attn.q_norm.weight",
    "attention.k_proj.kernel": "self_attn.k_proj.weight",
    "attention.k_proj.bias": "self_attn.k_proj.bias",
    "attention.k_norm.scale": "self_attn.k_norm.weight",
    "attention.v_proj.kernel": "self_attn.v_proj.weight",
    "attention.v_proj.bias": "self_attn.v_proj.bias",
    "attention.o_proj.kernel": "self_attn.o_proj.weight",
    "attention.o_proj.bias": "self_attn.o_proj.bias",
    "mlp_norm.scale": "post_attention_layernorm.weight",
    "mlp.gate_proj.kernel": "mlp.gate_proj.weight",
    "mlp.gate_proj.bias": "mlp.gate_proj.bias",
    "mlp.up_proj.kernel": "mlp.up_proj.weight",
    "mlp.up_proj.bias": "mlp.up_proj.bias",
    "mlp.down_proj.kernel": "mlp.down_proj.weight",
    "mlp.down_proj.bias": "mlp.down_proj.bias",
}
# With norms on both sides of attention and MLP, a name means something else.
_POST_NORM_BLOCK_TENSORS = _BLOCK_TENSORS | {
    "attention_post_norm.scale": "post_attention_layernorm.weight",
    "mlp_norm.scale": "pre_feedforward_layernorm.weight",
    "mlp_post_norm.scale": "post_feedforward_layernorm.weight",
}
_DTYPES = ("F64", "F32", "F16", "BF16")
_MOST_LISTED = 10


def read(directory: Path, dtype: Any) -> tuple[DecoderConfig, nnx.GraphDef, nnx.State]:
    """Reads the decoder of a checkpoint directory.

    Args:
      directory: holds the checkpoint's files, the tokenizer's among them.
      dtype: of the parameters, whatever the files have.

    Returns:
      The decoder's config, its graph definition, and its parameters on the default device.

    Raises:
      CheckpointError: files or tensors are missing, malformed, not supported, or do not fit one
        another; the message lists them all.
    """
    problems: list[str] = []
    config = _read_config(directory, problems)
    tensors = _find_tensors(directory, problems)
    if not (directory / TOKENIZER).is_file():
        problems.append(
            f"{TOKENIZER} is missing; transformers makes it out of a tokenizer in an older form: "
            "AutoTokenizer.from_pretrained(old).save_pretrained(new)"
        )
    if config is None or problems:
        raise CheckpointError(str(directory), problems)
    if config.num_hidden_layers > len(tensors):  # Said before a decoder of that size is laid out.
        problems = [
            f"{CONFIG}: num_hidden_layers is {config.num_hidden_layers}, but the weight files hold "
            f"no more than {len(tensors)} tensors"
        ]
        raise CheckpointError(str(directory), problems)

    decoder = Decoder(config, rngs=nnx.Rngs(0), dtype=dtype, init=_shape_only)
    graphdef, abstract = nnx.split(decoder)
    parameters = dict(nnx.to_flat_state(abstract))
    _compare(config, {path: p.shape for path, p in parameters.items()}, tensors, problems)
    if problems:
        raise CheckpointError(str(directory), problems)

    not_finite = []
    for path, parameter in parameters.items():
        name = tensor_name(path, config)
        file = tensors[name].file
        value = _convert(_read_tensor(file, name), jnp.dtype(dtype), _is_kernel(path))
        if not np.isfinite(value).all():
            not_finite.append(f"{name} in {file.name}")
        parameters[path] = parameter.replace(jnp.asarray(value))
    if not_finite:
        as_dtype = f"infinite or NaN as {jnp.dtype(dtype).name}"
        problems = [f"{len(not_finite)} tensors have values {as_dtype}: {_listed(not_finite)}"]
        raise CheckpointError(str(directory), problems)
    return config, graphdef, nnx.from_flat_state(parameters)


def fingerprint(directory: Path, dtype: Any) -> str:
    """SHA-256 over all that decides a model's numbers, as 64 hexadecimal digits.

    That is the bytes of config, tokenizer and weights, and the dtype they are computed in. The
    files are streamed, at one to three seconds per gigabyte: no more than reading them takes.

    Args:
      directory: a checkpoint that `read` has accepted.
      dtype: of the parameters.
    """
    weights = {tensor.file.name for tensor in _find_tensors(directory, []).values()}
    total = hashlib.sha256(jnp.dtype(dtype).name.encode())
    for name in (CONFIG, TOKENIZER, *TOKENIZER_EXTRAS, *sorted(weights)):
        if (directory / name).is_file():
            with open(directory / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            total.update(f"\n{name} {digest.hexdigest()}".encode())
    return total.hexdigest()


def to_hf(config: DecoderConfig, params: nnx.State) -> dict[str, np.ndarray]:
    """A decoder's parameters by the names and in the layout of a Hugging Face checkpoint.

    Written with `safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})` they are
    read by transformers, and by `read`.

    Args:
      config: the decoder's config.
      params: its parameters, as from `nnx.split`.

    Returns:
      Tensor name -> array.
    """
    tensors = {}
    for path, parameter in nnx.to_flat_state(params):
        value = np.asarray(parameter[...])
        value = value.T if _is_kernel(path) else value
        tensors[tensor_name(path, config)] = np.ascontiguousarray(value)
    return tensors


def tensor_name(path: tuple[Any, ...], config: DecoderConfig) -> str:
    """The checkpoint's name of the parameter at `path` of a decoder."""
    if path[0] != "blocks":
        return _TENSORS[".".join(map(str, path))]
    names = _POST_NORM_BLOCK_TENSORS if config.post_norms else _BLOCK_TENSORS
    return f"model.layers.{path[1]}.{names['.'.join(map(str, path[2:]))]}"


class _Tensor(NamedTuple):
    """What a file's header says about one of its tensors."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def _read_config(directory: Path, problems: list[str]) -> DecoderConfig | None:
    fields = _read_json(directory / CONFIG, problems)
    if fields is None:
        return None
    try:
        return DecoderConfig.from_hf(fields)
    except CheckpointError as error:
        problems += [f"{CONFIG}: {problem}" for problem in error.problems]


def _find_tensors(directory: Path, problems: list[str]) -> dict[str, _Tensor]:
    """Reads the headers of all weight files: tensor name -> where and what it is."""
    if (directory / WEIGHTS).is_file():
        return _read_header(directory / WEIGHTS, problems)
    if (directory / INDEX).is_file():
        return _read_shard_headers(directory, problems)
    problem = f"there is neither {WEIGHTS} nor {INDEX}"
    if next(directory.glob("*.bin"), None):
        problem += "; *.bin files are pickles, which can run code and are never read"
    problems.append(problem)
    return {}


def _read_shard_headers(directory: Path, problems: list[str]) -> dict[str, _Tensor]:
    index = _read_json(directory / INDEX, problems)
    if index is None:
        return {}
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict):
        problems.append(f"{INDEX} has no table weight_map")
        return {}
    tensors = {}
    for shard in sorted({str(shard) for shard in shard_of.values()}):
        # A bare name, so that an index cannot point out of its directory.
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            problems.append(f"{INDEX} names {shard!r}, which is no safetensors file beside it")
        elif not (directory / shard).is_file():
            problems.append(f"{INDEX} names {shard}, which is missing")
        else:
            header = _read_header(directory / shard, problems)
            absent = [name for name in shard_of if shard_of[name] == shard and name not in header]
            if header and absent:
                problems.append(f"{shard} lacks tensors that {INDEX} expects: {_listed(absent)}")
            tensors |= header
    return tensors


def _read_header(path: Path, problems: list[str]) -> dict[str, _Tensor]:
    tensors = {}
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            for name in names:
                tensor = file.get_slice(name)
                tensors[name] = _Tensor(path, tuple(tensor.get_shape()), tensor.get_dtype())
    except (SafetensorError, OSError) as error:
        problems.append(f"{path.name} is cut short or is no safetensors file: {error}")
    return tensors


def _compare(
    config: DecoderConfig,
    shapes: dict[tuple[Any, ...], tuple[int, ...]],
    tensors: dict[str, _Tensor],
    problems: list[str],
) -> None:
    """Compares the tensors that the decoder needs with those that the files have."""
    expected = {}
    for path, shape in shapes.items():
        expected[tensor_name(path, config)] = shape[::-1] if _is_kernel(path) else shape
    missing = [name for name in expected if name not in tensors]
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {_listed(missing)}")
    unexpected = [name for name in tensors if name not in expected and not _is_spare(name, config)]
    if unexpected:
        problems.append(
            f"{len(unexpected)} tensors have no place in this architecture: {_listed(unexpected)}"
        )
    present = {name: tensor for name, tensor in tensors.items() if name in expected}
    wrong_shape = [
        f"{name} is {list(tensor.shape)} instead of {list(expected[name])}"
        for name, tensor in present.items()
        if tensor.shape != expected[name]
    ]
    if wrong_shape:
        problems.append(f"{len(wrong_shape)} tensors have the wrong shape: {_listed(wrong_shape)}")
    wrong_dtype = [
        f"{name} is {tensor.dtype}"
        for name, tensor in present.items()
        if tensor.dtype not in _DTYPES
    ]
    if wrong_dtype:
        problems.append(
            f"{len(wrong_dtype)} tensors are not of a supported dtype ({', '.join(_DTYPES)}): "
            f"{_listed(wrong_dtype)}"
        )


def _is_spare(name: str, config: DecoderConfig) -> bool:
    """Whether a tensor may be there although nothing needs it."""
    tied_copy = config.tie_word_embeddings and name == "lm_head.weight"
    return tied_copy or name.endswith("rotary_emb.inv_freq")  # Old Llama files; computed here.


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return path[-1] == "kernel"


def _shape_only(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Any:
    """Stands in for a matrix that is still to be read."""
    # With `nnx.eval_shape` instead, a big decoder's random draws would take seconds to trace.
    return jax.ShapeDtypeStruct(shape, dtype)


def _read_tensor(path: Path, name: str) -> np.ndarray:
    # Opened anew for each tensor: a file that stays open keeps every page it has read in memory.
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _convert(raw: np.ndarray, dtype: Any, transpose: bool) -> np.ndarray:
    # In NumPy, because JAX would compile this for each shape, which takes longer than doing it.
    with np.errstate(over="ignore"):
        return np.asarray(raw.T if transpose else raw, dtype=dtype, order="C")


def _read_json(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """Reads a JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read as JSON: {error}")
    else:
        if isinstance(content, dict):
            return content
        problems.append(f"{path.name} holds something else than a JSON object")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
