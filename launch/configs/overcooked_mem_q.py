"""Mem-Q beside DQN-Prior on Overcooked-TomatoLettuceSalad: Q is remembered, not learned.

    python -m launch.train --config=launch/configs/overcooked_mem_q.py --workdir=runs/mem_q

Measured over 64 seeds, 16 episodes each (`launch.reproduce`, docs/search-and-memory.md): Mem-Q
reaches a success rate of 0.9 after 326 steps. DQN with the settings that were searched for it needs
7,842, DQN-Prior with its own 1,903; here DQN-Prior has the settings of Mem-Q's run.
"""

from llmprior_jax import training


def get_config() -> training.Config:
    config = training.default_config()
    config.agents = ("mem_q", "dqn_prior")
    # As Mem-Q takes the prior. A memory needs no transitions to begin with.
    config.agent.trust = "fixed"
    config.loop.warmup_steps = 1
    config.loop.updates_per_step = 4
    config.num_steps, config.eval_every = 4_000, 200
    return config
