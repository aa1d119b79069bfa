"""ALFWorld's Pick with a prior that learns: refined on the training games, then used in others.

    python -m launch.make_games --tasks=pick --train=28 --unseen=26 --out=data/pick
    python -m launch.train --config=launch/configs/alfworld_pick_refine.py --workdir=runs/refined

The same as `alfworld_pick`, but for a round in which the prior is refined (docs/refinement.md).
"""

from launch.configs import alfworld_pick
from llmprior_jax import training


def get_config() -> training.Config:
    config = alfworld_pick.get_config()
    config.update_from_flattened_dict(
        {
            "agents": ("prior", "dqn_prior"),
            "prior.refine.rounds": 1,
            "prior.refine.num_steps": 1_600,
            "prior.refine.episodes": 16,
        }
    )
    return config
