"""Settings shared by all tests: two devices, one compilation cache, no home, quiet libraries."""

import os
import pathlib
import tempfile

import jax

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# What is kept for the user, such as the store of priors, is kept for this session only.
_USER_CACHE = tempfile.TemporaryDirectory(prefix="llmprior_jax_tests_")
os.environ["XDG_CACHE_HOME"] = _USER_CACHE.name

_CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
