"""GFlan-Prior and GFlan on Overcooked-TomatoLettuceSalad: the embedded model is the policy.

    python -m launch.train --config=launch/configs/overcooked_gflan_prior.py --workdir=runs/gflan

Measured over 5 seeds (`python -m launch.trust`), interquartile means [95% intervals]: the prior
alone is at 0.19 [0.16, 0.24]; after 5,000 steps GFlan-Prior is at 0.99 [0.97, 1.00] and GFlan at
0.99 [0.96, 1.00]. Both start from the same weights, and learn as fast: the price of departing from
them, alpha, makes no difference that five seeds could show.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("prior", "gflan", "gflan_prior")
    config.num_seeds = 5
    config.num_steps = 5_000
    config.eval_every = 1_000
    return config
