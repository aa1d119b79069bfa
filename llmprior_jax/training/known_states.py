"""Whether the states of a dataset are states of the environment that its agents are judged in."""

import numpy as np
from absl import logging

from llmprior_jax.datasets import Dataset
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.engine_games import EngineGames
from llmprior_jax.types import TextState

_LEAST_KNOWN = 0.5


def check(dataset: Dataset, env: TextEnvironment | EngineGames, path: str) -> None:
    """Refuses a dataset most of whose states are not the environment's, and warns of some.

    A state is its text, so agents learn nothing for an environment from states that it words in
    another way. Only environments that list their states can tell. States in which episodes ended
    for good are nothing to learn from, and not looked at.

    Args:
      dataset: the transitions.
      env: the environment.
      path: of the dataset, for messages.

    Raises:
      ValueError: the environment has less than half of the states.
    """
    listed = env.list_observations() if isinstance(env, TextEnvironment) else None
    if listed is None:
        return
    known = {_identity(env.text_state(observation)) for observation in listed}
    used = np.union1d(dataset.row, dataset.next_row[~dataset.terminated]).tolist()
    foreign = [dataset.states[row] for row in used if _identity(dataset.states[row]) not in known]
    if not foreign:
        return
    share = 1 - len(foreign) / len(used)
    own = env.text_state(listed[0])
    said = (
        f"{path}: {len(used) - len(foreign):,} of its {len(used):,} states ({share:.0%}) are "
        f"states of the environment. One that is not: {_told(foreign[0])}. One of the "
        f"environment: {_told(own)}"
    )
    if share < _LEAST_KNOWN:
        raise ValueError(
            f"{said}. Tasks, observations and actions must be worded as the environment words "
            "them, as python -m launch.collect does"
        )
    logging.warning("%s. Nothing is learned for the environment from those that are not", said)


def _identity(state: TextState) -> tuple[str, str, frozenset[str]]:
    return state.task, state.observation, frozenset(state.actions)


def _told(state: TextState) -> str:
    actions = ", ".join(state.actions)
    return f"task {state.task!r}, observation {state.observation!r}, actions {actions}"
