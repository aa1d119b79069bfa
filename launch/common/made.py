"""Files that a command makes once, and that another command must not have made."""

import pathlib
import shlex

from launch.common import children, run_pool
from llmprior_jax.distributed import locks
from llmprior_jax.files import write_atomically


def make_once(path: pathlib.Path, module: str, *arguments: str) -> None:
    """Makes a file or a directory by a command, unless that made it before.

    Args:
      path: where it is to be.
      module: of the command, which takes `--out`.
      arguments: its other arguments.

    Raises:
      ValueError: it was made by another command.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    finished = path.with_suffix(f"{path.suffix}.complete")
    # Wherever the work directory lies.
    command = shlex.join([module, *arguments]).replace(f"{path.parent}/", "")
    with locks.hold(path.with_suffix(f"{path.suffix}.lock"), of=path, wait=True):
        if not finished.exists():
            with run_pool.timed(path.parent, path.name):
                children.run(module, *arguments, f"--out={path}")
            write_atomically(finished, command + "\n")
    if finished.read_text().strip() != command:
        raise ValueError(
            f"{path} was made by `{finished.read_text().strip()}`, and `{command}` is wanted; use "
            "another --workdir"
        )
