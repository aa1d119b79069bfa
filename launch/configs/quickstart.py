"""DQN-Prior and its baselines on Overcooked-TomatoLettuceSalad; the prior is the embedded model.

    python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

Measured over 8 seeds (40 seconds on 2 CPU cores with compiled programs at hand):
steps to 90% success, median [quartiles], are 18,000 [15,000, 34,000] for DQN and 6,000 [4,000,
7,000] for DQN-Prior. Success after 36,000 steps, interquartile mean [95% interval]: random 0.00
[0.00, 0.01], prior alone 0.20 [0.16, 0.23], DQN 0.93 [0.79, 0.98], DQN-Prior 0.95 [0.91, 0.97].
Whole result: `launch/results/quickstart`.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("random", "prior", "dqn", "dqn_prior")
    return config
