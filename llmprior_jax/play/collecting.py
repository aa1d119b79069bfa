"""Collecting datasets: whole episodes of a stated mixture of behaviors, in batches under jit."""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.loop import Missing
from llmprior_jax.play import datasets
from llmprior_jax.play.datasets import Dataset
from llmprior_jax.play.expert import encode, plan
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior, TextState

# Episodes that are played together: fewer where few are wanted.
_FEWEST_PER_ROUND, _MOST_PER_ROUND = 16, 64
# Of transitions that are wanted, what an episode may have at the least.
_SHORT_EPISODE = 8
# Episodes without one of the kind that is wanted, until it is given up.
_PATIENCE = 3_200


class Behavior(NamedTuple):
    """One way to act.

    Attributes:
      act: `(key, state, mask, prior) -> i32[]`; `state` of the environment, `mask` bool[A] of its
        admissible actions, `prior` of what is observed, or None without a filler.
      filler: source of the priors, None for behaviors that need none.
    """

    act: Callable[[jax.Array, Any, jax.Array, ActionPrior | None], jax.Array]
    filler: TableFiller | None = None


class Part(NamedTuple):
    """A part of a mixture.

    Attributes:
      behavior: how its episodes are played.
      share: its share of the episodes; shares need not sum to 1.
      epsilon: how often it takes a random action instead, 0 to 1.
    """

    behavior: Behavior
    share: float
    epsilon: float = 0.0


def random_behavior() -> Behavior:
    """Takes each admissible action equally often."""
    return Behavior(lambda key, state, mask, prior: _random(key, mask))


def expert_behavior(env: TextEnvironment, env_params: Any) -> Behavior:
    """Takes the surest and quickest way to success; see `expert.plan`."""
    expert = plan(env, env_params)

    def act(key: jax.Array, state: Any, mask: jax.Array, prior: ActionPrior | None) -> jax.Array:
        del mask, prior
        row = tables.find(expert, encode(state))
        return jax.random.categorical(key, tables.lookup(expert, row).log_probs)

    return Behavior(act)


def agent_behavior(agent: Agent, state: AgentState, filler: TableFiller) -> Behavior:
    """Acts as an agent does.

    Args:
      agent: the agent.
      state: its state, of one seed.
      filler: source of the priors that it acts on.
    """
    return Behavior(lambda key, env_state, mask, prior: agent.act(state, key, prior), filler)


def collect(
    env: TextEnvironment,
    env_params: Any,
    mixture: Sequence[Part],
    num_episodes: int | None = None,
    num_transitions: int | None = None,
    success_share: float | None = None,
    seed: int = 0,
) -> Dataset:
    """Collects episodes until there are enough.

    Args:
      env: the environment.
      env_params: its parameters.
      mixture: behaviors and their shares of the episodes that are played.
      num_episodes: how many episodes to collect; give this or `num_transitions`.
      num_transitions: how many transitions to collect at least; episodes are kept whole.
      success_share: what share of the episodes kept are successful; None keeps all as they come.
      seed: same seed, same dataset.

    Raises:
      ValueError: a number is out of its range, or successes (or failures) were wanted and did not
        come.
    """
    if (num_episodes is None) == (num_transitions is None):
        raise ValueError("say how many episodes or how many transitions to collect: one of the two")
    for name, number in (("episodes", num_episodes), ("transitions", num_transitions)):
        if number is not None and number < 1:
            raise ValueError(f"{number} {name} were asked for; use a number >= 1")
    if success_share is not None and not 0 <= success_share <= 1:
        raise ValueError(f"success_share is {success_share}; use a share from 0 to 1")
    _check_mixture(mixture)

    kept: list[_Episode] = []
    size = 0
    wanted = num_episodes if num_episodes is not None else (num_transitions or 0) // _SHORT_EPISODE
    which = _parts_of_a_round(mixture, wanted)
    for episode in _select(_play(env, env_params, mixture, seed, which), success_share):
        kept.append(episode)
        size += len(episode.action)
        if len(kept) == num_episodes or (num_transitions is not None and size >= num_transitions):
            break
    return _to_dataset(env, kept)


class _Steps(NamedTuple):
    """Steps of an environment; `_Episode`s are made of them."""

    observation: Any
    action: Any
    reward: Any
    next_observation: Any
    terminated: Any
    truncated: Any
    success: Any


_Episode = _Steps


def _check_mixture(mixture: Sequence[Part]) -> None:
    for part in mixture:
        if not part.share > 0:
            raise ValueError(f"a behavior has the share {part.share}; use numbers > 0")
        if not 0 <= part.epsilon <= 1:
            raise ValueError(f"epsilon is {part.epsilon}; use a number from 0 to 1")
    if not mixture:
        raise ValueError("name at least one behavior")


def _parts_of_a_round(mixture: Sequence[Part], wanted: int) -> np.ndarray:
    """For each episode of a round the index of its part, in shares as exact as episodes allow."""
    shares = np.array([part.share for part in mixture])
    for size in sorted({min(max(wanted, _FEWEST_PER_ROUND), _MOST_PER_ROUND), _MOST_PER_ROUND}):
        ends = np.rint(np.cumsum(shares) / shares.sum() * size).astype(int)
        which = np.searchsorted(ends, np.arange(size), side="right")
        if len(np.unique(which)) == len(mixture):
            return which
    raise ValueError(
        f"the shares {shares.tolist()} leave a behavior without an episode in a round of "
        f"{_MOST_PER_ROUND}; use larger ones, or leave it out"
    )


def _play(
    env: TextEnvironment, env_params: Any, mixture: Sequence[Part], seed: int, which: np.ndarray
) -> Iterator[_Episode]:
    """Plays episodes without end, a round at a time, whose parts of the mixture are `which`."""
    play = jax.jit(functools.partial(_play_batch, env, env_params, mixture))
    priors = [part.behavior.filler and part.behavior.filler.load() for part in mixture]
    for number in range(2**31):
        key = jax.random.fold_in(jax.random.key(seed), number)
        shuffled = np.random.default_rng((seed, number)).permutation(which)
        while True:
            steps, running, missing = jax.device_get(play(key, shuffled, priors))
            is_complete = True
            for index, part in enumerate(mixture):
                new = missing.is_missing & (shuffled == index)
                filler, table = part.behavior.filler, priors[index]
                if filler is not None and table is not None and new.any():
                    is_complete = False
                    priors[index] = filler.extend(table, missing.observation[new])
            if is_complete:
                break
        for episode in range(len(which)):
            length = int(running[:, episode].sum())
            yield jax.tree.map(lambda leaf, n=length, e=episode: leaf[:n, e], steps)


def _play_batch(
    env: TextEnvironment,
    env_params: Any,
    mixture: Sequence[Part],
    key: jax.Array,
    which: jax.Array,
    priors: Sequence[PriorTable | None],
) -> tuple[_Steps, jax.Array, Missing]:
    """One episode in each of E environments, `which` i32[E] being their parts of the mixture.

    Returns:
      Steps [T, E]; bool[T, E], whether the episode was still running; and states without a prior,
      with which the steps count for nothing.
    """

    def play(key: jax.Array, which: jax.Array) -> tuple[_Steps, jax.Array, Missing]:
        def decide(
            key: jax.Array, state: Any, observation: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            """The action of the environment's part, and whether its prior is missing."""
            mask = env.action_mask(state, env_params)
            act_key, random_key, epsilon_key = jax.random.split(key, 3)
            actions, missing = [], []
            for part, table in zip(mixture, priors, strict=True):
                row = jnp.int32(0) if table is None else tables.find(table, observation)
                prior = None if table is None else tables.lookup(table, jnp.maximum(row, 0))
                actions.append(part.behavior.act(act_key, state, mask, prior))
                missing.append(row < 0)
            epsilon = jnp.array([part.epsilon for part in mixture])[which]
            is_random = jax.random.uniform(epsilon_key) < epsilon
            action = jnp.where(is_random, _random(random_key, mask), jnp.stack(actions)[which])
            return action, jnp.stack(missing)[which]

        def step(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], Any]:
            observation, state, running, missing = carry
            act_key, step_key = jax.random.split(key)
            action, is_missing = decide(act_key, state, observation)
            is_missing &= running & ~missing.is_missing
            missing = Missing(
                jnp.where(is_missing, observation, missing.observation),
                missing.is_missing | is_missing,
            )
            next_observation, state, reward, terminated, truncated, info = env.step(
                step_key, state, action, env_params
            )
            steps = _Steps(
                observation=observation,
                action=action,
                reward=reward,
                next_observation=info["final_observation"],
                terminated=terminated,
                truncated=truncated,
                success=info["success"],
            )
            going_on = running & ~(terminated | truncated)
            return (next_observation, state, going_on, missing), (steps, running)

        reset_key, play_key = jax.random.split(key)
        observation, state = env.reset(reset_key, env_params)
        carry = (observation, state, jnp.bool_(True), Missing(observation, jnp.bool_(False)))
        keys = jax.random.split(play_key, env_params.max_steps_in_episode)
        (_, _, _, missing), (steps, running) = jax.lax.scan(step, carry, keys)
        return steps, running, missing

    steps, running, missing = jax.vmap(play)(jax.random.split(key, len(which)), which)
    by_time = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (steps, running))
    return *by_time, missing


def _random(key: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


def _select(episodes: Iterator[_Episode], success_share: float | None) -> Iterator[_Episode]:
    """Episodes as they come, or so many of either kind that any beginning has the share."""
    if success_share is None:
        yield from episodes
        return
    waiting: dict[bool, deque[_Episode]] = {True: deque(), False: deque()}
    successes, count = 0, 0
    while True:
        wanted = successes < success_share * (count + 1) - 1e-9
        tried = 0
        while not waiting[wanted]:
            episode = next(episodes)
            waiting[bool(episode.success.any())].append(episode)
            tried += 1
            if tried > _PATIENCE:
                kind = "succeeded" if wanted else "failed"
                raise ValueError(
                    f"none of {tried:,} episodes {kind}, and success_share {success_share} needs "
                    "some that do; use another mixture of behaviors"
                )
        successes, count = successes + wanted, count + 1
        yield waiting[wanted].popleft()


def _to_dataset(env: TextEnvironment, episodes: Sequence[_Episode]) -> Dataset:
    """Puts the states into words, each once."""
    steps = jax.tree.map(lambda *leaves: np.concatenate(leaves), *episodes)
    observations = np.concatenate([steps.observation, steps.next_observation])
    flat = observations.reshape(len(observations), -1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    texts: list[TextState] = [env.text_state(observations[index]) for index in first]
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    rows = np.array([row_of[text] for text in texts])[which.reshape(-1)]
    numbers = np.repeat(np.arange(len(episodes)), [len(episode.action) for episode in episodes])
    return datasets.from_columns(
        tuple(row_of),
        row=rows[: len(steps.action)],
        action=steps.action,
        reward=steps.reward,
        terminated=steps.terminated,
        # An episode that ends for good with its last step is not cut short by the time limit.
        truncated=steps.truncated & ~steps.terminated,
        next_row=rows[len(steps.action) :],
        episode=numbers,
    )


def parse_mixture(text: str) -> list[tuple[str, float, float]]:
    """Reads NAME[@EPSILON][:SHARE],... as (name, epsilon, share); the share is 1 by default.

    Raises:
      ValueError: something is not a number.
    """
    parts = []
    for part in text.split(","):
        rest, _, share = part.partition(":")
        name, _, epsilon = rest.partition("@")
        try:
            parts.append((name, float(epsilon or 0), float(share or 1)))
        except ValueError:
            raise ValueError(
                f"{part!r} is no part of a mixture; write NAME:SHARE or NAME@EPSILON:SHARE, such "
                "as expert@0.1:0.75"
            ) from None
    return parts
