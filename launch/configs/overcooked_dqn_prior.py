"""DQN-Prior alone on Overcooked-TomatoLettuceSalad, with the prior of the embedded model.

    python -m launch.train --config=launch/configs/overcooked_dqn_prior.py --workdir=runs/salad

@@RESULT@@
"""

from llmprior_jax import training


def get_config() -> training.Config:
    return training.default_config()
