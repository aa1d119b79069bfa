"""The commands. Importing the package sets JAX up for them, before anything initializes it."""

import os

import jax

# torch is not needed, and its absence no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# A device per core, so that seeds can be shared out among them; more would find no seeds. A number
# that somebody chose stays: once JAX is initialized it takes no other, and JAX 0.8 not even that.
if jax.config.values["jax_num_cpu_devices"] < 0:
    jax.config.update("jax_num_cpu_devices", min(os.cpu_count() or 1, 8))
