"""Mem-Q beside DQN-Prior on Overcooked-TomatoLettuceSalad: Q is remembered, not learned.

    python -m launch.train --config=launch/configs/overcooked_mem_q.py --workdir=runs/mem_q

Measured over 8 seeds, 32 episodes each: median steps to 90% success [quartiles] are 1,000 [1,000,
1,000] for Mem-Q and 3,000 [3,000, 4,000] for DQN-Prior; after 8,000 steps success is 0.98 [0.96,
1.00] and 0.98 [0.92, 1.00] (interquartile means, 95% intervals).
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("mem_q", "dqn_prior")
    # As Mem-Q takes the prior. A memory needs no transitions to begin with.
    config.agent.trust = "fixed"
    config.loop.warmup_steps = 1
    config.num_steps = 8_000
    return config
