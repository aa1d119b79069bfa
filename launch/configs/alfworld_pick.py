"""DQN-Prior and its baselines on ALFWorld's Pick: bring a thing to a piece of furniture.

    python -m launch.make_games --tasks=pick --train=28 --unseen=26 --out=data/pick
    python -m launch.train --config=launch/configs/alfworld_pick.py --workdir=runs/pick

Measured over 5 seeds, 16 episodes each in the training games and in the unseen ones, of at most 50
commands; interquartile means and 95% bootstrap intervals. After 3,200 environment steps DQN-Prior
solves 0.73 [0.56, 0.79] of the training games and 0.56 [0.50, 0.67] of the unseen ones, the prior
alone 0.42 [0.27, 0.60] and 0.42 [0.33, 0.48], DQN 0.00 [0.00, 0.04] and 0.00; a uniform policy
solves 1 in 200. The language model was asked about 72,000 states, nearly every one of them new,
which is where the time goes: 36 minutes of CPU time in all.

In an older version, which these figures are from, other environments went on when one met a new
state, which gave about 8 updates per step of all environments. Now they wait for each other. With
it, 1,600 steps of 5 other seeds (`--config.seed=100`, other games, 8 episodes each): 0.50 [0.29,
0.79] and 0.67 [0.62, 0.75] unseen, where the prior alone has 0.67 [0.42, 0.85] in 15 episodes.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "ALFWorld",
            "games.train": ("data/pick/json_2.1.1/train",),
            "games.unseen": ("data/pick/json_2.1.1/valid_unseen",),
            "history": 3,
            "agents": ("prior", "dqn_prior", "dqn"),
            # There are tens of commands in each of thousands of states.
            "prior.num_features": 32,
            "agent.discount": 0.9,
            # There are few episodes to learn by how far to trust it (docs/trust.md).
            "agent.trust": "fixed",
            "loop.num_envs": 16,
            "loop.batch_size": 64,
            "loop.updates_per_step": 8,
            "loop.replay_capacity": 10_000,
            "num_seeds": 5,
            "num_steps": 3_200,
            "eval_every": 1_600,
            "eval_episodes": 16,
            "checkpoint.every": 1,
        }
    )
    return config
