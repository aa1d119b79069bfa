"""DQN-Prior and its baselines on BabyAI's GoToLocal: go to one of eight things in a room.

    python -m launch.train --config=launch/configs/babyai_go_to_local.py --workdir=runs/babyai

The embedded model knows nothing of such rooms. Measured in 64 episodes before training: the prior
alone solves 0.00 [0.00, 0.06], a uniform policy 0.31 [0.21, 0.43]. What the agents learn has not
been measured. A model that can read is named with `--prior`.
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
            # Almost every step leads to a new state.
            "segment_steps": 32,
            "checkpoint.every": 1,
        }
    )
    return config
