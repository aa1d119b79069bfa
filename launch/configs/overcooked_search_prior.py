"""Search on the prior of Overcooked-TomatoLettuceSalad, without training and while learning.

    python -m launch.train --config=launch/configs/overcooked_search_prior.py --workdir=runs/search

All agents search in evaluations, 32 simulations of the kitchen itself, and `search_prior` while it
learns, too. The kitchen is a perfect model of itself: see docs/search-and-memory.md.

Measured over 8 seeds, 16 or 32 episodes each: with 32 simulations and without any training the
prior alone serves 1.00 [1.00, 1.00] of the dishes, without search 0.17 [0.13, 0.20]; with 8
simulations 1.00 [0.98, 1.00], too. So there is little to learn: `search_prior` is at 1.00 [0.98,
1.00] after 2,000 steps, with a return of 1.32 [1.30, 1.33] where the prior alone has 1.36 [1.35,
1.36], and a search with a uniform prior and no Q at 0.50 [0.45, 0.59]. Learning pays where search
alone fails: with a uniform prior and 8 simulations (`--config.search.simulations=8
--config.prior.uniform_share=1.0 --config.num_steps=4000`) it goes from 0.52 [0.42, 0.58] to 0.98
[0.95, 1.00].
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
