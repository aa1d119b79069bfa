"""GFlan-Prior and GFlan on Overcooked-TomatoLettuceSalad: the embedded model is the policy.

    python -m launch.train --config=launch/configs/overcooked_gflan_prior.py --workdir=runs/gflan

Measured over 4 seeds each, a seed per run (`--config.num_seeds=1 --config.seed=K
--config.num_steps=4000`, 64 episodes per evaluation), with an embedded model that knew kitchens
better than the present one. The prior alone solves 0.28 to 0.38 of them. Steps until 0.90 are
solved, and success after 4,000 steps: GFlan-Prior, K = 1 to 4, 4,000, 4,000, 3,000, 3,000 and
0.94, 1.00, 1.00, 1.00; GFlan, K = 0 to 3, 3,000, 4,000, 4,000, 3,000 and 1.00, 0.98, 0.97, 1.00.
Both start from the same weights, and the price of departing from them, alpha = 0.01, made no
difference that so few seeds could show. A thousand steps of a seed and an evaluation take 5 to 9
seconds of CPU time.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("prior", "gflan", "gflan_prior")
    config.num_seeds = 5
    config.num_steps = 5_000
    config.eval_every = 1_000
    return config
