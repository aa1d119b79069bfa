"""Free-form actions: TextWorld games played through their parser, without a list of commands.

    python -m launch.make_textworld --games=4 --out=data/salads
    python -m launch.train --config=launch/configs/textworld_free_form.py --workdir=runs/salads

The candidates are the language model's own proposals, 16 at a time, most of which the
parser refuses, and what has worked before. Measured over 5 seeds, 16 episodes each, after 2,400
environment steps; success rate, interquartile mean [95% interval]: a proposal at random 0.04 [0.00,
0.10], the prior alone 0.04 [0.00, 0.10], DQN 0.92 [0.58, 1.00], DQN-Prior, when it took the prior
as it is (`--config.agent.trust=fixed`), 0.75 [0.54, 0.79]. Which of its proposals is better the
embedded model does not know; that it proposes is what counts: where the proposals are verbs and
words of the observation (`freeform.source` "vocabulary"), random play stands at 0.00 and DQN at
0.08 [0.00, 0.33].
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
