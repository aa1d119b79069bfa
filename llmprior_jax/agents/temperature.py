"""The temperature alpha of the posterior: fixed, scheduled, or adapted to a target KL.

Alpha says how far Q may move the posterior from the prior. What is a good alpha depends on the
scale of the rewards and on how good the prior is; the divergence KL(pi || p) does not, so it is
the better thing to set where neither is known.

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
      ValueError: alpha is not > 0.
    """
    _check("alpha", alpha)
    return Temperature(
        init=lambda: (),
        value=lambda state: jnp.float32(alpha),
        update=lambda state, log_probs, q_values, weight: ((), {}),
    )


def choose(
    alpha: float, initial: float = 0.0, num_updates: int = 0, target_kl: float = 0.0
) -> Temperature:
    """The temperature that a few numbers describe, where 0 leaves something out.

    Args:
      alpha: the temperature; the last one of a schedule, the first one of an adapted temperature.
      initial: alpha at first, for a schedule that goes from it to `alpha` in a straight line ...
      num_updates: ... over so many updates.
      target_kl: adapt alpha until the posterior is, on average, so far from the prior.

    Raises:
      ValueError: a number is out of its range, or a schedule and a target are both asked for.
    """
    _check("alpha", alpha)
    if bool(initial) != bool(num_updates) or initial < 0 or num_updates < 0:
        raise ValueError(
            f"a schedule of alpha from {initial} over {num_updates} updates needs both numbers "
            "> 0; without a schedule both are 0"
        )
    if target_kl and initial:
        raise ValueError("alpha follows a schedule or a target_kl: set one of them to 0")
    if initial:
        return scheduled(optax.linear_schedule(initial, alpha, num_updates))
    return adapted(target_kl, initial=alpha) if target_kl else fixed(alpha)


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
      ValueError: an argument is not > 0.
    """
    arguments = {"target_kl": target_kl, "initial": initial, "minimum": minimum}
    for name, number in (arguments | {"learning_rate": learning_rate}).items():
        _check(name, number)
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

        step, optimizer_state = optimizer.update(jax.grad(dual)(log_alpha), optimizer_state)
        log_alpha = jnp.maximum(log_alpha + step, jnp.log(minimum))
        return (log_alpha, optimizer_state), {"alpha": value(state)}

    return Temperature(init, value, update)


def _check(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; use a number > 0")
