"""GFlan-Prior on Overcooked-TomatoLettuceSalad: the embedded model is fine-tuned as the policy.

python -m launch.train --config=launch/configs/overcooked_gflan_prior.py --workdir=runs/gflan
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("prior", "gflan", "gflan_prior")
    config.num_seeds = 5
    config.num_steps = 5_000
    config.eval_every = 1_000
    return config
