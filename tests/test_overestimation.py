"""What is measured of the maximum: promised, got, and best by Q though never taken."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from launch.paper import overestimation
from llmprior_jax.agents import Policy
from llmprior_jax.learning.replay import Record, ReplayState
from llmprior_jax.types import ActionPrior, TextState

# Two states of three slots; the second has two actions.
LOG_PROBS = np.log(np.array([[0.8, 0.1, 0.1], [0.5, 0.5, 0.0]]) + 1e-300).astype(np.float64)
LOG_PROBS[1, 2] = -np.inf
Q = np.array([[1.0, 2.0, 0.0], [0.5, 0.4, 9.0]], np.float32)


def fake_run(row: list[int], action: list[int]):
    """A run of one seed that plays two steps; its replay has so many entries, and room for more."""
    room = [0, 0]
    entries = Record(
        *(jnp.array([values + room]) for values in (row, action)),
        *(jnp.zeros((1, len(row) + 2)) for _ in range(3)),
    )
    replay = ReplayState(entries, jnp.array([len(row)]), jnp.array([False]))
    text = TextState("", "", (), ("wait", "go"))
    decisions = [SimpleNamespace(text=text, q_values=Q[1], reward=reward) for reward in (1.0, 2.0)]
    policies = ActionPrior(LOG_PROBS, np.zeros((2, 3, 1))), Policy(LOG_PROBS, Q)
    return SimpleNamespace(
        evaluate=lambda fresh: {"success_rate": np.array([0.25])},
        play=lambda seed, key: iter(decisions),
        player=SimpleNamespace(policies=lambda agent, seed: policies),
        state=SimpleNamespace(agent=(), replay=replay),
    )


def test_promised_is_the_largest_q_and_got_the_discounted_return():
    measured = overestimation.measure(fake_run([0], [0]), discount=0.5)
    assert measured["promised"] == pytest.approx([0.5]), "9 is of a slot without an action"
    assert measured["got"] == pytest.approx([1.0 + 0.5 * 2.0])
    assert measured["success"] == [0.25]


@pytest.mark.parametrize(
    ("row", "action", "share"),
    [
        ([0, 0, 1, 1], [0, 2, 0, 1], 0.5),  # In the first state its best action, 1, was not taken.
        ([0, 0, 1, 1], [0, 1, 1, 1], 0.5),
        ([0, 1], [1, 0], 0.0),
    ],
)
def test_visits_count_where_the_best_action_was_never_taken(row, action, share):
    measured = overestimation.measure(fake_run(row, action), discount=0.5)
    assert measured["never_taken"] == pytest.approx([share])
