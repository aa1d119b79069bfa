"""Mem-Q beside DQN-Prior on Overcooked-TomatoLettuceSalad: Q is remembered, not learned.

    python -m launch.train --config=launch/configs/overcooked_mem_q.py --workdir=runs/mem_q

Measured over 64 seeds, 16 episodes each (`launch.reproduce`, docs/search-and-memory.md): Mem-Q
reaches a success of 0.9 after 326 steps, 0.04 times [0.03, 0.05] as many as DQN at its best, and
DQN-Prior after 1,903, with a learning rate of 3e-3. The run here ends at 4,000.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("mem_q", "dqn_prior")
    # As Mem-Q takes the prior. A memory needs no transitions to begin with.
    config.agent.trust = "fixed"
    config.loop.warmup_steps = 1
    config.loop.updates_per_step = 4
    config.num_steps, config.eval_every = 4_000, 400
    return config
