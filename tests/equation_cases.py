"""What the tests of the equations share: ways to call a function, references, and random cases."""

import contextlib
import decimal
import importlib
from typing import NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest
from hypothesis import strategies as st

NUM_ACTIONS = 6

# Few examples, always the same ones, and no deadline: the machine may be busy.
sampled = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


def _vmapped(fn):
    def call(*args):
        batch = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 3), args)
        return jax.tree.map(lambda x: x[1], jax.vmap(fn)(*batch))

    return call


# Every way to call a function of arrays that has to give the same result.
all_variants = pytest.mark.parametrize(
    "variant",
    [
        pytest.param(lambda fn: fn, id="plain"),
        pytest.param(jax.jit, id="jit"),
        pytest.param(_vmapped, id="vmap"),
        pytest.param(lambda fn: jax.jit(_vmapped(fn)), id="jit_vmap"),
    ],
)


def float64() -> contextlib.AbstractContextManager:
    """The context in which JAX computes in float64, by its name in this version of JAX."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return importlib.import_module("jax.experimental").enable_x64()


def check_gradients(fn, *args, order: int = 2) -> None:
    """Derivatives of `fn` up to `order` against finite differences. To be called in `float64`."""
    jax.test_util.check_grads(jax.jit(fn), args, order=order, modes=["rev"])


class Case(NamedTuple):
    """A state with some actions missing; `q_values` hold garbage there."""

    prior_log_probs: jax.Array
    q_values: jax.Array
    alpha: jax.Array
    exists: np.ndarray
    action: int  # one that exists


@st.composite
def cases(draw) -> Case:
    """Random masks, dtypes, and magnitudes of Q and alpha from 1e-8 to 1e8."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([jnp.float32, jnp.bfloat16]))
    exists = np.array(draw(st.lists(st.booleans(), min_size=NUM_ACTIONS, max_size=NUM_ACTIONS)))
    exists[draw(st.integers(0, NUM_ACTIONS - 1))] = True
    q_scale = 10.0 ** draw(st.integers(-8, 8))
    alpha = 10.0 ** draw(st.integers(-8, 8))
    sharpness = draw(st.sampled_from([0.0, 1.0, 10.0]))  # the prior's, from uniform to peaked

    logits = np.where(exists, sharpness * rng.normal(size=NUM_ACTIONS), -np.inf)
    log_probs = logits - np.log(np.sum(np.exp(logits)))
    garbage = rng.choice([np.nan, np.inf, -np.inf, 1e30], size=NUM_ACTIONS)
    q_values = np.where(exists, q_scale * rng.normal(size=NUM_ACTIONS), garbage)
    return Case(
        jnp.asarray(log_probs, dtype),
        jnp.asarray(q_values, dtype),
        jnp.asarray(alpha, jnp.float32),
        exists,
        int(rng.choice(np.flatnonzero(exists))),
    )


class Exact(NamedTuple):
    """The defining formulas in 60 digits, rounded to float64 at the end; 0 where no action is."""

    prior: np.ndarray
    posterior: np.ndarray
    value: float
    divergence: float
    mean_q: float
    tilt: np.ndarray  # alpha (pi - p)


def exact(prior_log_probs, q_values, alpha) -> Exact:
    """Evaluates the equations naively, in arithmetic that forgives it."""
    decimal_of = lambda x: decimal.Decimal(float(x))  # noqa: E731
    prior_log_probs = np.asarray(prior_log_probs, np.float64)
    actions = np.flatnonzero(prior_log_probs > -np.inf)
    with decimal.localcontext() as context:
        context.prec = 60
        context.Emin, context.Emax = decimal.MIN_EMIN, decimal.MAX_EMAX
        weights = [decimal_of(prior_log_probs[a]).exp() for a in actions]
        prior = [w / sum(weights) for w in weights]
        q = [decimal_of(np.asarray(q_values, np.float64)[a]) for a in actions]
        alpha = decimal_of(alpha)
        # exp(Q/alpha) may have 10^15 digits before its point: scale by the largest.
        best = max(q)
        likelihood = [((x - best) / alpha).exp() for x in q]
        evidence = sum(
            (p * x for p, x in zip(prior, likelihood, strict=True)), start=decimal.Decimal(0)
        )
        posterior = [p * x / evidence for p, x in zip(prior, likelihood, strict=True)]
        value = best + alpha * evidence.ln()
        mean_q = sum(p * x for p, x in zip(posterior, q, strict=True))

        def spread(values):
            row = np.zeros(len(prior_log_probs))
            row[actions] = [float(x) for x in values]
            return row

        return Exact(
            prior=spread(prior),
            posterior=spread(posterior),
            value=float(value),
            divergence=float((mean_q - value) / alpha),
            mean_q=float(mean_q),
            tilt=spread(alpha * (x - p) for p, x in zip(prior, posterior, strict=True)),
        )
