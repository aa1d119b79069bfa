"""Adapters on disk: low-rank factors (`lora`) in a directory as PEFT writes and reads it.

A directory has `adapter_config.json`, which names the base model, and the factors in
`adapter_model.safetensors`. `models.load` takes such a directory like a model's, and returns the
adapted model. Adapters with anything but plain low-rank factors (matrices stored whole, DoRA, ranks
per layer) raise an error that names it.

Example:
  >>> lm = models.load("tiny")
  >>> factors = models.lora.init(jax.random.key(0), lm.params, 2)
  >>> models.adapters.write("tea_maker", "tiny", lm.config, factors)
  >>> models.adapters.open_adapter("tea_maker").base
  'tiny'
  >>> adapted = models.load("tea_maker")  # the same model, since no factor has learned yet
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError, safe_open

from llmprior_jax.files import write_atomically
from llmprior_jax.models import architectures, lora
from llmprior_jax.models.checkpoint import listed
from llmprior_jax.models.config import CheckpointError
from llmprior_jax.models.encoder_decoder import EncoderDecoderConfig
from llmprior_jax.models.formats import hf_directory
from llmprior_jax.ranges import POSITIVE, WIDTH

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS, f".{CONFIG}.partial", f".{WEIGHTS}.partial")
"""What `write` makes, what a kill leaves included."""
_KERNEL, _WEIGHT = "/kernel", ".weight"
# PEFT's names of tensors are those of the model within its own wrappers.
_PREFIX = "base_model.model."
# Fields of a config that make of an adapter more than plain factors, unless they are empty.
_MORE = (
    *("alpha_pattern", "rank_pattern", "fan_in_fan_out", "layer_replication", "lora_bias"),
    *("modules_to_save", "trainable_token_indices", "use_dora", "alora_invocation_tokens"),
)
# Beginnings that change the base model, too.
_OF_ANOTHER_BASE = ("pissa", "olora", "corda", "loftq")
_DTYPES = hf_directory.HFDirectory.dtypes


class Adapter(NamedTuple):
    """An adapter whose config was read, and no weights yet.

    Attributes:
      directory: where it is.
      base: the model that it adapts, as `models.load` takes it.
      rank: R, of the factors.
      scale: of their product.
    """

    directory: Path
    base: str
    rank: int
    scale: float

    @property
    def identity(self) -> str:
        """What identifies its numbers: a hash of the factors' file, and the scale."""
        with self._path.open("rb") as file:
            return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {self.scale!r}"

    @property
    def _path(self) -> Path:
        return self.directory / WEIGHTS

    def read(self, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, lora.Factors]:
        """The factors of a model's matrices in float32, the scale within `b`.

        Args:
          config: of the model that is adapted.
          shapes: of its parameters by their path, as `lora` writes it.

        Raises:
          CheckpointError: they are of another model, or damaged.
        """
        problems: list[str] = []
        places = self._places(config, shapes, problems)
        if not problems:
            arrays = {path: tuple(map(self._read_tensor, names)) for path, names in places.items()}
            not_finite = [
                path for path, pair in arrays.items() if not all(np.isfinite(a).all() for a in pair)
            ]
            if not not_finite:
                return {
                    path: lora.Factors(jnp.asarray(a.T), jnp.asarray(self.scale * b.T))
                    for path, (a, b) in arrays.items()
                }
            problems.append(f"{WEIGHTS} has values that are infinite or NaN: {listed(not_finite)}")
        raise CheckpointError(str(self.directory), problems)

    def check(self, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises the error that `read` would, as far as that shows without the factors' values."""
        problems: list[str] = []
        self._places(config, shapes, problems)
        if problems:
            raise CheckpointError(str(self.directory), problems)

    def _places(
        self, config: Any, shapes: Mapping[str, tuple[int, ...]], problems: list[str]
    ) -> dict[str, tuple[str, str]]:
        """The names of both factors of each matrix, by its path; adds what is wrong."""
        try:
            with safe_open(self._path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                found = {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
        except (SafetensorError, OSError) as error:
            problems.append(f"{WEIGHTS} is missing, cut short or no safetensors file: {error}")
            return {}
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
        places: dict[str, tuple[str, str]] = {}
        for path, module in _modules(config, shapes).items():
            inputs, outputs = shapes[path]
            pair = (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
            wanted[pair[0]] = (path, (self.rank, inputs))
            wanted[pair[1]] = (path, (outputs, self.rank))
            if pair[0] in found or pair[1] in found:
                places[path] = pair
        lacking = [name for pair in places.values() for name in pair if name not in found]
        of = f"the model {self.base} (base_model_name_or_path in {CONFIG})"
        foreign = [name for name in found if name not in wanted]
        wrong = [
            f"{name} is {list(shape)} instead of {list(wanted[name][1])}"
            for name, (shape, _) in found.items()
            if name in wanted and shape != wanted[name][1]
        ]
        unread = [
            f"{name} is {dtype}" for name, (_, dtype) in found.items() if dtype not in _DTYPES
        ]
        if foreign:
            problems.append(f"{len(foreign)} tensors have no place in {of}: {listed(foreign)}")
        if lacking:
            problems.append(f"{len(lacking)} tensors are missing: {listed(lacking)}")
        if wrong:
            problems.append(
                f"{len(wrong)} tensors have the wrong shape for {of} and rank {self.rank} (r): "
                f"{listed(wrong)}; name the model that the adapter was made for"
            )
        if unread:
            problems.append(f"{len(unread)} tensors are of no supported dtype: {listed(unread)}")
        if not places and not foreign:
            problems.append(f"{WEIGHTS} holds no factors")
        return places

    def _read_tensor(self, name: str) -> np.ndarray:
        with safe_open(self._path, framework="numpy") as file:
            return np.asarray(file.get_tensor(name)).astype(np.float32)


def is_adapter(path: str | Path) -> bool:
    """Whether a path is a directory with an adapter and not with a whole model."""
    directory = Path(path).expanduser()
    return (directory / CONFIG).is_file() and not (directory / hf_directory.CONFIG).exists()


def open_adapter(directory: str | Path) -> Adapter:
    """Opens the adapter of a directory; no weights are read.

    Raises:
      CheckpointError: its config cannot be read, or is of another kind of adapter.
    """
    directory = Path(directory).expanduser()
    problems: list[str] = []
    fields: dict[str, Any] = hf_directory.read_json(directory / CONFIG, problems) or {}
    base: Any = fields.get("base_model_name_or_path")
    rank: Any = fields.get("r")
    alpha: Any = fields.get("lora_alpha")
    if fields and fields.get("peft_type") != "LORA":
        problems.append(f"{CONFIG}: peft_type is {fields.get('peft_type')!r}; supported is 'LORA'")
    elif fields:
        if not isinstance(base, str) or not base:
            problems.append(f"{CONFIG}: base_model_name_or_path names no model: {base!r}")
        elif is_adapter(base):
            problems.append(f"{CONFIG}: base_model_name_or_path is an adapter itself: {base}")
        if rank not in WIDTH:
            problems.append(f"{CONFIG}: r is {rank!r}; use {WIDTH}")
        if alpha not in POSITIVE:
            problems.append(f"{CONFIG}: lora_alpha is {alpha!r}; use {POSITIVE}")
        if fields.get("bias") not in (None, "none"):
            problems.append(f"{CONFIG}: bias is {fields['bias']!r}; supported is 'none'")
        begun = str(fields.get("init_lora_weights"))
        if begun.startswith(_OF_ANOTHER_BASE):
            problems.append(
                f"{CONFIG}: init_lora_weights is {begun!r}, whose factors belong to a base model "
                "from which they were subtracted; convert it to a plain adapter with PEFT"
            )
        problems += [
            f"{CONFIG}: {name} is {fields[name]!r}, and only plain factors are supported"
            for name in _MORE
            if fields.get(name)
        ]
    if not (directory / WEIGHTS).is_file():
        problem = f"{WEIGHTS} is missing"
        if (directory / "adapter_model.bin").exists():
            problem += "; adapter_model.bin is a pickle, which can run code and is never read"
        problems.append(problem)
    if problems:
        raise CheckpointError(str(directory), problems)
    # As was just checked, which no type checker sees.
    base, rank, alpha = str(base), int(rank), float(alpha)
    divisor = math.sqrt(rank) if fields.get("use_rslora") else rank
    return Adapter(directory, base, rank, alpha / divisor)


def write(directory: str | Path, base: str, config: Any, factors: Mapping[str, Any]) -> None:
    """Writes factors as an adapter of the model `base`, in PEFT's layout.

    The scale is 1: `lora_alpha` is the rank. Files are replaced one at a time, the weights first.

    Examples:
      >>> lm = models.load("tiny")
      >>> factors = models.lora.init(jax.random.key(0), lm.params, 2)
      >>> models.adapters.write("adapter", "tiny", lm.config, factors)
      >>> adapted = models.load("adapter")
      >>> adapted.fingerprint != lm.fingerprint  # it may give other numbers
      True

    Args:
      directory: made if need be.
      base: the model that is adapted, as `models.load` takes it.
      config: of that model.
      factors: `lora.Factors` by the path of their matrix, as from `lora.init`.

    Raises:
      ValueError: there are no factors.
      OSError: the directory cannot be written.
    """
    if not factors:
        raise ValueError("there are no factors to write; make some with lora.init")
    modules = _modules(config, dict.fromkeys(factors))
    arrays: dict[str, np.ndarray] = {}
    for path, pair in factors.items():
        for letter, factor in zip("AB", pair, strict=True):
            array = np.ascontiguousarray(np.asarray(factor, np.float32).T)
            arrays[f"{modules[path]}.lora_{letter}.weight"] = array
    rank = len(next(iter(arrays.values())))
    seq2seq = isinstance(config, EncoderDecoderConfig)
    fields = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({module.rpartition(".")[2] for module in modules.values()}),
        "inference_mode": True,
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    write_atomically(directory / WEIGHTS, content)
    write_atomically(directory / CONFIG, json.dumps(fields, indent=2) + "\n")


def shapes_of(params: nnx.State[Any, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's parameters by their path, as `lora` writes it."""
    flat = nnx.to_flat_state(params)
    return {"/".join(map(str, path)): parameter.shape for path, parameter in flat}


def _modules(config: Any, paths: Mapping[str, Any]) -> dict[str, str]:
    """What PEFT calls the modules whose matrices have these paths, those of linear layers."""
    name_of = architectures.of(config).tensor_name

    def module(path: str) -> str:
        parts = tuple(int(part) if part.isdigit() else part for part in path.split("/"))
        return _PREFIX + name_of(parts, config).removesuffix(_WEIGHT)

    return {path: module(path) for path in paths if path.endswith(_KERNEL)}
