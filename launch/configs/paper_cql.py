"""CQL as it was published as the baseline of CQL-Prior, on Overcooked-TomatoLettuceSalad.

    python -m launch.collect --env=Overcooked-TomatoLettuceSalad --behavior=expert@0.7 \\
        --success_share=0.75 --transitions=32000 --out=data/salad.parquet
    python -m launch.train --config=launch/configs/paper_cql.py --workdir=runs/paper_cql

It sees no prior: maximum and penalty are over all actions. Everything else is as in
`paper_cql_prior`, which has what was measured over 16 seeds: a success of 0.23 [0.06, 0.47].
"""

from launch.configs import paper_cql_prior
from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("cql",)
    paper_cql_prior.set_published(config)
    config.eval_modes = ("sample", "greedy")
    return config
