"""DQN-Prior as it was published, on Overcooked-TomatoLettuceSalad with the embedded model's prior.

    python -m launch.train --config=launch/configs/paper_dqn_prior.py --workdir=runs/paper

The settings are those of the code of Yan et al., 2025 (github.com/yanxue7/RL-LLM-Prior): 5
candidates drawn from the prior once per visit of a state and kept in replay, the maximum over those
of the next state as its value, one target network, acting by a softmax of 10 Q over the candidates,
AdamW. Two things differ: a batch has 128 transitions instead of 1,024, and there are 5 updates per
8 steps instead of 50 after every fifth episode. The baseline is `paper_dqn`.

Measured over 16 seeds, 36,000 steps (`--config.num_seeds=16`), interquartile means [95% intervals]:
success 0.16 [0.12, 0.18], with greedy actions 0.00: each chop is paid, and at a discount of 0.99
agents learn to spoil the dish and chop again. With `--config.agent.discount=0.95` it is 0.74 [0.67,
0.81]. The default settings of this package reach 0.98 [0.96, 1.00] (`quickstart`, 8 seeds).
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("dqn_prior",)
    set_published(config)
    config.agent.num_candidates = 5
    config.agent.keep_candidates = True
    config.eval_modes = ("sample", "greedy", "candidates")
    return config


def set_published(config: training.Config) -> None:
    """Sets what all agents that learn Q have in common in the published code (in place)."""
    config.update_from_flattened_dict(
        {
            "agent.trust": "fixed",
            "agent.alpha": 0.1,
            "agent.backup": "max",
            "agent.double_q": False,
            "agent.discount": 0.99,
            "agent.learning_rate": 5e-4,
            "agent.weight_decay": 0.01,
            "agent.target_rate": 0.005,
            "agent.max_grad_norm": 1.0,
            "loop.batch_size": 128,
            "loop.updates_per_step": 5,
            "loop.replay_capacity": 4_000,
        }
    )
