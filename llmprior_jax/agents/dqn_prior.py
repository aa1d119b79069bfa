"""DQN-Prior: Q-learning whose policy is the posterior under a language model's prior.

Yan et al., 2025 (arXiv 2410.07927), section 4.1, direct posterior sampling: act by sampling
`p(a|s) exp(Q(s,a)/alpha)`, learn Q by the Bellman target in which the next state's value is taken
under the same posterior. Double Q-learning and a target network are as in DQN (van Hasselt et al.,
2016, arXiv 1509.06461). With a uniform prior this is DQN with Boltzmann exploration.
"""

from collections.abc import Sequence
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from llmprior_jax import bellman, posterior
from llmprior_jax.agents.agent import Agent, Metrics, Policy, Transitions
from llmprior_jax.agents.q_network import q_function
from llmprior_jax.types import ActionPrior


class DQNPriorState(NamedTuple):
    """Parameters of Q and of the slowly following target Q, and the optimiser's state."""

    params: optax.Params
    target_params: optax.Params
    optimizer: optax.OptState


def dqn_prior(
    *,
    alpha: float = 0.03,
    backup: bellman.Backup = "posterior",
    num_candidates: int | None = None,
    discount: float = 0.95,
    learning_rate: float = 1e-3,
    target_rate: float = 0.01,
    max_grad_norm: float = 10.0,
    hidden_sizes: Sequence[int] = (64, 64),
) -> Agent:
    """DQN-Prior as pure functions.

    Args:
      alpha: temperature of the posterior, in units of reward; small is greedy, large is the prior.
      backup: value of the next state, "posterior", "soft" or "max" (`posterior_bellman_target`).
      num_candidates: K, act on and back up over K candidates drawn from the prior, as the paper
        does; None uses the exact posterior over all actions.
      discount: g, per decision.
      learning_rate: of Adam.
      target_rate: share of the online parameters mixed into the target parameters per update.
      max_grad_norm: gradients are clipped to this global norm.
      hidden_sizes: of the Q head.

    Returns:
      An `Agent`; its metrics are `loss` and `q`, the mean value of the actions in the batch. Its
      `policy` is the exact posterior, whatever `num_candidates`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    if backup not in get_args(bellman.Backup):
        raise ValueError(f"backup is {backup!r}; use one of {', '.join(get_args(bellman.Backup))}")
    for name, value in (("alpha", alpha), ("learning_rate", learning_rate)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; use a number > 0")
    for name, value in (("discount", discount), ("target_rate", target_rate)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; use a number from 0 to 1")
    if num_candidates is not None and num_candidates < 1:
        raise ValueError(f"num_candidates is {num_candidates}; use a number >= 1, or None")
    optimizer = optax.chain(
        optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5)
    )

    q = q_function(hidden_sizes)

    def init(key: jax.Array, prior: ActionPrior) -> DQNPriorState:
        params = q.init(key, prior.features.shape[-1])
        return DQNPriorState(params, params, optimizer.init(params))

    def policy(state: DQNPriorState, prior: ActionPrior) -> Policy:
        values = q.apply(state.params, prior.features)
        return Policy(posterior.posterior_log_probs(prior.log_probs, values, alpha), values)

    def propose(key: jax.Array, log_probs: jax.Array) -> jax.Array:
        """The distribution [A] to correct by Q: the prior, or K candidates drawn from it."""
        if num_candidates is None:
            return log_probs
        candidates = posterior.sample_candidates(key, log_probs, num_candidates)
        return posterior.empirical_log_probs(candidates, log_probs.shape[-1])

    def act(state: DQNPriorState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        propose_key, sample_key = jax.random.split(key)
        proposal = propose(propose_key, prior.log_probs)
        values = q.apply(state.params, prior.features)
        return posterior.sample_posterior(sample_key, proposal, values, alpha)

    def update(
        state: DQNPriorState, key: jax.Array, batch: Transitions
    ) -> tuple[DQNPriorState, Metrics]:
        next_proposal = jax.vmap(propose)(
            jax.random.split(key, batch.action.shape[0]), batch.next_prior.log_probs
        )
        # The one action that was taken: Q of the others would cost time and have no gradient.
        features_taken = jnp.take_along_axis(
            batch.prior.features, batch.action[:, None, None], axis=1
        )
        next_q = q.apply(state.params, batch.next_prior.features)
        next_target_q = q.apply(state.target_params, batch.next_prior.features)
        weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)

        def loss(params: optax.Params) -> tuple[jax.Array, Metrics]:
            q_taken = q.apply(params, features_taken)
            losses = jax.vmap(
                lambda q_taken, reward, terminated, target_q, log_probs, selector_q: (
                    bellman.dqn_prior_loss(
                        q_taken,
                        0,
                        reward,
                        discount * (1.0 - terminated),
                        target_q,
                        log_probs,
                        alpha,
                        backup,
                        selector_q,
                    )
                )
            )(q_taken, batch.reward, batch.terminated, next_target_q, next_proposal, next_q)
            mean_loss = jnp.sum(weight * losses)
            return mean_loss, {"loss": mean_loss, "q": jnp.sum(weight * q_taken[:, 0])}

        gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        target_params = optax.incremental_update(params, state.target_params, target_rate)
        return DQNPriorState(params, target_params, optimizer_state), metrics

    return Agent(init, policy, act, update)
