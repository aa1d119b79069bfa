"""DQN-Prior alone on Overcooked-TomatoLettuceSalad, with the prior of the embedded model.

    python -m launch.train --config=launch/configs/overcooked_dqn_prior.py --workdir=runs/salad

Measured over 8 seeds, as part of the quickstart, which trains this very agent among others: 4,000
[3,000, 5,000] steps to 90% success (median [quartiles]); success after 36,000 steps 0.98 [0.96,
1.00] (interquartile mean [95% interval]). With 64 seeds it is 4,000 steps (`launch.trust`).
"""

from llmprior_jax import training


def get_config() -> training.Config:
    return training.default_config()
