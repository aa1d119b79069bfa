"""DQN-Prior and its baselines on BabyAI's GoToLocal: go to one of eight things in a room.

    python -m launch.train --config=launch/configs/babyai_go_to_local.py --workdir=runs/babyai

The embedded model knows nothing of such rooms. Measured over 3 seeds, 16 episodes each, after 6,400
steps: the prior alone solves 0.00, DQN-Prior 0.23 [0.12, 0.38], DQN 0.25 [0.12, 0.31]; before
training a uniform policy solved 0.35 [0.24, 0.47] of 66 episodes. So nothing is learned in so few
steps, and nothing is lost by a prior that knows nothing. A model that can read is named with
`--prior`.
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
