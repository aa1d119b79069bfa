"""Where results come from: what was run, from which source, by which versions, on what.

A work directory is read by people who did not make it. Beside its configuration it keeps a line for
every time that training was started in it.
"""

import datetime
import importlib.metadata
import json
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

from llmprior_jax.files import append

FILE = "provenance.jsonl"
_LIBRARIES = ("llmprior-jax", "jax", "jaxlib", "flax", "optax", "numpy", "transformers")


def describe() -> dict[str, Any]:
    """What runs now: `started`, `command`, `commit`, `python`, `platform`, `devices`, `versions`.

    `commit` is the git commit of the source, with "+" where files differ from it, and None where
    the package was installed without its repository.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def record(directory: pathlib.Path) -> None:
    """Appends what runs now to the file in `directory`."""
    append(directory / FILE, json.dumps(describe()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    source = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            cwd=source,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return None
    # A repository that the package merely lies in, such as that of a virtual environment's owner.
    tracked = subprocess.run(
        ["git", "ls-files", "--error-unmatch", __file__],
        cwd=source,
        capture_output=True,
        check=False,
    )
    return described.stdout.strip() if described.returncode == tracked.returncode == 0 else None
