"""Behavior cloning on top of a prior: imitates the actions of a dataset, whatever their rewards.

The policy is `p(a|s) exp(f(s,a))`, the prior corrected by a learned score f, and is fitted to the
data by cross-entropy over the admissible actions. With a uniform prior it is plain behavior
cloning, the baseline that tells how much of an offline agent's success is imitation. With the
language model's prior it tells how much is prior and imitation together, without values.
"""

from collections.abc import Sequence

import jax

from llmprior_jax import posterior
from llmprior_jax.agents import temperature
from llmprior_jax.agents.agent import Agent, Metrics, Transitions
from llmprior_jax.agents.q_learning import Values, q_learner
from llmprior_jax.agents.q_network import q_function
from llmprior_jax.agents.slots import of_actions


def bc_prior(
    *,
    learning_rate: float = 1e-3,
    max_grad_norm: float = 10.0,
    hidden_sizes: Sequence[int] = (64, 64),
) -> Agent:
    """Behavior cloning on top of the prior, as pure functions.

    Examples:
      >>> agent = agents.bc_prior(learning_rate=1e-2, hidden_sizes=(16,))
      >>> agent.update is not None
      True

    Args:
      learning_rate: of Adam.
      max_grad_norm: gradients are clipped to this global norm.
      hidden_sizes: of the head, which is that of Q.

    Returns:
      An `Agent`; the values of its policy are the scores f(s,a), in nats. Its metric is `loss`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    q = q_function(hidden_sizes)

    def loss(values: Values, batch: Transitions) -> tuple[jax.Array, Metrics]:
        scores = of_actions(q.apply, values.params, batch.prior, batch.action)
        return jax.vmap(
            lambda log_probs, scores, action: (
                -posterior.posterior_log_probs(log_probs, scores, 1.0)[action]
            )
        )(batch.prior.log_probs, scores, batch.action), {}

    # Nothing is bootstrapped: the target parameters are never read.
    agent = q_learner(
        q,
        loss,
        temperature.fixed(1.0),
        num_candidates=None,
        learning_rate=learning_rate,
        target_rate=1.0,
        max_grad_norm=max_grad_norm,
    )
    # What it learns are scores, and no returns.
    return agent._replace(alpha=None)
