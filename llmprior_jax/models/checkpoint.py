"""Open checkpoints, in whatever format, and the one way that models are read from them.

A `Checkpoint` is the fields of a config, tensors by the names that Hugging Face has for them, a
tokenizer, and the files that decide its numbers. `hf_directory` and `gguf_checkpoint` are the two
formats. Tensors are read in pieces into the very memory that JAX computes with, so that the host
holds no more than the parameters and one piece. The files come from outside: everything about them
is checked before it is believed, and all that is wrong is said at once.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.models import architectures
from llmprior_jax.models.architectures import Architecture
from llmprior_jax.models.config import CheckpointError, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Raised when this package comes to compute other numbers from the same files, in its models or by
# how texts become tokens and tokens scores (`priors`). All that is kept of what a model said goes
# by fingerprints, so it is then asked anew, and a run with older numbers is refused. What 2
# changed: a tied model uses the other head that its file has, and a text that carries its BOS gets
# no second one. 3: features are hidden states made short.
_NUMBERS = 3
_MOST_LISTED = 10
# Values of one piece: small beside a model, large beside what it costs to begin one.
_PIECE = 2**18
# JAX takes memory over without a copy if it is aligned so; what NumPy allocates is not.
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Tensor(abc.ABC):
    """A tensor in a file.

    Attributes:
      file: where it is.
      name: what the file calls it.
      shape: in the layout of Hugging Face checkpoints.
      dtype: what the file calls its number format.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    @abc.abstractmethod
    def read_rows(self, start: int, stop: int) -> tuple[Any, np.ndarray]:
        """Some of its rows: their indices along the first axis, and their values."""

    def pieces(self) -> Iterator[tuple[Any, np.ndarray]]:
        """All of it, a few rows at a time."""
        rows = self.shape[0] if self.shape else 0
        step = max(1, _PIECE * rows // max(math.prod(self.shape), 1))
        for start in range(0, rows, step):
            yield self.read_rows(start, min(start + step, rows))


class Checkpoint(abc.ABC):
    """A checkpoint whose files were found.

    Attributes:
      path: what it is called in errors.
      config_file: where the fields of its config are.
      tokenizer_file: where its tokenizer is.
      dtypes: the number formats of tensors that can be read.
    """

    path: Path
    config_file: str
    tokenizer_file: str
    dtypes: tuple[str, ...]

    @abc.abstractmethod
    def read_fields(self, problems: list[str]) -> Mapping[str, Any] | None:
        """The fields of a `config.json`; adds what is wrong to `problems`."""

    @abc.abstractmethod
    def find_tensors(self, problems: list[str]) -> Mapping[str, Tensor]:
        """All tensors by Hugging Face's names; adds what is wrong to `problems`."""

    @abc.abstractmethod
    def check_tokenizer(self, problems: list[str]) -> None:
        """Adds to `problems` if there is no tokenizer."""

    @abc.abstractmethod
    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer, with its chat template; raises a CheckpointError."""

    @abc.abstractmethod
    def hashed(self) -> Sequence[tuple[str, Path]]:
        """The files that decide the model's numbers, and the names they go by in a fingerprint."""

    def name_in_file(self, name: str) -> str:
        """What its files call a tensor of that name."""
        return name

    def field_in_file(self, name: str) -> str:
        """What its files call a field of the config."""
        return name


class Contents(NamedTuple):
    """What `read` gives: config, graph definition, parameters on the default device, tokenizer."""

    config: Any
    graphdef: nnx.GraphDef[Any]
    params: nnx.State[Any, Any]
    tokenizer: PreTrainedTokenizerFast


class _Checked(NamedTuple):
    """A model without its weights.

    Attributes:
      config: of the model.
      graphdef: graph definition.
      parameters: those of the model, of which only shapes are known.
      tensors: what holds each of them.
      tokenizer: its tokenizer.
    """

    config: Any
    graphdef: nnx.GraphDef[Any]
    parameters: dict[tuple[Any, ...], Any]
    tensors: dict[tuple[Any, ...], Tensor]
    tokenizer: PreTrainedTokenizerFast


def check(checkpoint: Checkpoint, dtype: Any, supported: Mapping[str, Architecture]) -> _Checked:
    """Finds all that `read` wants; no weights are read, but those that may be tied.

    Args:
      checkpoint: an open checkpoint.
      dtype: of the parameters, whatever the files have.
      supported: the architectures that will do, by `model_type`.

    Raises:
      CheckpointError: files or tensors are missing, malformed, not supported, or do not fit one
        another; the message lists them all.
    """
    problems: list[str] = []
    tensors = checkpoint.find_tensors(problems)
    architecture, config, tensors = _read_config(checkpoint, supported, tensors, problems)
    checkpoint.check_tokenizer(problems)
    if architecture is None or problems:
        raise CheckpointError(str(checkpoint.path), problems)
    _compare_sizes(checkpoint, config, tensors, problems)
    if problems:
        raise CheckpointError(str(checkpoint.path), problems)

    config, tensors = _untie(architecture, config, tensors, checkpoint.dtypes, dtype)
    model = architecture.module(config, rngs=nnx.Rngs(0), dtype=dtype, init=_shape_only)
    graphdef, abstract = nnx.split(model)
    parameters = dict(nnx.to_flat_state(abstract))
    shapes = {
        architecture.tensor_name(path, config): p.shape[::-1] if _is_kernel(path) else p.shape
        for path, p in parameters.items()
    }
    _compare(checkpoint, shapes, tensors, lambda n: architecture.spare(n, config), problems)
    if problems:
        raise CheckpointError(str(checkpoint.path), problems)

    of_parameters = {path: tensors[architecture.tensor_name(path, config)] for path in parameters}
    tokenizer = _load_tokenizer(checkpoint, config)
    return _Checked(config, graphdef, parameters, of_parameters, tokenizer)


def read(checkpoint: Checkpoint, dtype: Any, supported: Mapping[str, Architecture]) -> Contents:
    """Reads the model of a checkpoint.

    On a CPU the host's memory holds the parameters once, and some 50 MB while it reads.

    Args:
      checkpoint: an open checkpoint.
      dtype: of the parameters, whatever the files have.
      supported: the architectures that will do, by `model_type`.

    Raises:
      CheckpointError: see `check`; or a weight is not finite.
    """
    # The tokenizer before the weights, so that what making it takes is free when they come.
    config, graphdef, parameters, tensors, tokenizer = check(checkpoint, dtype, supported)
    not_finite: list[str] = []
    for path, parameter in parameters.items():
        tensor = tensors[path]
        value, finite = _read_tensor(tensor, jnp.dtype(dtype), _is_kernel(path))
        if not finite:
            not_finite.append(f"{tensor.name} in {tensor.file.name}")
        parameters[path] = parameter.replace(jax.device_put(value))
        del value
    if not_finite:
        as_dtype = f"infinite or NaN as {jnp.dtype(dtype).name}"
        problems = [f"{len(not_finite)} tensors have values {as_dtype}: {listed(not_finite)}"]
        raise CheckpointError(str(checkpoint.path), problems)
    return Contents(config, graphdef, nnx.from_flat_state(parameters), tokenizer)


def fingerprint(checkpoint: Checkpoint, dtype: Any, more: str = "") -> str:
    """SHA-256 over all that decides a model's numbers, as 64 hexadecimal digits.

    That is the bytes of config, tokenizer and weights, the dtype they are computed in, and the
    version of what computes them here. The files are streamed, at one to three seconds per
    gigabyte: no more than reading them takes.

    Args:
      checkpoint: one that `read` has accepted.
      dtype: of the parameters.
      more: what else the numbers depend on.
    """
    total = hashlib.sha256(f"numbers {_NUMBERS} {jnp.dtype(dtype).name}{more}".encode())
    for name, path in checkpoint.hashed():
        with open(path, "rb") as file:
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


def listed(names: Sequence[str]) -> str:
    """The first names of a list that may be long, for an error."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _read_config(
    checkpoint: Checkpoint,
    supported: Mapping[str, Architecture],
    tensors: Mapping[str, Tensor],
    problems: list[str],
) -> tuple[Architecture | None, Any, Mapping[str, Tensor]]:
    """The architecture, its config, and the tensors by the names that it has for them."""
    fields = checkpoint.read_fields(problems)
    if fields is None:
        return None, None, tensors
    place = checkpoint.config_file
    reader = Reader(fields)
    architecture = supported.get(reader.choice("model_type", tuple(supported)))
    problems += [f"{place}: {problem}" for problem in reader.problems]
    if fields.get("model_type") in tuple(architectures.ENCODERS) and architecture is None:
        problems.append("it is a text encoder, which models.load_encoder loads")
    if architecture is None:
        return None, None, tensors
    tensors = {architecture.standard_name(name): tensor for name, tensor in tensors.items()}
    try:
        return architecture, architecture.read_config(fields, tensors.keys()), tensors
    except CheckpointError as error:
        for problem in error.problems:
            field, _, rest = problem.partition(" ")
            problems.append(f"{place}: {checkpoint.field_in_file(field)} {rest}")
        return None, None, tensors


def _load_tokenizer(checkpoint: Checkpoint, config: Any) -> PreTrainedTokenizerFast:
    tokenizer = checkpoint.load_tokenizer()
    # Tokens added later, such as an image's, may lie beyond the embedding and mostly never occur.
    if tokenizer.vocab_size > config.vocab_size:
        problem = (
            f"{checkpoint.tokenizer_file} has {tokenizer.vocab_size} tokens, but the model embeds "
            f"only {config.vocab_size} (vocab_size in {checkpoint.config_file}): it belongs to "
            "another model"
        )
        raise CheckpointError(str(checkpoint.path), [problem])
    return tokenizer


def _untie(
    architecture: Architecture,
    config: Any,
    tensors: Mapping[str, Tensor],
    readable: tuple[str, ...],
    dtype: Any,
) -> tuple[Any, Mapping[str, Tensor]]:
    """What becomes of a config that ties two tensors, of which the files have one or both.

    The files are right, as transformers 5 has it: two that differ are two, and one that is there
    stands for both.
    """
    if architecture.tied is None or not config.tie_word_embeddings:
        return config, tensors
    embed, head = architecture.tied
    if head not in tensors:
        return config, tensors
    if embed not in tensors:
        return config, {embed if name == head else name: t for name, t in tensors.items()}
    if _equal(tensors[embed], tensors[head], readable, jnp.dtype(dtype)):
        return config, tensors
    return dataclasses.replace(config, tie_word_embeddings=False), tensors


def _equal(first: Tensor, second: Tensor, readable: tuple[str, ...], dtype: Any) -> bool:
    if first.shape != second.shape or not {first.dtype, second.dtype} <= set(readable):
        return False
    return all(
        np.array_equal(_converted(a, dtype), _converted(b, dtype))
        for (_, a), (_, b) in zip(first.pieces(), second.pieces(), strict=True)
    )


def _compare_sizes(
    checkpoint: Checkpoint, config: Any, tensors: Mapping[str, Tensor], problems: list[str]
) -> None:
    """Refuses sizes that the files cannot possibly have, before anything is laid out by them."""
    values = sum(math.prod(tensor.shape) for tensor in tensors.values())
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads times head_dim": config.num_attention_heads * config.head_dim,
    }
    held = f"the weight files hold no more than {len(tensors)} tensors with {values} values"
    place = checkpoint.config_file
    for name in ("num_hidden_layers", "num_decoder_layers"):
        layers = getattr(config, name, 0)
        if layers > len(tensors):
            problems.append(f"{place}: {name} is {layers}, but {held}")
    for name, size in sizes.items():
        if size > values:
            problems.append(f"{place}: {name} is {size}, but {held}")


def _compare(
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    is_spare: Callable[[str], bool],
    problems: list[str],
) -> None:
    """Compares the shapes of the tensors that a model needs with those that the files have."""
    present = {name: tensor for name, tensor in tensors.items() if name in expected}
    called = checkpoint.name_in_file
    wrong = {
        "are missing": [called(name) for name in expected if name not in tensors],
        "have no place in this architecture": [
            called(name) for name in tensors if name not in expected and not is_spare(name)
        ],
        "have the wrong shape": [
            f"{called(name)} is {list(tensor.shape)} instead of {list(expected[name])}"
            for name, tensor in present.items()
            if tensor.shape != expected[name]
        ],
        f"are not of a supported dtype ({', '.join(checkpoint.dtypes)})": [
            f"{called(name)} is {tensor.dtype}"
            for name, tensor in present.items()
            if tensor.dtype not in checkpoint.dtypes
        ],
    }
    problems += [f"{len(of)} tensors {are}: {listed(of)}" for are, of in wrong.items() if of]


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return path[-1] == "kernel"


def _shape_only(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> Any:
    """Stands in for a matrix that is still to be read."""
    # With `nnx.eval_shape` instead, a big decoder's random draws would take seconds to trace.
    return jax.ShapeDtypeStruct(shape, dtype)


def _read_tensor(tensor: Tensor, dtype: Any, transpose: bool) -> tuple[np.ndarray, bool]:
    """The whole tensor, in memory that JAX takes over, and whether its values are finite."""
    value = _aligned(tensor.shape[::-1] if transpose else tensor.shape, dtype)
    as_in_file = value.T if transpose else value
    finite = True
    for rows, piece in tensor.pieces():
        piece = _converted(piece, dtype)
        finite = finite and bool(np.isfinite(piece).all())
        as_in_file[rows] = piece
    return value, finite


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _converted(values: np.ndarray, dtype: Any) -> np.ndarray:
    # In NumPy, because JAX would compile this for each shape, which takes longer than doing it.
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype, copy=False)
