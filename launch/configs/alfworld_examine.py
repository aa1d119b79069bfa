"""DQN-Prior and its baselines on ALFWorld's Examine: look at a thing in the light of a lamp.

    python -m launch.make_games --tasks=examine --train=28 --unseen=26 --out=data/examine
    python -m launch.train --config=launch/configs/alfworld_examine.py --workdir=runs/examine

Measured over 5 seeds, 16 episodes each in the training games and in the unseen ones, of at most 50
commands; interquartile means and 95% bootstrap intervals. After 3,200 environment steps DQN-Prior
solves 0.60 [0.50, 0.67] of the training games and 0.50 [0.44, 0.58] of the unseen ones, the prior
alone 0.52 [0.25, 0.67] and 0.62 [0.56, 0.69], DQN 0.15 [0.02, 0.19] and 0.02 [0.00, 0.06]; a
uniform policy solves 3 in 100. DQN-Prior has learned little that the language
model did not know. The model was asked about 58,000 states, half an hour of CPU time.
"""

from launch.configs import alfworld_pick
from llmprior_jax import training


def get_config() -> training.Config:
    config = alfworld_pick.get_config()
    config.games.train = ("data/examine/json_2.1.1/train",)
    config.games.unseen = ("data/examine/json_2.1.1/valid_unseen",)
    config.num_steps, config.eval_every = 38_400, 3_200
    return config
