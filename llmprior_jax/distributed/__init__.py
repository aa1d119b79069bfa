"""Several devices and several processes that compute one run together."""

from llmprior_jax.distributed.mesh import make_mesh
from llmprior_jax.distributed.seeds import over_seeds, seed_keys

__all__ = ["make_mesh", "over_seeds", "seed_keys"]
