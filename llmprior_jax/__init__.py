"""Language models as action priors for reinforcement learning, in JAX."""
