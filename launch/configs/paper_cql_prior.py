"""CQL-Prior as it was published, on Overcooked-TomatoLettuceSalad, from 1,000 transitions.

    python -m launch.collect --env=Overcooked-TomatoLettuceSalad --behavior=expert@0.7 \\
        --success_share=0.75 --transitions=32000 --out=data/salad.parquet
    python -m launch.train --config=launch/configs/paper_cql_prior.py --workdir=runs/paper_offline

The settings are those of the code of Yan et al., 2025 (github.com/yanxue7/RL-LLM-Prior): 5
candidates drawn from the prior once per visit of a state; the maximum over those of the next state
as its value; and the penalty over those of the state, at a temperature of 1 and with a weight of
0.1. A batch has 128 transitions instead of 1,024. The baseline is `paper_cql`.

Measured over 16 seeds, 6,000 updates (`--config.num_seeds=16`), interquartile means [95%
intervals]: success 0.60 [0.46, 0.74], of the best by Q of five candidates 0.56 [0.39, 0.74], by
greedy actions 0.00 [0.00, 0.00]; CQL 0.23 [0.06, 0.47] and, by greedy actions, 0.00 [0.00,
0.12]. The default settings of this package reach 0.97 and 0.90 (`overcooked_cql_prior`).
"""

from launch.configs import paper_dqn_prior
from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("cql_prior",)
    set_published(config)
    config.agent.num_candidates = 5
    config.agent.keep_candidates = True
    config.eval_modes = ("sample", "greedy", "candidates")
    return config


def set_published(config: training.Config) -> None:
    """Sets what CQL-Prior and CQL have in common in the published code (in place)."""
    paper_dqn_prior.set_published(config)
    config.update_from_flattened_dict(
        {
            "agent.discount": 0.9,
            "agent.learning_rate": 1e-3,
            "agent.beta": 0.1,
            "agent.penalty_temperature": 1.0,
            "offline.dataset": "data/salad.parquet",
            "offline.size": 1_000,
            "num_steps": 6_000,
            "eval_every": 1_000,
        }
    )
