"""DQN-Prior and its baselines on Overcooked-TomatoLettuceSalad."""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("random", "prior", "dqn", "dqn_prior")
    return config
