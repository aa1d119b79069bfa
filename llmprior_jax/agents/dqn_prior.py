"""DQN-Prior: Q-learning whose policy is the posterior under a language model's prior.

Yan et al., 2025 (arXiv 2410.07927), section 4.1, direct posterior sampling: act by sampling
`p(a|s) exp(Q(s,a)/alpha)`, learn Q by the Bellman target in which the next state's value is taken
under the same posterior. Double Q-learning and a target network are as in DQN (van Hasselt et al.,
2016, arXiv 1509.06461). With a uniform prior this is DQN with Boltzmann exploration.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from llmprior_jax import bellman
from llmprior_jax.agents import temperature
from llmprior_jax.agents import trust as trusts
from llmprior_jax.agents.agent import Agent, Metrics, Transitions
from llmprior_jax.agents.q_learning import Values, check_target, q_learner
from llmprior_jax.agents.q_network import q_function
from llmprior_jax.agents.slots import of_actions


def dqn_prior(
    *,
    alpha: float | temperature.Temperature = 0.03,
    backup: bellman.Backup = "posterior",
    num_candidates: int | None = None,
    keep_candidates: bool = False,
    double_q: bool = True,
    epsilon: float | None = None,
    trust: trusts.Trust | None = None,
    discount: float = 0.95,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    target_rate: float = 0.01,
    max_grad_norm: float = 10.0,
    hidden_sizes: Sequence[int] = (64, 64),
) -> Agent:
    """DQN-Prior as pure functions.

    Examples:
      >>> agent = agents.dqn_prior(alpha=0.1, hidden_sizes=())
      >>> prior = ActionPrior(jnp.log(jnp.full((1, 2), 0.5)), jnp.ones((1, 2, 3)))
      >>> batch = agents.Transitions(
      ...     prior, jnp.array([0]), jnp.ones(1), jnp.array([True]), prior, jnp.ones(1)
      ... )
      >>> state = agent.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], prior))
      >>> state, metrics = agent.update(state, jax.random.key(1), batch)
      >>> print(metrics["loss"])  # (1 - 0)^2 / 2
      0.5

    Args:
      alpha: temperature of the posterior, in units of reward; small is greedy, large is the prior.
        A number, or a `temperature.Temperature` that changes it.
      backup: value of the next state, "posterior", "soft" or "max" (`posterior_bellman_target`).
      num_candidates: K, act on and back up over K candidates drawn from the prior, as the paper
        does; None uses the exact posterior over all actions.
      keep_candidates: draw them once per visit of a state, as the paper does, and not anew whenever
        they are needed.
      double_q: Q chooses what is done in the next state, and the target Q says what that is worth;
        otherwise, as in the paper, the target Q does both.
      epsilon: take an action at random with this probability while learning, and otherwise the best
        one by Q, among all that the prior or the candidates admit; None samples the posterior.
      trust: how far the prior is trusted (`agents.trust`); None takes it as it is, as the paper.
      discount: g, per decision.
      learning_rate: of Adam.
      weight_decay: of AdamW.
      target_rate: share of the online parameters mixed into the target parameters per update.
      max_grad_norm: gradients are clipped to this global norm.
      hidden_sizes: of the Q head.

    Returns:
      An `Agent`; its metrics are `loss` and `q`, the mean value of the actions in the batch. Its
      `policy` is the exact posterior, whatever `num_candidates`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    check_target(backup, discount)
    q = q_function(hidden_sizes)

    def loss(values: Values, batch: Transitions) -> tuple[jax.Array, Metrics]:
        # The one action that was taken: Q of the others would cost time and have no gradient.
        features_taken = jnp.take_along_axis(
            batch.prior.features, batch.action[:, None, None], axis=1
        )
        q_taken = q.apply(values.params, features_taken)
        next_target_q = of_actions(q.apply, values.target_params, batch.next_prior)
        losses = jax.vmap(
            lambda q_taken, reward, terminated, target_q, log_probs, selector_q: (
                bellman.dqn_prior_loss(
                    q_taken,
                    0,
                    reward,
                    discount * (1.0 - terminated),
                    target_q,
                    log_probs,
                    values.alpha,
                    backup,
                    selector_q,
                )
            )
        )(
            q_taken,
            batch.reward,
            batch.terminated,
            next_target_q,
            values.next_log_probs,
            values.next_q,
        )
        return losses, {"q": q_taken[:, 0]}

    return q_learner(
        q,
        loss,
        temperature.as_temperature(alpha),
        num_candidates=num_candidates,
        keep_candidates=keep_candidates,
        double_q=double_q,
        epsilon=epsilon,
        weight_decay=weight_decay,
        learning_rate=learning_rate,
        target_rate=target_rate,
        max_grad_norm=max_grad_norm,
        trust=trust,
        discount=discount,
    )
