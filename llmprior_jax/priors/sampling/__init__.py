"""Text that a language model writes, and action priors made of it."""
