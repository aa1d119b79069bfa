"""The temperature alpha of the posterior: fixed, scheduled, or adapted to a target KL.

Alpha says how far Q may move the posterior from the prior. A good value depends on the scale of the
rewards and on the quality of the prior. The divergence KL(pi || p) is in nats, whatever the scale
of the rewards; if that scale is unknown, set a target for the divergence.

Example:
  >>> alpha = agents.temperature.adapted(target_kl=0.5, initial=0.1)
  >>> print(f"{alpha.value(alpha.init()):.2f}")
  0.10
  >>> agent = agents.dqn_prior(alpha=alpha)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llmprior_jax import posterior
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.ranges import COUNT, POSITIVE


class Temperature(NamedTuple):
    """Alpha as pure functions.

    Attributes:
      init: `() -> state`.
      value: `(state) -> f32[]`, alpha.
      update: `(state, prior_log_probs f32[B, A], q_values f32[B, A], weight f32[B]) -> (state,
        metrics)`, after each update of Q; the weights sum to 1, or are all 0.
    """

    init: Callable[[], Any]
    value: Callable[[Any], jax.Array]
    update: Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[Any, Metrics]]


def fixed(alpha: float) -> Temperature:
    """The same alpha all along.

    Raises:
      ValueError: alpha is out of its range (`ranges.POSITIVE`).
    """
    POSITIVE.check("alpha", alpha)
    return Temperature(
        init=lambda: (),
        value=lambda state: jnp.float32(alpha),
        update=lambda state, log_probs, q_values, weight: ((), {}),
    )


def choose(
    alpha: float,
    initial: float | None = None,
    num_updates: int | None = None,
    target_kl: float | None = None,
) -> Temperature:
    """Alpha as settings have it: fixed, scheduled or adapted.

    It is fixed unless there is a schedule, which takes both `initial` and `num_updates`, or a
    `target_kl`.

    Args:
      alpha: the temperature; the last one of a schedule, the first one of an adapted temperature.
      initial: alpha at first, where a linear schedule leads from it to `alpha`.
      num_updates: the length of the schedule, in updates.
      target_kl: the mean divergence of the posterior from the prior to adapt alpha to, in nats.

    Raises:
      ValueError: a number is out of its range, a schedule lacks one of its numbers, or there are
        both a schedule and a target.
    """
    POSITIVE.check("alpha", alpha)
    if initial is None and num_updates is None:
        return fixed(alpha) if target_kl is None else adapted(target_kl, initial=alpha)
    if initial is None or num_updates is None:
        lacking = "initial alpha" if initial is None else "number of updates"
        raise ValueError(f"the schedule of alpha has no {lacking}; give both, or neither")
    if target_kl is not None:
        raise ValueError("alpha has both a schedule and a target_kl; leave one of them out")
    POSITIVE.check("initial", initial)
    COUNT.check("num_updates", num_updates)
    return scheduled(optax.linear_schedule(initial, alpha, num_updates))


def as_temperature(alpha: float | Temperature) -> Temperature:
    """A number as a fixed temperature; a temperature as it is."""
    return alpha if isinstance(alpha, Temperature) else fixed(alpha)


def scheduled(schedule: optax.Schedule) -> Temperature:
    """Alpha as a function of the number of updates, such as `optax.linear_schedule(1, 0.03, n)`.

    Args:
      schedule: `(i32[]) -> f32[]`, positive everywhere.
    """

    def value(count: jax.Array) -> jax.Array:
        return jnp.asarray(schedule(count), jnp.float32)

    return Temperature(
        init=lambda: jnp.int32(0),
        value=value,
        update=lambda count, log_probs, q_values, weight: (count + 1, {"alpha": value(count)}),
    )


def adapted(
    target_kl: float, initial: float = 1.0, minimum: float = 1e-3, learning_rate: float = 1e-3
) -> Temperature:
    """Alpha at which the posterior is, on average over states, `target_kl` away from the prior.

    Dual ascent, as in "Maximum a Posteriori Policy Optimisation" (Abdolmaleki et al., 2018, arXiv
    1806.06920): alpha is the multiplier of the constraint KL(pi || p) <= target_kl, and minimizes
    `alpha target_kl + E_s[alpha log sum_b p(b|s) exp(Q(s,b)/alpha)]`, whose derivative is
    `target_kl - E_s[KL(pi || p)]`. Adam takes the steps, in log alpha.

    Args:
      target_kl: in nats, > 0.
      initial: alpha at first.
      minimum: alpha never goes below it. Where Q cannot move the posterior as far as it may, as
        before anything is learned, alpha would otherwise vanish.
      learning_rate: of Adam.

    Raises:
      ValueError: an argument is out of its range (`ranges.POSITIVE`).
    """
    arguments = {"target_kl": target_kl, "initial": initial, "minimum": minimum}
    for name, number in (arguments | {"learning_rate": learning_rate}).items():
        POSITIVE.check(name, number)
    optimizer = optax.adam(learning_rate)

    def init() -> Any:
        log_alpha = jnp.log(jnp.float32(initial))
        return log_alpha, optimizer.init(log_alpha)

    def value(state: Any) -> jax.Array:
        return jnp.exp(state[0])

    def update(
        state: Any, log_probs: jax.Array, q_values: jax.Array, weight: jax.Array
    ) -> tuple[Any, Metrics]:
        log_alpha, optimizer_state = state
        q_values = jax.lax.stop_gradient(q_values)

        def dual(log_alpha: jax.Array) -> jax.Array:
            alpha = jnp.exp(log_alpha)
            values = jax.vmap(posterior.soft_value, in_axes=(0, 0, None))(
                log_probs, q_values, alpha
            )
            return jnp.sum(weight * (alpha * target_kl + values))

        step, next_optimizer_state = optimizer.update(jax.grad(dual)(log_alpha), optimizer_state)
        moved = jnp.maximum(log_alpha + step, jnp.log(minimum)), next_optimizer_state
        # Where nothing is done in any of the states, Adam's momentum would still move alpha.
        is_any = jnp.any(weight > 0)
        moved = jax.tree.map(lambda new, old: jnp.where(is_any, new, old), moved, state)
        return moved, {"alpha": value(state)}

    return Temperature(init, value, update)
