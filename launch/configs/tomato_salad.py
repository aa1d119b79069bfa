"""DQN-Prior and its baselines on Overcooked-TomatoSalad, with the prior of the embedded model.

    python -m launch.train --config=launch/configs/tomato_salad.py --workdir=runs/tomato_salad

@@RESULT@@
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.env = "Overcooked-TomatoSalad"
    config.agents = ("random", "prior", "dqn", "dqn_prior")
    config.num_steps = 16_000
    config.eval_every = 800
    return config
