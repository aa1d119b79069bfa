"""Progress bars, where somebody watches: in a terminal and in a notebook, and in no log file."""

import sys
from typing import Any

import tqdm


def bar(*args: Any, **kwargs: Any) -> "tqdm.tqdm[Any]":
    """A bar of tqdm, with the arguments that tqdm takes; silent where nobody watches.

    Examples:
      >>> from llmprior_jax import progress
      >>> with progress.bar(total=3, desc="scoring", unit="state") as bar:
      ...     for _ in range(3):
      ...         bar.update() and None
    """
    return tqdm.tqdm(*args, disable=not _watched(), **kwargs)


def _watched() -> bool:
    # A notebook shows its cells' standard error as it comes, and yet says that it is no terminal.
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel.")
