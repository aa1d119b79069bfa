"""GFlan-Prior: a language model is the policy, fine-tuned by PPO on the evidence lower bound.

Yan et al., 2025 (arXiv 2410.07927), variational inference: maximize

    E_pi[ sum_t g^t (r_t - alpha KL(pi(.|s_t) || p(.|s_t))) ]

over the policy's parameters, with the frozen language model as the prior p. With alpha = 0 it is
GFlan, the fine-tuning of GLAM (Carta et al., ICML 2023, arXiv 2302.02662): the same model, with no
price for departing from the prior. Updates are those of PPO (Schulman et al., 2017, arXiv
1707.06347) with generalized advantages (arXiv 1506.02438), but for two things. A minibatch is a set
of states with all steps that were taken in them, so that the language model reads each distinct
state once per epoch. And advantages are not rescaled, which would leave alpha without a unit.

The divergence is exact, a sum over the state's actions, and may be charged in two ways (`kl_in`).
The paper writes the objective above, which is "reward"; its authors' code for this part is not
published.

- "reward": values and advantages are those of `r_t - alpha KL_t`, so an action also pays for what
  its future will cost. The state's own KL_t does not depend on the action taken, so its gradient
  is exact and stands in the loss. Together they are the gradient of the objective above.
- "loss": in the loss only. Each state's policy is pulled towards the prior, and values are those
  of the reward alone: no state is avoided because the prior is bad there. Simpler, and myopic.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from llmprior_jax import ranges, refine
from llmprior_jax.agents import trust as trusts
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.agents.policy_agent import PolicyAgent, Rollout, States, advantage_estimates
from llmprior_jax.agents.q_network import q_function
from llmprior_jax.elbo import clipped_surrogate_loss, elbo_policy_loss
from llmprior_jax.posterior import kl_to_prior
from llmprior_jax.types import ActionPrior, LanguagePolicy

KLIn = Literal["reward", "loss"]
# Of the members whose mixture is the prior, for what the policy does.
_RESPONSIBILITIES = "responsibilities"


class GFlanParams(NamedTuple):
    """What is learned: the language model (or its low-rank factors), and the value head."""

    policy: Any
    value: Any


class GFlanState(NamedTuple):
    """Parameters, the optimizer's state, and the state of trust in the prior (() without trust).

    Examples:
      >>> state = agents.GFlanState(params=(), optimizer=())
      >>> state._fields
      ('params', 'optimizer', 'trust')
    """

    params: GFlanParams
    optimizer: optax.OptState
    trust: Any = ()


def gflan_prior(
    model: LanguagePolicy,
    *,
    alpha: float = 0.01,
    kl_in: KLIn = "reward",
    clip_epsilon: float = 0.2,
    discount: float = 0.95,
    gae_lambda: float = 0.95,
    learning_rate: float = 1e-4,
    value_learning_rate: float = 1e-3,
    value_coefficient: float = 0.5,
    max_grad_norm: float = 1.0,
    epochs: int = 4,
    minibatch_states: int = 32,
    hidden_sizes: Sequence[int] = (64,),
    trust: trusts.Trust | None = None,
) -> PolicyAgent:
    """GFlan-Prior as pure functions.

    Examples:
      >>> from llmprior_jax.priors.language_policy import language_policy
      >>> model = language_policy(models.load("tiny"), num_actions=2, lora_rank=2)
      >>> agent = agents.gflan_prior(model, alpha=0.01)
      >>> state = agent.init(jax.random.key(0))
      >>> rows = model.read(["Task: wash the cup. Do:"], [[" go to the sink", " sleep"]])
      >>> log_probs, values = jax.eval_shape(agent.policy, state, model.frozen, rows)
      >>> log_probs.shape, values.shape
      ((1, 2), (1,))

    Args:
      model: the language model that is the policy.
      alpha: price of departing from the prior, reward per nat; 0 is GFlan.
      kl_in: where it is charged, "reward" or "loss"; see above.
      clip_epsilon: how far a probability ratio may move from 1 before the incentive ends.
      discount: g, per decision.
      gae_lambda: of the generalized advantages.
      learning_rate: of Adam, for the language model.
      value_learning_rate: of Adam, for the value head.
      value_coefficient: weight of the value loss beside the policy's in the language model's
        gradient.
      max_grad_norm: gradients of the language model are clipped to this global norm.
      epochs: passes over a rollout.
      minibatch_states: K, states per minibatch, at most.
      hidden_sizes: of the value head.
      trust: how far the prior is trusted (`agents.trust.by_states`): the policy is drawn to the
        mixture of it and the uniform prior; None takes it as it is, as the paper does.

    Returns:
      A `PolicyAgent`. Its metrics are means over the steps of the rollout and the epochs:
      `policy_loss`, `value_loss`, `kl` to the prior, `entropy`, `clip_fraction`; and
      `explained_variance` of the returns by the values before the update, `distinct_states`, and
      with it `trust`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    if kl_in not in get_args(KLIn):
        raise ValueError(f"kl_in is {kl_in!r}; use one of {', '.join(get_args(KLIn))}")
    ranges.NOT_NEGATIVE.check("alpha", alpha)
    positive = {
        "clip_epsilon": clip_epsilon,
        "learning_rate": learning_rate,
        "value_learning_rate": value_learning_rate,
        "value_coefficient": value_coefficient,
        "max_grad_norm": max_grad_norm,
    }
    for name, value in positive.items():
        ranges.POSITIVE.check(name, value)
    ranges.SHARE.check("discount", discount)
    ranges.SHARE.check("gae_lambda", gae_lambda)
    ranges.WIDTH.check("epochs", epochs)
    ranges.SIZE.check("minibatch_states", minibatch_states)
    value_head = q_function(hidden_sizes)
    optimizer = optax.partition(
        {
            "policy": optax.chain(
                optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=1e-5)
            ),
            "value": optax.adam(value_learning_rate, eps=1e-5),
        },
        GFlanParams("policy", "value"),
    )

    def init(key: jax.Array) -> GFlanState:
        policy_key, value_key = jax.random.split(key)
        params = GFlanParams(model.init(policy_key), value_head.init(value_key, model.num_features))
        return GFlanState(params, optimizer.init(params), () if trust is None else trust.init())

    def trusted(state: GFlanState, prior: ActionPrior) -> jax.Array:
        """The prior f32[A] as far as it is trusted."""
        if trust is None:
            return prior.log_probs
        return refine.mixed_log_probs(trusts.members(prior), trust.weights(state.trust))

    def evaluate(params: GFlanParams, frozen: Any, rows: Any) -> tuple[jax.Array, jax.Array]:
        log_probs, hidden = model.apply(params.policy, frozen, rows)
        return log_probs, value_head.apply(params.value, hidden)

    def step_losses(
        log_probs: jax.Array,
        value: jax.Array,
        prior_log_probs: jax.Array,
        step: Rollout,
        advantage: jax.Array,
        target: jax.Array,
    ) -> tuple[jax.Array, Metrics]:
        """The losses and metrics of one step of a rollout."""
        surrogate = (log_probs, step.log_prob, step.action, advantage)
        if alpha:
            policy_loss = elbo_policy_loss(*surrogate, prior_log_probs, alpha, clip_epsilon)
        else:
            policy_loss = clipped_surrogate_loss(*surrogate, clip_epsilon)
        value_loss = 0.5 * (value - target) ** 2
        ratio = jnp.exp(log_probs[step.action] - step.log_prob)
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "kl": kl_to_prior(log_probs, prior_log_probs),
            "entropy": -jnp.sum(jnp.exp(log_probs) * jnp.where(log_probs > -jnp.inf, log_probs, 0)),
            "clip_fraction": jnp.abs(ratio - 1) > clip_epsilon,
        }
        return policy_loss + value_coefficient * value_loss, metrics

    def update(
        state: GFlanState, frozen: Any, key: jax.Array, states: States, rollout: Rollout
    ) -> tuple[GFlanState, Metrics]:
        weights = None if trust is None else trust.weights(state.trust)
        # No features: a policy reads the states themselves.
        prior = ActionPrior(
            states.prior_log_probs,
            jnp.zeros((*states.prior_log_probs.shape, 0)),
            states.other_log_probs,
        )
        prior_log_probs = jax.vmap(trusted, in_axes=(None, 0))(state, prior)
        members = trusts.members(prior)
        advantages = advantage_estimates(
            rollout, alpha if kl_in == "reward" else 0.0, discount, gae_lambda
        )
        targets = advantages + rollout.value
        steps, advantage, target = jax.tree.map(
            jnp.ravel, (rollout._replace(last_value=rollout.value), advantages, targets)
        )
        num_steps = steps.row.size
        distinct = jnp.unique(steps.row, size=num_steps, fill_value=-1)
        count = jnp.sum(distinct >= 0)
        num_minibatches = -(-count // minibatch_states)
        # Minibatches of nearly equal size: the last one would else hold what happens to be left.
        size = -(-count // num_minibatches)

        def states_loss(
            params: GFlanParams, rows: Any, chosen: jax.Array
        ) -> tuple[jax.Array, Metrics]:
            """Summed loss of the steps in some states, i32[K], -1 where there are fewer."""
            log_probs, values = evaluate(params, frozen, rows)
            is_here = steps.row[:, None] == chosen
            weight = jnp.any(is_here, axis=1) / num_steps
            place = jnp.argmax(is_here, axis=1)
            losses, metrics = jax.vmap(step_losses)(
                log_probs[place],
                values[place],
                prior_log_probs[steps.row],
                steps,
                advantage,
                target,
            )
            if weights is not None:
                of_steps = jax.vmap(refine.responsibilities, in_axes=(0, 0, None))
                metrics[_RESPONSIBILITIES] = of_steps(
                    jax.lax.stop_gradient(log_probs[place]), members[steps.row], weights
                )
            # A step elsewhere has nothing to do with the states that are read here.
            losses = jnp.where(weight > 0, losses, 0.0)
            metrics = jax.tree.map(
                lambda leaf: jnp.tensordot(
                    weight, jnp.where(weight.reshape(-1, *[1] * (leaf.ndim - 1)) > 0, leaf, 0.0), 1
                ),
                metrics,
            )
            return num_minibatches * jnp.sum(weight * losses), metrics

        def epoch(
            carry: tuple[GFlanState, Metrics], key: jax.Array
        ) -> tuple[tuple[GFlanState, Metrics], None]:
            last = jnp.where(distinct >= 0, 0.0, jnp.inf)
            order = jnp.argsort(jax.random.uniform(key, (num_steps,)) + last)
            shuffled = jnp.pad(distinct[order], (0, minibatch_states), constant_values=-1)

            def learn(
                number: jax.Array, carry: tuple[GFlanState, Metrics]
            ) -> tuple[GFlanState, Metrics]:
                state, metrics = carry
                chosen = jax.lax.dynamic_slice_in_dim(shuffled, number * size, minibatch_states)
                chosen = jnp.where(jnp.arange(minibatch_states) < size, chosen, -1)
                rows = jax.tree.map(lambda leaf: leaf[jnp.maximum(chosen, 0)], states.rows)
                descend = functools.partial(jax.grad(states_loss, has_aux=True), state.params)
                gradients, new = model.in_parts(descend, rows, chosen)
                updates, optimizer_state = optimizer.update(
                    gradients, state.optimizer, state.params
                )
                params: Any = optax.apply_updates(state.params, updates)
                state = state._replace(params=params, optimizer=optimizer_state)
                return state, jax.tree.map(jnp.add, metrics, new)

            return jax.lax.fori_loop(0, num_minibatches, learn, carry), None

        names = ("policy_loss", "value_loss", "kl", "entropy", "clip_fraction")
        zeros: Metrics = {name: jnp.zeros(()) for name in names}
        if weights is not None:
            zeros[_RESPONSIBILITIES] = jnp.zeros_like(weights)
        (state, metrics), _ = jax.lax.scan(epoch, (state, zeros), jax.random.split(key, epochs))
        metrics = {name: total / epochs for name, total in metrics.items()}
        if trust is not None and weights is not None:
            learned = trust.see_states(state.trust, metrics.pop(_RESPONSIBILITIES))
            state = state._replace(trust=learned)
            metrics |= trusts.metrics(weights)
        residual = jnp.var(target - steps.value) / jnp.maximum(jnp.var(target), 1e-8)
        return state, metrics | {"explained_variance": 1 - residual, "distinct_states": count}

    return PolicyAgent(
        init=init,
        policy=lambda state, frozen, rows: evaluate(state.params, frozen, rows),
        update=update,
        prior=trusted,
    )
