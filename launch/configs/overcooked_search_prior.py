"""Search on the prior of Overcooked-TomatoLettuceSalad, without training and while learning.

    python -m launch.train --config=launch/configs/overcooked_search_prior.py --workdir=runs/search

All agents search in evaluations, 32 simulations of the kitchen itself, and `search_prior` while it
learns, too. The kitchen is a perfect model of itself: see docs/search-and-memory.md.

Measured over 8 seeds, 16 episodes each: with 32 simulations, and without any training, the prior
alone serves 1.00 [1.00, 1.00] of the dishes, without search 0.20 [0.17, 0.30]; with 8 simulations
1.00 [1.00, 1.00], too. What `search_prior` adds by learning was not measured.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("random", "prior", "search_prior")
    config.search.simulations = 32
    # A search makes an episode some hundred times as long.
    config.num_steps, config.eval_every = 2_000, 1_000
    config.eval_episodes = 32
    return config
