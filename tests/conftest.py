"""Settings shared by all tests: two devices, one compilation cache, quiet libraries."""

import os
import pathlib

import jax

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_CACHE = pathlib.Path(__file__).parent.parent / ".jax_cache"
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
