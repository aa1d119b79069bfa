"""DQN-Prior and its baselines on Overcooked-TomatoLettuceSalad; the prior is the embedded model.

    python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

Measured over 8 seeds (40 seconds on 2 CPU cores with compiled programs at hand):
steps to 90% success, median [quartiles], are 21,000 [18,000, 23,000] for DQN and 4,000 [3,000,
5,000] for DQN-Prior. Success after 36,000 steps, interquartile mean [95% interval]: random 0.00
[0.00, 0.01], prior alone 0.20 [0.16, 0.23], DQN 0.95 [0.84, 0.97], DQN-Prior 0.98 [0.96, 1.00].
Whole result: `launch/results/quickstart`.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("random", "prior", "dqn", "dqn_prior")
    return config
