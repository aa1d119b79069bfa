"""The base of agents that learn Q: they act by the posterior, and differ in their loss.

Direct posterior sampling (Yan et al., 2025, arXiv 2410.07927, section 4.1): act by sampling
`p(a|s) exp(Q(s,a)/alpha)`, or one of K candidates drawn from p, weighed by `exp(Q(s,a)/alpha)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from llmprior_jax import bellman, posterior, ranges, refine
from llmprior_jax.agents import trust as trusts
from llmprior_jax.agents.agent import (
    Agent,
    Candidates,
    Exploration,
    Metrics,
    Policy,
    Transitions,
    likeliest,
    uniform_log_probs,
)
from llmprior_jax.agents.q_network import QFunction
from llmprior_jax.agents.slots import of_actions
from llmprior_jax.agents.temperature import Temperature
from llmprior_jax.agents.trust import Trust
from llmprior_jax.types import ActionPrior


class QLearnerState(NamedTuple):
    """The state of an agent that learns Q.

    Examples:
      >>> prior = ActionPrior(jnp.zeros(2), jnp.zeros((2, 3)))
      >>> state = agents.dqn_prior().init(jax.random.key(0), prior)
      >>> jax.tree.structure(state.params) == jax.tree.structure(state.target_params)
      True

    Attributes:
      params: of Q.
      target_params: of the target Q, which follows slowly.
      optimizer: of Q's parameters.
      temperature: of alpha, see `temperature.Temperature`.
      trust: in the prior, see `trust.Trust`; () where the prior is what it is.
    """

    params: optax.Params
    target_params: optax.Params
    optimizer: optax.OptState
    temperature: optax.Params
    trust: Any = ()


class Values(NamedTuple):
    """What a loss is computed from, beside the transitions.

    Attributes:
      params: of Q; the loss is differentiated by them.
      target_params: of the target Q.
      log_probs: f32[B, A], the prior of the states, mixed as far as it is trusted; or the
        distribution of the candidates that were kept.
      next_log_probs: f32[B, A], the same of the next states, or the distribution of candidates
        drawn from it.
      next_q: f32[B, A], Q of the next states, by which an action is chosen there; no gradient flows
        through it. None where the target Q chooses.
      alpha: f32[], the temperature.
    """

    params: optax.Params
    target_params: optax.Params
    log_probs: jax.Array
    next_log_probs: jax.Array
    next_q: jax.Array | None
    alpha: jax.Array


Loss = Callable[[Values, Transitions], tuple[jax.Array, Metrics]]
"""`(values, transitions) -> (f32[B], metrics f32[B])`, the losses of a batch."""


def q_learner(
    q: QFunction,
    loss: Loss,
    temperature: Temperature,
    *,
    num_candidates: int | None,
    learning_rate: float,
    target_rate: float,
    max_grad_norm: float,
    keep_candidates: bool = False,
    double_q: bool = True,
    epsilon: float | None = None,
    weight_decay: float = 0.0,
    trust: Trust | None = None,
    discount: float = 1.0,
) -> Agent:
    """An agent that acts by the posterior of the prior and Q, and learns Q by a loss.

    Examples:
      >>> from llmprior_jax.agents.q_network import q_function
      >>> q = q_function(hidden_sizes=())
      >>> def imitate(values, batch):
      ...     scores = q.apply(values.params, batch.prior.features)
      ...     log_probs = jax.nn.log_softmax(batch.prior.log_probs + scores)
      ...     return -jnp.take_along_axis(log_probs, batch.action[:, None], axis=1)[:, 0], {}
      >>> agent = agents.q_learner(
      ...     q,
      ...     imitate,
      ...     agents.temperature.fixed(1.0),
      ...     num_candidates=None,
      ...     learning_rate=1e-3,
      ...     target_rate=1.0,
      ...     max_grad_norm=10.0,
      ... )
      >>> agent.update is not None
      True

    Args:
      q: the Q head.
      loss: see `Loss`; entries of weight 0 do not count.
      temperature: alpha of the posterior.
      num_candidates: K, act on and back up over K candidates drawn from the prior, as the paper
        does; None uses the exact posterior over all actions.
      learning_rate: of Adam.
      target_rate: share of the online parameters mixed into the target parameters per update.
      max_grad_norm: gradients are clipped to this global norm.
      keep_candidates: whether candidates are drawn once per visit of a state and kept with it, as
        the paper does; otherwise they are drawn whenever they are needed.
      double_q: whether Q, and not the target Q, says what is done in the next state.
      epsilon: probability of an action drawn from all that the prior (or the candidates) admits,
        while it learns; otherwise it then takes the best by Q. None samples the posterior.
      weight_decay: of AdamW.
      trust: learns how far the prior is trusted; None takes it as it is, as the paper does.
      discount: of the returns that trust is judged by, per decision.

    Returns:
      An `Agent`; its metrics are `loss`, those of the loss, of the temperature and of trust. Its
      `policy` is the exact posterior, whatever `num_candidates`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    ranges.POSITIVE.check("learning_rate", learning_rate)
    ranges.SHARE.check("target_rate", target_rate)
    ranges.POSITIVE.check("max_grad_norm", max_grad_norm)
    ranges.SHARE.check("discount", discount)
    if num_candidates is not None:
        ranges.WIDTH.check("num_candidates", num_candidates, ", or None")
    if keep_candidates and num_candidates is None:
        raise ValueError("keep_candidates needs a num_candidates; without it no action is drawn")
    if keep_candidates and trust is not None:
        raise ValueError(
            "keep_candidates needs a fixed trust: candidates that were drawn as the prior was "
            "trusted then would say nothing of how it is trusted now"
        )
    if epsilon is not None:
        ranges.SHARE_NOT_ZERO.check("epsilon", epsilon, ", or None")
    ranges.NOT_NEGATIVE.check("weight_decay", weight_decay)
    optimizer = optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(learning_rate, eps=1e-5, weight_decay=weight_decay),
    )

    def init(key: jax.Array, prior: ActionPrior) -> QLearnerState:
        params = q.init(key, prior.features.shape[-1])
        trusted = () if trust is None else trust.init()
        return QLearnerState(params, params, optimizer.init(params), temperature.init(), trusted)

    def trusted_log_probs(state: QLearnerState, prior: ActionPrior) -> jax.Array:
        """The prior f32[A] as far as it is trusted."""
        if trust is None:
            return prior.log_probs
        return refine.mixed_log_probs(trusts.members(prior), trust.weights(state.trust))

    def policy(state: QLearnerState, prior: ActionPrior) -> Policy:
        values = q.apply(state.params, prior.features)
        alpha = temperature.value(state.temperature)
        if trust is None:
            return Policy(posterior.posterior_log_probs(prior.log_probs, values, alpha), values)
        members, weights = trusts.members(prior), trust.weights(state.trust)
        trusted = refine.mixed_log_probs(members, weights)
        log_probs = posterior.posterior_log_probs(trusted, values, alpha)
        theirs = refine.responsibilities(log_probs, members, weights)
        return Policy(log_probs, values, trusted, trusts.in_priors(theirs))

    def candidate_prior(key: jax.Array, log_probs: jax.Array, kept: jax.Array | None) -> jax.Array:
        """The distribution f32[A] of K candidates, kept i32[K] or drawn; without K, the prior."""
        if num_candidates is None:
            return log_probs
        drawn = posterior.sample_candidates(key, log_probs, num_candidates)
        return posterior.empirical_log_probs(drawn if kept is None else kept, log_probs.shape[-1])

    def draw(state: QLearnerState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        assert num_candidates is not None
        return posterior.sample_candidates(key, trusted_log_probs(state, prior), num_candidates)

    def act_by(
        state: QLearnerState, key: jax.Array, log_probs: jax.Array, prior: ActionPrior
    ) -> jax.Array:
        candidates_key, sample_key = jax.random.split(key)
        values = q.apply(state.params, prior.features)
        alpha = temperature.value(state.temperature)
        log_probs = candidate_prior(candidates_key, log_probs, prior.candidates)
        return posterior.sample_posterior(sample_key, log_probs, values, alpha)

    def act(state: QLearnerState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        return act_by(state, key, trusted_log_probs(state, prior), prior)

    def try_by(
        state: QLearnerState, key: jax.Array, log_probs: jax.Array, prior: ActionPrior
    ) -> jax.Array:
        """Takes the best action by Q, or with a probability of epsilon any."""
        assert epsilon is not None
        candidates_key, any_key, best_key, which_key = jax.random.split(key, 4)
        log_probs = candidate_prior(candidates_key, log_probs, prior.candidates)
        exists = jnp.isfinite(log_probs)
        values = jnp.where(exists, q.apply(state.params, prior.features), -jnp.inf)
        # Drawn from all candidates as often as they come, as from all actions without them.
        any_one = jax.random.categorical(
            any_key, log_probs if num_candidates else uniform_log_probs(log_probs)
        )
        is_any = jax.random.bernoulli(which_key, epsilon)
        return jnp.where(is_any, any_one, likeliest(best_key, values))

    def update(
        state: QLearnerState, key: jax.Array, batch: Transitions
    ) -> tuple[QLearnerState, Metrics]:
        trusted = jax.vmap(trusted_log_probs, in_axes=(None, 0))
        next_trusted = trusted(state, batch.next_prior)
        next_log_probs = jax.vmap(candidate_prior)(
            jax.random.split(key, batch.action.shape[0]), next_trusted, batch.next_prior.candidates
        )
        log_probs = trusted(state, batch.prior)
        if batch.prior.candidates is not None:
            kept = jax.vmap(posterior.empirical_log_probs, in_axes=(0, None))
            log_probs = kept(batch.prior.candidates, log_probs.shape[-1])
        next_q = of_actions(q.apply, state.params, batch.next_prior)
        alpha = temperature.value(state.temperature)
        weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1.0)

        def mean_loss(params: optax.Params) -> tuple[jax.Array, Metrics]:
            losses, metrics = loss(
                Values(
                    params,
                    state.target_params,
                    log_probs,
                    next_log_probs,
                    next_q if double_q else None,
                    alpha,
                ),
                batch,
            )
            means = {name: jnp.sum(weight * values) for name, values in metrics.items()}
            mean = jnp.sum(weight * losses)
            return mean, {"loss": mean, **means}

        gradients, metrics = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        target_params = optax.incremental_update(params, state.target_params, target_rate)
        # Where an episode has ended nothing is done any more.
        going_on = batch.weight * (1 - batch.terminated)
        going_on /= jnp.maximum(jnp.sum(going_on), 1.0)
        temperature_state, temperature_metrics = temperature.update(
            state.temperature, next_trusted, next_q, going_on
        )
        metrics |= temperature_metrics
        trust_state = state.trust
        if trust is not None:
            weights = trust.weights(trust_state)
            metrics |= trusts.metrics(weights)
            policies = jax.vmap(posterior.posterior_log_probs, in_axes=(0, 0, None))(
                next_trusted, next_q, alpha
            )
            theirs = trusts.mean_responsibilities(batch.next_prior, policies, weights, going_on)
            trust_state = trust.see_states(trust_state, theirs)
        state = QLearnerState(
            params, target_params, optimizer_state, temperature_state, trust_state
        )
        return state, metrics

    explore = None
    if trust is not None and trust.see_episodes is not None:
        explore = _by_episodes(trust, act_by if epsilon is None else try_by, discount)
    elif epsilon is not None:
        explore = Exploration(
            begin=lambda state, key: jnp.int32(0),
            act=lambda state, key, prior, way: try_by(
                state, key, trusted_log_probs(state, prior), prior
            ),
            end=lambda state, value, way, ended: state,
            discount=discount,
        )
    kept = Candidates(num_candidates, draw) if num_candidates and keep_candidates else None
    return Agent(
        init,
        policy,
        act,
        update,
        explore,
        kept,
        alpha=lambda state: temperature.value(state.temperature),
    )


def _by_episodes(trust: Trust, act_by: Callable[..., jax.Array], discount: float) -> Exploration:
    """Plays whole episodes with one member of the trusted mixture, and learns trust from them.

    Args:
      trust: in the prior, learned from episodes.
      act_by: `(state, key, log_probs, prior) -> i32[]`, acts by a prior f32[A].
      discount: of the episodes' returns.
    """
    weights, see_episodes = trust.weights, trust.see_episodes
    assert see_episodes is not None

    def begin(state: QLearnerState, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, jnp.log(weights(state.trust))).astype(jnp.int32)

    def act(state: QLearnerState, key: jax.Array, prior: ActionPrior, way: jax.Array) -> jax.Array:
        return act_by(state, key, trusts.members(prior)[way], prior)

    def end(
        state: QLearnerState, value: jax.Array, way: jax.Array, ended: jax.Array
    ) -> QLearnerState:
        return state._replace(trust=see_episodes(state.trust, value, way, ended))

    return Exploration(begin, act, end, discount)


def check_target(backup: str, discount: float) -> None:
    """Raises a ValueError unless `bellman.posterior_bellman_target` takes these."""
    if backup not in get_args(bellman.Backup):
        raise ValueError(f"backup is {backup!r}; use one of {', '.join(get_args(bellman.Backup))}")
    ranges.SHARE.check("discount", discount)
