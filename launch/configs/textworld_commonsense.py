"""DQN-Prior and its baselines on TextWorld Commonsense: put things where they belong.

    pip install -e '.[textworld_express]'   (and a Java of version 8 or newer)
    python -m launch.train --config=launch/configs/textworld_commonsense.py --workdir=runs/twc

Each episode is another game, of one room; the unseen ones have other things in them. Where a
thing belongs is something that language models know and random play finds out by luck.

Measured over 5 seeds, 16 episodes each, after 2,400 environment steps, interquartile means [95%
intervals] in the training games and in the unseen ones: random 0.48 [0.33, 0.50] and 0.46 [0.31,
0.60] (in one room there is little to do wrong), the prior alone 0.00 [0.00, 0.00] and 0.00, DQN
0.52 [0.50, 0.69] and 0.33 [0.17, 0.44], DQN-Prior 0.54 [0.50, 0.62] and 0.31 [0.19, 0.38]. The
embedded model knows kitchens and these texts not at all: agents learn not to trust it. Name a real
one by `--prior=`.
"""

from llmprior_jax import training

ONE_ROOM = "numLocations=1,numItemsToPutAway=1,includeDoors=0"


def get_config() -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "engine",
            "games.train": (f"textworld_express:twc:train:{ONE_ROOM}",),
            "games.unseen": (f"textworld_express:twc:test:{ONE_ROOM}",),
            "engine.max_steps": 20,
            "engine.num_actions": 48,
            "engine.describe": True,
            "agents": ("random", "prior", "dqn", "dqn_prior"),
            "agent.discount": 0.9,
            "prior.num_features": 32,
            "loop.num_envs": 2,
            "loop.updates_per_step": 4,
            "num_seeds": 5,
            "num_steps": 2_400,
            "eval_every": 800,
            "eval_episodes": 16,
            "checkpoint.every": 1,
        }
    )
    return config
