"""Hugging Face checkpoint directories, read as they are.

A directory holds `config.json`, the weights in `model.safetensors` or in several shards that
`model.safetensors.index.json` lists, and the tokenizer. The weights are read tensor by tensor, so
that the host holds no more than the parameters and copies of one tensor. The files come from
outside: everything about them is checked before it is believed, and all that is wrong is said at
once.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open

from llmprior_jax.models import architectures
from llmprior_jax.models.architectures import Architecture
from llmprior_jax.models.config import CheckpointError, Reader

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# Weights, config and tokenizer: data only, no code and no pickles.
FILES = (CONFIG, WEIGHTS, INDEX, "model-*-of-*.safetensors", TOKENIZER, *TOKENIZER_EXTRAS)
_DTYPES = ("F64", "F32", "F16", "BF16")
_MOST_LISTED = 10


def read(
    directory: Path, dtype: Any, supported: Mapping[str, Architecture]
) -> tuple[Any, nnx.GraphDef[Any], nnx.State[Any, Any]]:
    """Reads the model of a checkpoint directory.

    Args:
      directory: holds the checkpoint's files, the tokenizer's among them.
      dtype: of the parameters, whatever the files have.
      supported: the architectures that will do, by `model_type`.

    Returns:
      The model's config, its graph definition, and its parameters on the default device.

    Raises:
      CheckpointError: files or tensors are missing, malformed, not supported, or do not fit one
        another; the message lists them all.
    """
    problems: list[str] = []
    tensors = _find_tensors(directory, problems)
    architecture, config, tensors = _read_config(directory, supported, tensors, problems)
    if not (directory / TOKENIZER).is_file():
        problems.append(
            f"{TOKENIZER} is missing; transformers makes it out of a tokenizer in an older form: "
            "AutoTokenizer.from_pretrained(old).save_pretrained(new)"
        )
    if architecture is None or problems:
        raise CheckpointError(str(directory), problems)
    _compare_sizes(config, tensors, problems)
    if problems:
        raise CheckpointError(str(directory), problems)

    model = architecture.module(config, rngs=nnx.Rngs(0), dtype=dtype, init=_shape_only)
    graphdef, abstract = nnx.split(model)
    parameters = dict(nnx.to_flat_state(abstract))
    shapes = {
        architecture.tensor_name(path, config): p.shape[::-1] if _is_kernel(path) else p.shape
        for path, p in parameters.items()
    }
    _compare(shapes, tensors, lambda name: architecture.spare(name, config), problems)
    if problems:
        raise CheckpointError(str(directory), problems)

    not_finite = []
    for path, parameter in parameters.items():
        tensor = tensors[architecture.tensor_name(path, config)]
        raw = _read_tensor(tensor.file, tensor.name)
        value = _convert(raw, jnp.dtype(dtype), _is_kernel(path))
        del raw
        if not np.isfinite(value).all():
            not_finite.append(f"{tensor.name} in {tensor.file.name}")
        parameters[path] = parameter.replace(jnp.asarray(value))
    if not_finite:
        as_dtype = f"infinite or NaN as {jnp.dtype(dtype).name}"
        problems = [f"{len(not_finite)} tensors have values {as_dtype}: {_listed(not_finite)}"]
        raise CheckpointError(str(directory), problems)
    return config, graphdef, nnx.from_flat_state(parameters)


def fingerprint(directory: Path, dtype: Any, more: str = "") -> str:
    """SHA-256 over all that decides a model's numbers, as 64 hexadecimal digits.

    That is the bytes of config, tokenizer and weights, and the dtype they are computed in. The
    files are streamed, at one to three seconds per gigabyte: no more than reading them takes.

    Args:
      directory: a checkpoint that `read` has accepted.
      dtype: of the parameters.
      more: what else the numbers depend on.
    """
    weights = {tensor.file.name for tensor in _find_tensors(directory, []).values()}
    total = hashlib.sha256((jnp.dtype(dtype).name + more).encode())
    for name in (CONFIG, TOKENIZER, *TOKENIZER_EXTRAS, *sorted(weights)):
        if (directory / name).is_file():
            with open(directory / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            total.update(f"\n{name} {digest.hexdigest()}".encode())
    return total.hexdigest()


def to_hf(config: Any, params: nnx.State[Any, Any]) -> dict[str, np.ndarray]:
    """A model's parameters by the names and in the layout of a Hugging Face checkpoint.

    Written with `safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})` they are
    read by transformers, and by `read`.

    Args:
      config: the model's config.
      params: its parameters, as from `nnx.split`.

    Returns:
      Tensor name -> array.
    """
    name_of = architectures.of(config).tensor_name
    tensors = {}
    for path, parameter in nnx.to_flat_state(params):
        value = np.asarray(parameter[...])
        value = value.T if _is_kernel(path) else value
        tensors[name_of(path, config)] = np.ascontiguousarray(value)
    return tensors


class _Tensor(NamedTuple):
    """What a file's header says about one of its tensors."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def _read_config(
    directory: Path,
    supported: Mapping[str, Architecture],
    tensors: dict[str, _Tensor],
    problems: list[str],
) -> tuple[Architecture | None, Any, dict[str, _Tensor]]:
    """The architecture, its config, and the tensors by the names that it has for them."""
    fields = read_json(directory / CONFIG, problems)
    if fields is None:
        return None, None, tensors
    reader = Reader(fields)
    architecture = supported.get(reader.choice("model_type", tuple(supported)))
    problems += [f"{CONFIG}: {problem}" for problem in reader.problems]
    if fields.get("model_type") in tuple(architectures.ENCODERS) and architecture is None:
        problems.append("it is a text encoder, which models.load_encoder loads")
    if architecture is None:
        return None, None, tensors
    tensors = {architecture.standard_name(name): tensor for name, tensor in tensors.items()}
    try:
        return architecture, architecture.read_config(fields, tensors.keys()), tensors
    except CheckpointError as error:
        problems += [f"{CONFIG}: {problem}" for problem in error.problems]
        return None, None, tensors


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
    index = read_json(directory / INDEX, problems)
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
                tensors[name] = _Tensor(path, name, tuple(tensor.get_shape()), tensor.get_dtype())
    except (SafetensorError, OSError) as error:
        problems.append(f"{path.name} is cut short or is no safetensors file: {error}")
    return tensors


def _compare_sizes(config: Any, tensors: dict[str, _Tensor], problems: list[str]) -> None:
    """Refuses sizes that the files cannot possibly have, before anything is laid out by them."""
    values = sum(math.prod(tensor.shape) for tensor in tensors.values())
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads times head_dim": config.num_attention_heads * config.head_dim,
    }
    held = f"the weight files hold no more than {len(tensors)} tensors with {values} values"
    for name in ("num_hidden_layers", "num_decoder_layers"):
        layers = getattr(config, name, 0)
        if layers > len(tensors):
            problems.append(f"{CONFIG}: {name} is {layers}, but {held}")
    for name, size in sizes.items():
        if size > values:
            problems.append(f"{CONFIG}: {name} is {size}, but {held}")


def _compare(
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, _Tensor],
    is_spare: Callable[[str], bool],
    problems: list[str],
) -> None:
    """Compares the shapes of the tensors that a model needs with those that the files have."""
    present = {name: tensor for name, tensor in tensors.items() if name in expected}
    wrong = {
        "are missing": [name for name in expected if name not in tensors],
        "have no place in this architecture": [
            name for name in tensors if name not in expected and not is_spare(name)
        ],
        "have the wrong shape": [
            f"{name} is {list(tensor.shape)} instead of {list(expected[name])}"
            for name, tensor in present.items()
            if tensor.shape != expected[name]
        ],
        f"are not of a supported dtype ({', '.join(_DTYPES)})": [
            f"{name} is {tensor.dtype}"
            for name, tensor in present.items()
            if tensor.dtype not in _DTYPES
        ],
    }
    problems += [f"{len(of)} tensors {are}: {_listed(of)}" for are, of in wrong.items() if of]


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


def read_json(path: Path, problems: list[str], kind: type = dict) -> Any:
    """Reads a JSON object, or a list; adds to `problems` and returns None if it cannot."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name} cannot be read as JSON: {error}")
    else:
        if isinstance(content, kind):
            return content
        wanted = {dict: "object", list: "list"}[kind]
        problems.append(f"{path.name} holds something else than a JSON {wanted}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
