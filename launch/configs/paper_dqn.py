"""DQN as it was published as the baseline of DQN-Prior, on Overcooked-TomatoLettuceSalad.

    python -m launch.train --config=launch/configs/paper_dqn.py --workdir=runs/paper_dqn

It sees no prior: it takes a random action in 2 of 10 steps and otherwise the best by Q, and backs
up the maximum over all actions. Everything else is as in `paper_dqn_prior`.

Measured over 16 seeds, 36,000 steps (`--config.num_seeds=16`), interquartile mean [95% interval]:
success 0.00 [0.00, 0.02], for the reason that is said there.
"""

from launch.configs import paper_dqn_prior
from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("dqn",)
    paper_dqn_prior.set_published(config)
    config.agent.epsilon = 0.2
    config.eval_modes = ("sample", "greedy")
    return config
