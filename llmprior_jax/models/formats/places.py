"""Where a checkpoint is: a directory, a GGUF file, or a place on the Hugging Face hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from llmprior_jax.models.checkpoint import Checkpoint
from llmprior_jax.models.config import CheckpointError
from llmprior_jax.models.formats import hf_directory
from llmprior_jax.models.formats.gguf_checkpoint import GGUFCheckpoint
from llmprior_jax.models.formats.gguf_file import all_parts, directory_part, is_named_so
from llmprior_jax.models.formats.hf_directory import HFDirectory

_EMBEDDED = {"tiny": Path(__file__).parent.parent / "tiny"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
# A GGUF file of a repository on the hub: owner/name/file.gguf, with folders between if need be.
_HUB_FILE = re.compile(
    r"([A-Za-z0-9][\w.-]*/[\w.-]+)/((?:[\w-][\w. +-]*/)*[\w-][\w. +-]*(?i:\.gguf))"
)


def find(path_or_hub_id: str | Path, files: Sequence[str], weights: bool = True) -> Path:
    """A checkpoint's directory, or its GGUF file; what is on the hub is downloaded once.

    Args:
      path_or_hub_id: as `models.load` takes it.
      files: names or patterns of files that are wanted from the hub, of a directory.
      weights: whether shards that an index lists are wanted, too.

    Raises:
      CheckpointError: it is neither here nor on the hub, or a directory holds several GGUF files.
    """
    name = str(path_or_hub_id)
    path = _EMBEDDED.get(name, Path(name).expanduser())
    if path.is_dir():
        if (path / hf_directory.CONFIG).exists():
            return path
        return directory_part(path) or path
    if path.is_file():
        if is_named_so(path):
            return path
        raise CheckpointError(
            name, ["it is a file that is no GGUF; give the directory of a checkpoint"]
        )
    if on_hub := _HUB_FILE.fullmatch(name):
        hub_id, file = on_hub.groups()
        # A split file is wanted with all of its parts.
        return _download(hub_id, [all_parts(glob.escape(file))]) / file
    if is_named_so(path):
        raise CheckpointError(
            name,
            ["there is no such file; one on the Hugging Face hub is called owner/name/file.gguf"],
        )
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            name, ["it is no directory, and its name is not of the form that hub ids have"]
        )
    directory = _download(name, files)
    if weights and (directory / hf_directory.INDEX).is_file():
        index = hf_directory.read_json(directory / hf_directory.INDEX, [])
        # What is wrong with the index is said by who reads the checkpoint.
        shards = hf_directory.shard_names(index or {}, [])
        if shards:
            directory = _download(name, [glob.escape(shard) for shard in shards])
    if weights and not (directory / hf_directory.CONFIG).is_file():
        raise CheckpointError(
            name,
            [
                f"the repository on the hub has no {hf_directory.CONFIG}; if it holds GGUF files, "
                f"say which: {name}/file.gguf"
            ],
        )
    return directory


def absolute(path_or_hub_id: str) -> str:
    """What a checkpoint is called from wherever it is loaded: a path is made absolute."""
    path = Path(path_or_hub_id).expanduser()
    is_here = path_or_hub_id not in _EMBEDDED and path.exists()
    return str(path.absolute()) if is_here else path_or_hub_id


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint of a directory or a GGUF file.

    Raises:
      CheckpointError: a GGUF file is damaged.
    """
    return HFDirectory(path) if path.is_dir() else GGUFCheckpoint(path)


def _download(hub_id: str, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            hub_id,
            [
                "it is no directory here, and the Hugging Face hub did not give it: check the "
                "name, the network, and for a gated model that you are logged in; or download the "
                f"checkpoint elsewhere and give its path ({type(error).__name__}: {error})"
            ],
        ) from error
