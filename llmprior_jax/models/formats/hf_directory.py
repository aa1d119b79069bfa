"""Hugging Face checkpoint directories, read as they are.

A directory holds `config.json`, the weights in `model.safetensors` or in several shards that
`model.safetensors.index.json` lists, and the tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from llmprior_jax.files import parse_json
from llmprior_jax.models.checkpoint import Checkpoint, Tensor, listed
from llmprior_jax.models.config import CheckpointError
from llmprior_jax.models.formats.gguf_file import is_named_so

# Importing transformers takes seconds, and it imports torch where torch is installed. Only who
# loads a tokenizer pays for that.
if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATE = "chat_template.jinja"

# Config, tokenizer and weights: data only, no pickles, and no code but the templates of chats,
# which transformers runs in a sandbox. An index says which other files the weights are in.
TOKENIZER_FILES = (TOKENIZER, *TOKENIZER_EXTRAS, CHAT_TEMPLATE)
FILES = (CONFIG, WEIGHTS, INDEX, *TOKENIZER_FILES)


class HFDirectory(Checkpoint):
    """A checkpoint directory of Hugging Face's."""

    config_file = CONFIG
    tokenizer_file = TOKENIZER
    dtypes = ("F64", "F32", "F16", "BF16")

    def __init__(self, directory: Path):
        self.path = directory

    def read_fields(self, problems: list[str]) -> Mapping[str, Any] | None:
        return read_json(self.path / CONFIG, problems)

    def find_tensors(self, problems: list[str]) -> Mapping[str, Tensor]:
        if (self.path / WEIGHTS).is_file():
            return _read_header(self.path / WEIGHTS, problems)
        if (self.path / INDEX).is_file():
            return _read_shard_headers(self.path, problems)
        problem = f"there is neither {WEIGHTS} nor {INDEX}"
        if next(self.path.glob("*.bin"), None):
            problem += "; *.bin files are pickles, which can run code and are never read"
        if found := next(filter(is_named_so, sorted(self.path.iterdir())), None):
            problem += f"; a GGUF file is read when it is named itself: {found}"
        problems.append(problem)
        return {}

    def check_tokenizer(self, problems: list[str]) -> None:
        if not (self.path / TOKENIZER).is_file():
            problems.append(
                f"{TOKENIZER} is missing; transformers makes it out of a tokenizer in an older "
                "form: AutoTokenizer.from_pretrained(old).save_pretrained(new)"
            )

    def load_tokenizer(self) -> PreTrainedTokenizerFast:
        from transformers import PreTrainedTokenizerFast

        problems: list[str] = []
        self.check_tokenizer(problems)
        if problems:
            raise CheckpointError(str(self.path), problems)
        # The class for any tokenizer.json, whatever class tokenizer_config.json names: the file
        # alone says how text becomes tokens, and no other code is needed.
        try:
            return PreTrainedTokenizerFast.from_pretrained(self.path, local_files_only=True)
        except Exception as error:  # The tokenizers library raises bare Exceptions.
            problem = f"{TOKENIZER} cannot be read: {type(error).__name__}: {error}"
            raise CheckpointError(str(self.path), [problem]) from error

    def hashed(self) -> Sequence[tuple[str, Path]]:
        weights = {tensor.file.name for tensor in self.find_tensors([]).values()}
        names = (CONFIG, TOKENIZER, *TOKENIZER_EXTRAS, *sorted(weights))
        return [(name, self.path / name) for name in names if (self.path / name).is_file()]


class _Tensor(Tensor):
    def read_rows(self, start: int, stop: int) -> tuple[Any, np.ndarray]:
        # Opened anew for each piece: a file that stays open keeps every page it has read in memory.
        with safe_open(self.file, framework="numpy") as file:
            return slice(start, stop), file.get_slice(self.name)[start:stop]


def shard_names(index: Mapping[str, Any], problems: list[str]) -> list[str]:
    """The files that an index says hold tensors, all of them beside it."""
    shard_of = index.get("weight_map")
    if not isinstance(shard_of, dict):
        problems.append(f"{INDEX} has no table weight_map")
        return []
    shards: list[str] = []
    others: list[str] = []
    for shard in sorted({str(shard) for shard in shard_of.values()}):
        # A bare name, so that an index cannot point out of its directory.
        is_beside = Path(shard).name == shard and shard.endswith(".safetensors")
        (shards if is_beside else others).append(shard)
    if others:
        problems.append(
            f"{INDEX} names {len(others)} files that are no safetensors files beside it: "
            f"{listed([repr(other) for other in others])}"
        )
    return shards


def read_json(path: Path, problems: list[str], kind: type = dict) -> Any:
    """Reads a JSON object, or a list; adds to `problems` and returns None if it cannot."""
    try:
        content = parse_json(path.read_bytes(), path.name)
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} cannot be read as JSON: {error}")
    else:
        if isinstance(content, kind):
            return content
        wanted = {dict: "object", list: "list"}[kind]
        problems.append(f"{path.name} holds something else than a JSON {wanted}")


def _read_shard_headers(directory: Path, problems: list[str]) -> dict[str, Tensor]:
    index = read_json(directory / INDEX, problems)
    if index is None:
        return {}
    tensors: dict[str, Tensor] = {}
    shards = shard_names(index, problems)
    absent = [shard for shard in shards if not (directory / shard).is_file()]
    if absent:
        problems.append(f"{len(absent)} files that {INDEX} names are missing: {listed(absent)}")
    for shard in shards:
        if shard in absent:
            continue
        header = _read_header(directory / shard, problems)
        shard_of = index["weight_map"]
        lacking = [name for name in shard_of if shard_of[name] == shard and name not in header]
        if header and lacking:
            problems.append(f"{shard} lacks tensors that {INDEX} expects: {listed(lacking)}")
        tensors |= header
    return tensors


def _read_header(path: Path, problems: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            for name in names:
                tensor = file.get_slice(name)
                tensors[name] = _Tensor(path, name, tuple(tensor.get_shape()), tensor.get_dtype())
    except (SafetensorError, OSError) as error:
        problems.append(f"{path.name} is cut short or is no safetensors file: {error}")
    return tensors
