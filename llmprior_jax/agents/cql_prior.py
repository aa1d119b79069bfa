"""CQL-Prior: conservative Q-learning from a fixed dataset, under a language model's prior.

Yan et al., 2025 (arXiv 2410.07927), section 4.1, offline: the loss of DQN-Prior plus `beta (log
sum_a p(a|s) exp Q(s,a) - Q(s,a_data))`. The penalty pushes down Q of what the prior would try and
the data does not show, so that the posterior does not act on values that no data supports. Actions
that the prior rules out need no penalty: the posterior never takes them. With a uniform prior this
is CQL(H) of "Conservative Q-Learning for Offline Reinforcement Learning" (Kumar et al., 2020, arXiv
2006.04779).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from llmprior_jax import bellman, ranges
from llmprior_jax.agents import temperature
from llmprior_jax.agents import trust as trusts
from llmprior_jax.agents.agent import Agent, Metrics, Transitions
from llmprior_jax.agents.q_learning import Values, check_target, q_learner
from llmprior_jax.agents.q_network import q_function
from llmprior_jax.agents.slots import of_actions


def cql_prior(
    *,
    alpha: float | temperature.Temperature = 0.03,
    beta: float = 0.03,
    penalty_temperature: float | None = None,
    backup: bellman.Backup = "posterior",
    num_candidates: int | None = None,
    keep_candidates: bool = False,
    double_q: bool = True,
    trust: trusts.Trust | None = None,
    discount: float = 0.95,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    target_rate: float = 0.01,
    max_grad_norm: float = 10.0,
    hidden_sizes: Sequence[int] = (64, 64),
) -> Agent:
    """CQL-Prior as pure functions.

    Examples:
      >>> agent = agents.cql_prior(alpha=0.1, beta=0.5, hidden_sizes=())
      >>> prior = ActionPrior(jnp.log(jnp.full((1, 2), 0.5)), jnp.ones((1, 2, 3)))
      >>> batch = agents.Transitions(
      ...     prior, jnp.array([0]), jnp.ones(1), jnp.array([True]), prior, jnp.ones(1)
      ... )
      >>> state = agent.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], prior))
      >>> state, metrics = jax.eval_shape(agent.update, state, jax.random.key(1), batch)
      >>> sorted(metrics)
      ['loss', 'penalty', 'q']

    Args:
      alpha: temperature of the posterior, see `dqn_prior`.
      beta: weight of the penalty, >= 0; 0 is DQN-Prior.
      penalty_temperature: t of the penalty (`bellman.cql_prior_penalty`). None is alpha, so that
        the policy that is pushed down is the one that acts; the paper has 1. With a strong prior
        and a small alpha the two differ much: Q then makes up for the prior at t, and overrules it
        at alpha.
      backup: value of the next state, see `dqn_prior`.
      num_candidates: K candidates for acting and backing up, see `dqn_prior`; the penalty is over
        all actions, unless they are kept.
      keep_candidates, double_q: see `dqn_prior`. Candidates that are kept stand for the prior in
        the penalty, too, as in the paper.
      trust: how far the prior is trusted (`agents.trust`); None takes it as it is, as the paper.
      discount: g, per decision.
      learning_rate: of Adam.
      weight_decay: of AdamW.
      target_rate: share of the online parameters mixed into the target parameters per update.
      max_grad_norm: gradients are clipped to this global norm.
      hidden_sizes: of the Q head.

    Returns:
      An `Agent`; its metrics are `loss`, `q`, the mean value of the actions in the batch, and
      `penalty`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    check_target(backup, discount)
    ranges.NOT_NEGATIVE.check("beta", beta)
    if penalty_temperature is not None:
        ranges.POSITIVE.check("penalty_temperature", penalty_temperature, ", or None")
    q = q_function(hidden_sizes)

    def loss(values: Values, batch: Transitions) -> tuple[jax.Array, Metrics]:
        tau = values.alpha if penalty_temperature is None else penalty_temperature
        q_values = of_actions(q.apply, values.params, batch.prior, batch.action)
        next_target_q = of_actions(q.apply, values.target_params, batch.next_prior)
        losses = jax.vmap(
            lambda log_probs, q, action, reward, terminated, target_q, next_log_probs, selector_q: (
                bellman.cql_prior_loss(
                    log_probs,
                    q,
                    action,
                    reward,
                    discount * (1.0 - terminated),
                    target_q,
                    next_log_probs,
                    values.alpha,
                    beta,
                    backup,
                    selector_q,
                    tau,
                )
            )
        )(
            values.log_probs,
            q_values,
            batch.action,
            batch.reward,
            batch.terminated,
            next_target_q,
            values.next_log_probs,
            values.next_q,
        )
        penalty = jax.vmap(bellman.cql_prior_penalty, in_axes=(0, 0, 0, None))(
            values.log_probs, q_values, batch.action, tau
        )
        taken = jnp.take_along_axis(q_values, batch.action[:, None], axis=1)[:, 0]
        return losses, {"q": taken, "penalty": penalty}

    return q_learner(
        q,
        loss,
        temperature.as_temperature(alpha),
        num_candidates=num_candidates,
        keep_candidates=keep_candidates,
        double_q=double_q,
        weight_decay=weight_decay,
        learning_rate=learning_rate,
        target_rate=target_rate,
        max_grad_norm=max_grad_norm,
        trust=trust,
        discount=discount,
    )
