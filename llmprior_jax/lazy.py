"""Imports the packages of `llmprior_jax` when they are first used.

The equations need jax and chex alone, and do not wait for the libraries that the others need.
`llmprior_jax` imports the functions here, which Python calls for the attributes of a module that it
does not find, and for their list (PEP 562).
"""

import importlib
import importlib.metadata
import sys
import traceback
from types import ModuleType

ROOMS = (
    "agents",
    "datasets",
    "distributed",
    "envs",
    "learning",
    "models",
    "play",
    "priors",
    "refine",
    "settings",
    "training",
)


def __getattr__(name: str) -> ModuleType:
    """The room of that name.

    Raises:
      AttributeError: there is no such room.
      ImportError: a library that it needs is not installed, or flax is too old for JAX; the message
        says what to do.
    """
    if name not in ROOMS:
        raise AttributeError(f"module 'llmprior_jax' has no attribute {name!r}")
    try:
        return importlib.import_module(f"llmprior_jax.{name}")
    except ModuleNotFoundError as error:
        library = (error.name or "a library").partition(".")[0]
        raise ImportError(
            f"llmprior_jax.{name} needs {library}, which is not installed: pip install llmprior-jax"
        ) from error
    except AttributeError as error:
        # Such as flax 0.12.8 with JAX 0.11.1: no requirement of a package can rule out a pair.
        places = [
            frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)
        ]
        if "flax" not in {place.partition(".")[0] for place in places}:
            raise
        versions = (importlib.metadata.version(package) for package in ("flax", "jax"))
        raise ImportError(
            "flax {} cannot be imported with JAX {}: pip install --upgrade flax".format(*versions)
        ) from error


def __dir__() -> list[str]:
    """What is imported, and the packages that can be."""
    return sorted({*vars(sys.modules["llmprior_jax"]), *ROOMS})
