"""Free-form actions: TextWorld's salads, played through the parser without a list of commands.

python -m launch.make_textworld --games=4 --out=data/salads
python -m launch.train --config=launch/configs/textworld_free_form.py --workdir=runs/salads
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.update_from_flattened_dict(
        {
            "env": "engine",
            "games.train": ("data/salads",),
            # Two commands win; nobody may try for ever.
            "engine.max_steps": 12,
            "engine.num_actions": 48,
            "engine.describe": True,
            "freeform.k": 16,
            "freeform.source": "language_model",
            "agents": ("random", "prior", "dqn", "dqn_prior"),
            "agent.discount": 0.9,
            # The embedded model is sure of what the parser refuses.
            "prior.temperature": 2.0,
            "prior.num_features": 32,
            "loop.num_envs": 2,
            "loop.updates_per_step": 4,
            "num_seeds": 5,
            "num_steps": 2_400,
            "eval_every": 480,
            "eval_episodes": 16,
            "checkpoint.every": 1,
        }
    )
    return config
