"""DQN-Prior and its baselines on BabyAI's GoToLocal: go to one of eight things in a room.

    python -m launch.train --config=launch/configs/babyai_go_to_local.py --workdir=runs/babyai

The embedded model knows nothing of such rooms. Measured over 16 seeds, 16 episodes each, after
6,400 steps (`launch.reproduce --only=babyai`), with sampled actions: the prior alone solves 0.00,
DQN-Prior 0.32 [0.27, 0.40], DQN 0.30 [0.23, 0.36], random play 0.28 [0.23, 0.34]. So nothing is
learned in so few steps, and nothing is lost by a prior that knows nothing. A model that can read is
named with `--prior`.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "BabyAI-GoToLocal",
            "agents": ("prior", "dqn_prior", "dqn"),
            "prior.num_features": 32,
            "agent.discount": 0.9,
            "loop.num_envs": 16,
            "loop.batch_size": 64,
            "loop.updates_per_step": 4,
            "loop.replay_capacity": 10_000,
            "num_seeds": 3,
            "num_steps": 6_400,
            "eval_every": 3_200,
            "eval_episodes": 16,
            "checkpoint.every": 1,
        }
    )
    return config
