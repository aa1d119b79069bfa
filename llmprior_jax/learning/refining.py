"""Refining the prior: the posterior of the states that were visited becomes the language model's.

The M-step of variational EM. Seeds have one language model among them, so what all of them visited
is learned together, in a jitted loop over a gather of packed states (`priors.language_policy`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llmprior_jax import refine
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.posterior import kl_to_prior
from llmprior_jax.types import LanguagePolicy

# Weights of Adam's step grow in a line over this share of the updates, and fall to 0 in a cosine.
_WARMUP = 0.1
_METRICS = ("loss", "kl_to_posterior", "kl_to_old")


class Visited(NamedTuple):
    """M states to learn from.

    Attributes:
      rows: what the language model reads of them, as `LanguagePolicy.read` gives it, [M, ...].
      posterior: f32[M, A], log pi(a|s), what the prior is to become.
      old: f32[M, A], log p(a|s) of the prior as it was.
      weight: f32[M], how often each is drawn, relative to the others.
    """

    rows: Any
    posterior: jax.Array
    old: jax.Array
    weight: jax.Array


class RefiningState(NamedTuple):
    """All that refining needs to continue.

    Attributes:
      key: of what is drawn.
      params: what is learned of the language model.
      optimizer: its state.
      updates: i32[], how many were made.
    """

    key: jax.Array
    params: Any
    optimizer: optax.OptState
    updates: jax.Array


class Refining(NamedTuple):
    """The distillation of a posterior into a language model, as pure functions.

    Attributes:
      init: `(key, params) -> RefiningState`.
      segment: `(state, frozen, visited, number i32[]) -> (state, metrics)`, so many updates, 1 or
        more; metrics are means over them: `loss`, `kl_to_posterior`, `KL(pi || p)`, and
        `kl_to_old`, `KL(p_old || p)`.
    """

    init: Callable[[jax.Array, Any], RefiningState]
    segment: Callable[[RefiningState, Any, Visited, jax.Array], tuple[RefiningState, Metrics]]


def make_refining(
    model: LanguagePolicy,
    *,
    leash: float,
    learning_rate: float,
    updates: int,
    batch_states: int,
    max_grad_norm: float = 1.0,
) -> Refining:
    """Builds the distillation.

    Args:
      model: the language model that is refined, its answers as a policy.
      leash: price of forgetting, see `refine.distillation_loss`.
      learning_rate: of Adam, the largest one: it grows in a line at first, and falls in a cosine.
      updates: how many there are in all.
      batch_states: B, states of an update, drawn by their weights.
      max_grad_norm: gradients are clipped to this global norm.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, int(_WARMUP * updates)), max(2, updates)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(schedule))

    def init(key: jax.Array, params: Any) -> RefiningState:
        return RefiningState(key, params, optimizer.init(params), jnp.int32(0))

    def share_of_loss(
        params: Any, frozen: Any, rows: Any, batch: Visited
    ) -> tuple[jax.Array, Metrics]:
        """Of some states, their share in the mean over all of the batch."""
        log_probs, _ = model.apply(params, frozen, rows)
        loss = jax.vmap(functools.partial(refine.distillation_loss, leash=leash))
        losses = {
            "loss": loss(log_probs, batch.posterior, batch.old),
            "kl_to_posterior": jax.vmap(kl_to_prior)(batch.posterior, log_probs),
            "kl_to_old": jax.vmap(kl_to_prior)(batch.old, log_probs),
        }
        shares = {name: jnp.sum(values) / batch_states for name, values in losses.items()}
        return shares["loss"], shares

    def update(
        state: RefiningState, frozen: Any, visited: Visited
    ) -> tuple[RefiningState, Metrics]:
        key, draw_key = jax.random.split(state.key)
        # Drawn by a cumulative sum: a categorical draw would take M random numbers for each.
        total = jnp.cumsum(visited.weight)
        draws = jax.random.uniform(draw_key, (batch_states,)) * total[-1]
        chosen = jnp.minimum(jnp.searchsorted(total, draws, side="right"), len(total) - 1)
        batch = jax.tree.map(lambda leaf: leaf[chosen], visited)
        descend = functools.partial(jax.grad(share_of_loss, has_aux=True), state.params, frozen)
        gradients, metrics = model.in_parts(descend, batch.rows, batch._replace(rows=()))
        steps, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, steps)
        return RefiningState(key, params, optimizer_state, state.updates + 1), metrics

    def segment(
        state: RefiningState, frozen: Any, visited: Visited, number: jax.Array
    ) -> tuple[RefiningState, Metrics]:
        def one_more(
            _: jax.Array, carry: tuple[RefiningState, Metrics]
        ) -> tuple[RefiningState, Metrics]:
            state, total = carry
            state, metrics = update(state, frozen, visited)
            return state, jax.tree.map(jnp.add, total, metrics)

        nothing: Metrics = dict.fromkeys(_METRICS, jnp.zeros(()))
        state, total = jax.lax.fori_loop(0, number, one_more, (state, nothing))
        return state, {name: value / number for name, value in total.items()}

    return Refining(init, jax.jit(segment))
