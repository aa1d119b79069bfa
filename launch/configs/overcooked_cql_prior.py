"""CQL-Prior and its baselines on Overcooked-TomatoLettuceSalad, from 1,000 recorded transitions.

    python -m launch.collect --env=Overcooked-TomatoLettuceSalad --behavior=expert@0.7 \\
        --success_share=0.75 --transitions=32000 --out=data/salad.parquet
    python -m launch.train --config=launch/configs/overcooked_cql_prior.py --workdir=runs/offline

The data come from an expert that takes a random action seven times in ten; three quarters of the
episodes succeed. Every seed learns from 1,000 transitions of its own.

Measured over 16 seeds by `launch.reproduce`, which takes the prior as it is
(`--config.agent.trust=fixed`), 128 episodes each; success rate after 6,000 updates,
interquartile mean [95% interval]: BC 0.39 [0.30, 0.46], CQL 0.90 [0.85, 0.92], CQL-Prior 0.97
[0.94, 0.98]. With 500 transitions or fewer the prior makes no difference, 0.64 and 0.64.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("bc", "cql", "cql_prior")
    config.offline.dataset = "data/salad.parquet"
    config.offline.size = 1_000
    config.num_steps = 6_000
    config.eval_every = 1_000
    return config
