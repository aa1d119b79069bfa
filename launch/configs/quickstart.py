"""DQN-Prior and its baselines on Overcooked-TomatoLettuceSalad; the prior is the embedded model.

    python -m launch.train --config=launch/configs/quickstart.py --workdir=runs/quickstart

Measured over 8 seeds (2 CPU cores, 2 to 3 minutes): steps to 90% success, median [quartiles], are
15,000 [11,000, 22,000] for DQN and 3,000 [2,000, 6,000] for DQN-Prior. Success after 36,000 steps,
interquartile mean [95% interval]: random 0.00 [0.00, 0.01], prior alone 0.33 [0.27, 0.38], DQN 0.97
[0.82, 0.98], DQN-Prior 0.94 [0.68, 0.95]. Whole result: `launch/results/quickstart`.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("random", "prior", "dqn", "dqn_prior")
    return config
