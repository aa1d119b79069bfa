"""Transitions that others recorded, as a dataset: their actions are done again in our environment.

What they saw is in other words than ours, and tells less than the state. So the text is not
translated: each episode is played again from its beginning, with the actions by their places in the
list, and at each step all that both tell is compared: reward, end, how many actions there are, and
whether states that look the same to one look the same to the other. What agrees is ours in every
word, hidden state included.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from llmprior_jax.datasets import Dataset
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.collecting import Episode, to_dataset

# Rewards that were summed in another order differ in their last digits.
_TOLERANCE = 1e-5
_MOST_SHOWN = 3


class Recorded(NamedTuple):
    """A transition in others' words.

    Attributes:
      task: what is to be achieved.
      observation: what was seen.
      action: what was done, one of `actions`.
      reward: for it.
      next_observation: what was seen then.
      done: whether that ended the episode for good.
      actions: all that could have been done, in the order of our environment's.
      next_actions: likewise, then.
    """

    task: str
    observation: str
    action: str
    reward: float
    next_observation: str
    done: bool
    actions: tuple[str, ...]
    next_actions: tuple[str, ...]


def replay(
    env: TextEnvironment, env_params: Any, recorded: Sequence[Recorded]
) -> tuple[Dataset, np.ndarray]:
    """Plays recorded transitions again, those of an episode after one another.

    Where an episode begins is found: after an end, or where a transition begins in another state
    than the one before it reached. An episode that did not end was cut off, which is a truncation.

    Args:
      env: an environment that always begins in the same state, and does not draw what happens.
      env_params: its parameters.
      recorded: the transitions.

    Returns:
      The episodes in our words, and which of them succeed, bool[episodes].

    Raises:
      ValueError: the environment does not always begin in the same state, or transitions do not
        replay; the message says how many, and what the first differ in.
    """
    player = _Player(env, env_params)
    episodes: list[list[Episode]] = []
    mismatches: list[str] = []
    lost, is_lost = 0, False
    for number, transition in enumerate(recorded):
        before = recorded[number - 1] if number else None
        if before is None or before.done or _reached(before) != _seen(transition):
            player.reset()
            episodes.append([])
            is_lost = False
        mismatch = "" if is_lost else player.step(transition, episodes[-1])
        if mismatch and episodes[-1]:
            # One that was cut off where all looks as at the beginning is followed by another.
            player.reset()
            another: list[Episode] = []
            if not player.step(transition, another):
                episodes.append(another)
                mismatch = ""
        if mismatch:
            is_lost = True
            mismatches.append(f"of number {number + 1} {mismatch}")
        # With one, all that follow it in its episode are lost.
        lost += is_lost
    if lost:
        raise ValueError(
            f"{lost:,} of {len(recorded):,} transitions do not replay in {env.name}: "
            f"{'; '.join(mismatches[:_MOST_SHOWN])}; {_advice(lost, len(recorded))}"
        )
    whole = list(map(_joined, episodes))
    return to_dataset(env, whole), np.array([episode.success.any() for episode in whole])


class _Player:
    """Does recorded actions in our environment, and compares."""

    def __init__(self, env: TextEnvironment, env_params: Any):
        self._env, self._params = env, env_params
        self._key = jax.random.key(0)
        self._step = jax.jit(env.step_env)
        self._is_truncated = jax.jit(env.is_truncated)
        self._start, other = (
            jax.device_get(env.reset(key, env_params)) for key in jax.random.split(self._key)
        )
        if not np.array_equal(self._start[0], other[0]):
            raise ValueError(
                f"{env.name} does not always begin in the same state, so nobody knows where a "
                "recorded episode began; name the environment that the transitions are from"
            )
        # How states look to us and to them, both ways.
        self._theirs: dict[Hashable, Hashable] = {}
        self._ours: dict[Hashable, Hashable] = {}
        self.reset()

    def reset(self) -> None:
        self._observation, self._state = self._start
        self._is_over = False

    def step(self, transition: Recorded, episode: list[Episode]) -> str:
        """Takes the same step here and adds it to its episode, or says what differs."""
        here = self._observation
        num_actions = len(self._env.text_state(here).actions)
        if self._is_over:
            return "the episode was at an end here before"
        if len(transition.actions) != num_actions:
            return f"there are {len(transition.actions)} actions there, {num_actions} here"
        action = transition.actions.index(transition.action)
        reached, state, reward, terminated, info = jax.device_get(
            self._step(self._key, self._state, action, self._params)
        )
        pairs = (self._text(here), _seen(transition)), (self._text(reached), _reached(transition))
        if not abs(transition.reward - reward) <= _TOLERANCE:
            return f"the reward is {transition.reward:g} there, {reward:g} here"
        if transition.done != terminated:
            there, ours = ("ended" if end else "goes on" for end in (transition.done, terminated))
            return f"the episode {there} there, {ours} here"
        if not all(map(self._agree, pairs)):
            return "states look the same in one place that look different in the other"
        for ours, theirs in pairs:
            self._theirs[ours], self._ours[theirs] = theirs, ours
        truncated, success = bool(self._is_truncated(state, self._params)), bool(info["success"])
        ends = bool(terminated), truncated and not terminated
        episode.append(Episode(here, action, reward, reached, *ends, success))
        self._observation, self._state, self._is_over = reached, state, any(ends)
        return ""

    def _text(self, observation: np.ndarray) -> Hashable:
        text = self._env.text_state(observation)
        return text.observation, text.actions

    def _agree(self, pair: tuple[Hashable, Hashable]) -> bool:
        """Whether nothing else was seen in place of either."""
        ours, theirs = pair
        return self._theirs.get(ours, theirs) == theirs and self._ours.get(theirs, ours) == ours


def _advice(lost: int, number: int) -> str:
    """What to do about transitions that do not replay, of so many."""
    if 2 * lost > number:
        return "name the environment that they are from"
    return "the others do, so that it is the file that is damaged: take it anew"


def _seen(transition: Recorded) -> Hashable:
    return transition.task, transition.observation, transition.actions


def _reached(transition: Recorded) -> Hashable:
    return transition.task, transition.next_observation, transition.next_actions


def _joined(steps: Sequence[Episode]) -> Episode:
    """An episode of its steps; one that goes on after the last was cut off there."""
    episode = Episode(*map(np.stack, zip(*steps, strict=True)))
    episode.truncated[-1] = not episode.terminated[-1]
    return episode
