"""Episodes that were played, their metrics, and single decisions for people."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from llmprior_jax.envs import Scene
from llmprior_jax.registry import Registry
from llmprior_jax.types import TextState


class Episodes(NamedTuple):
    """E evaluated episodes of at most T steps; with a leading axis, of S seeds.

    Examples:
      >>> episodes = play.Episodes(np.array([[True]]), np.ones((1, 1)), np.array([[6]]))
      >>> float(episodes.success.mean())
      1.0

    Attributes:
      success: bool[E].
      returns: f32[E], undiscounted.
      length: i32[E].
      start: [E, *O], their first observations; None where that was not recorded.
      actions: i32[E, T], what was done, -1 after the end; None where that was not recorded.
      rows: i32[E, T], the table's rows of the states acted in, -1 after the end; None where that
        was not recorded.
    """

    success: np.ndarray | jax.Array
    returns: np.ndarray | jax.Array
    length: np.ndarray | jax.Array
    start: np.ndarray | jax.Array | None = None
    actions: np.ndarray | jax.Array | None = None
    rows: np.ndarray | jax.Array | None = None


Metric = Callable[[Episodes], np.ndarray]
"""`Episodes [S, E, ...] -> f[S]`, a number for each seed."""

_METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "success_rate": lambda episodes: np.mean(episodes.success, axis=1),
        "return": lambda episodes: np.mean(episodes.returns, axis=1),
        "episode_length": lambda episodes: np.mean(episodes.length, axis=1),
    },
)


def register_metric(name: str, metric: Metric) -> None:
    """Adds a metric to those of every evaluation, in `metrics.jsonl`, TensorBoard and `evaluate`.

    Examples:
      >>> def longest(episodes):
      ...     return np.max(episodes.length, axis=1)
      >>> play.register_metric("longest_episode", longest)

    Args:
      name: the name, which no metric has yet.
      metric: from the episodes of all seeds, [S, E, ...], to a number for each seed, [S].

    Raises:
      ValueError: another metric has that name.
    """
    _METRICS.register(name, metric)


def metrics(episodes: Mapping[str, Episodes]) -> dict[str, np.ndarray]:
    """The metrics [S] of an evaluation.

    Examples:
      >>> won, zeros = np.array([[True, False]]), np.zeros((1, 2))
      >>> played = play.Episodes(won, returns=zeros, length=zeros + 3)
      >>> play.metrics({"": played})["success_rate"]
      array([0.5])

    Args:
      episodes: those of each set of tasks, [S, E, ...], by what stands before the metrics' names.
    """
    return {
        f"{prefix}{name}": np.asarray(_METRICS[name](played))
        for prefix, played in episodes.items()
        for name in _METRICS
    }


class Decision(NamedTuple):
    """One step of an episode, for people: observation, prior, values, action and reward.

    Examples:
      >>> run = training.restore("runs/lake", "random", eval_episodes=4)
      >>> decision = next(iter(run.play(seed=0, key=jax.random.key(0))))
      >>> decision.text.actions[decision.action] in decision.text.actions, len(decision.prior)
      (True, 4)

    Attributes:
      text: the state.
      prior: f32[A], probabilities of the prior that the agent acts by: the language model's, mixed
        with the uniform one where it is so; uniform for a baseline.
      q_values: f32[A].
      posterior: f32[A], probabilities that the agent acts by.
      action: what it did.
      reward: what it got for it.
      success: whether this solved the task.
      truncated: whether the time limit ended the episode here.
      scene: what a picture of the state shows, where the environment can be drawn.
      trust: how much the language model's prior counted here, 0 to 1 (`agents.Policy`), where the
        agent weighs it.
    """

    text: TextState
    prior: np.ndarray
    q_values: np.ndarray
    posterior: np.ndarray
    action: int
    reward: float
    success: bool
    truncated: bool
    scene: Scene | None = None
    trust: float | None = None
