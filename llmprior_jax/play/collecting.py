"""Collecting datasets: whole episodes of a stated mixture of behaviors, in batches under jit."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import datasets, ranges
from llmprior_jax.datasets import Dataset
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.expert import encode, plan
from llmprior_jax.play.rollouts import Actor, Progress, Standing, complete, make_roller
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.play.stepping import Choice, EnvsState, Missing, find_in, lookup_rows
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
        admissible actions, `prior` of what is observed, or None where nothing is scored.
      scored: gives the priors, its table loaded; None for behaviors that need none.
    """

    act: Callable[[jax.Array, Any, jax.Array, ActionPrior | None], jax.Array]
    scored: ScoredStates | None = None


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
    table = plan(env, env_params)

    def act(key: jax.Array, state: Any, mask: jax.Array, prior: ActionPrior | None) -> jax.Array:
        del mask, prior
        row = tables.find(table, encode(state))
        return jax.random.categorical(key, tables.lookup(table, row).log_probs)

    return Behavior(act)


def agent_behavior(
    act: Callable[[jax.Array, ActionPrior], jax.Array], scored: ScoredStates
) -> Behavior:
    """Acts as an agent does.

    Args:
      act: `(key, prior) -> i32[]`, such as `Player.by_prior` gives.
      scored: gives the priors that it acts by, its table loaded.
    """

    def act_by_prior(
        key: jax.Array, state: Any, mask: jax.Array, prior: ActionPrior | None
    ) -> jax.Array:
        del state, mask
        assert prior is not None
        return act(key, prior)

    return Behavior(act_by_prior, scored)


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
        if number is not None and number not in ranges.COUNT:
            raise ValueError(f"{number} {name} were asked for; use {ranges.COUNT}")
    if success_share is not None:
        ranges.SHARE.check("success_share", success_share)
    ranges.SEED.check("seed", seed)
    _check_mixture(mixture)

    kept: list[Episode] = []
    size = 0
    wanted = num_episodes if num_episodes is not None else (num_transitions or 0) // _SHORT_EPISODE
    which = _parts_of_a_round(mixture, wanted)
    for episode in _select(_play(env, env_params, mixture, seed, which), success_share):
        kept.append(episode)
        size += len(episode.action)
        if len(kept) == num_episodes or (num_transitions is not None and size >= num_transitions):
            break
    return to_dataset(env, kept)


class Episode(NamedTuple):
    """The T steps of an episode; see `stepping.Step`."""

    observation: Any
    action: Any
    reward: Any
    reached: Any
    terminated: Any
    truncated: Any
    success: Any


def _check_mixture(mixture: Sequence[Part]) -> None:
    for part in mixture:
        ranges.POSITIVE.check("the share of a behavior", part.share)
        ranges.SHARE.check("epsilon", part.epsilon)
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
) -> Iterator[Episode]:
    """Plays episodes without end, a round at a time, whose parts of the mixture are `which`."""
    num_steps = env_params.max_steps_in_episode
    roller = make_roller(
        env,
        env_params,
        _actor(env, env_params, mixture),
        num_steps,
        lambda step, about: Episode(*(getattr(step, name) for name in Episode._fields)),
        one_episode=True,
        find=lambda known: known.find,
    )

    @jax.jit
    def begin(key: jax.Array, known: _Known) -> Progress:
        keys = jax.vmap(jax.random.split)(jax.random.split(key, len(which)))
        observation, state = jax.vmap(env.reset, in_axes=(0, None))(keys[:, 0], env_params)
        no_action = jnp.full(len(which), -1, jnp.int32)
        envs = EnvsState(state, observation, keys[:, 1], no_action)
        draws = jax.vmap(lambda key: jax.random.split(key, num_steps))(envs.key)
        return roller.start((), (), envs, draws.T, known)

    advance = jax.jit(roller.advance)
    for number in range(2**31):
        key = jax.random.fold_in(jax.random.key(seed), number)
        shuffled = np.random.default_rng((seed, number)).permutation(which)

        def known(shuffled: np.ndarray = shuffled) -> _Known:
            scored = [part.behavior.scored for part in mixture]
            return _Known(shuffled, [None if each is None else each.table for each in scored])

        def fill(missing: Missing, shuffled: np.ndarray = shuffled) -> bool:
            """Scores what is missing, in the table of the part that needs it."""
            needed = False
            for index, part in enumerate(mixture):
                if part.behavior.scored is not None:
                    here = missing.is_missing & (shuffled == index)
                    needed |= part.behavior.scored.fill(missing._replace(is_missing=here))
            return needed

        progress = complete(
            begin(key, known()),
            lambda progress, known=known: advance(progress, (), (), known()),
            fill,
        )
        steps, lengths = jax.device_get((progress.steps, progress.time))
        for episode, length in enumerate(lengths.tolist()):
            yield jax.tree.map(lambda leaf, n=length, e=episode: leaf[:n, e], steps)


class _Known(NamedTuple):
    """The tables of a mixture's parts (None where nothing is scored), for E environments.

    Attributes:
      which: i32[E], the part that each environment is of.
      tables: of each part.
    """

    which: Any
    tables: Sequence[PriorTable | None]

    def find(self, observations: jax.Array) -> jax.Array:
        """The rows i32[E] of states in their parts' tables; 0 where none is needed."""
        none_needed = jnp.zeros(len(observations), jnp.int32)
        rows = [
            none_needed if table is None else find_in(table)(observations) for table in self.tables
        ]
        return jnp.stack(rows)[self.which, jnp.arange(len(observations))]


def _actor(env: TextEnvironment, env_params: Any, mixture: Sequence[Part]) -> Actor:
    """Acts in each environment as its part of the mixture does."""

    def choose(
        agent_state: Any, shared: Any, draws: jax.Array, standing: Standing, known: _Known
    ) -> tuple[Choice, Any, jax.Array]:
        del agent_state, shared
        num_steps, num_envs = draws.shape
        now = draws[jnp.minimum(standing.time, num_steps - 1), jnp.arange(num_envs)]
        keys = jax.vmap(jax.random.split)(now)
        act_key, random_key, epsilon_key = jax.vmap(lambda key: jax.random.split(key, 3))(
            keys[:, 0]
        ).T
        states = standing.envs.state
        mask = jax.vmap(env.action_mask, in_axes=(0, None))(states, env_params)
        actions = []
        for index, (part, table) in enumerate(zip(mixture, known.tables, strict=True)):
            row = jnp.where(known.which == index, standing.row, 0)
            prior = None if table is None else lookup_rows(table, row)
            actions.append(jax.vmap(part.behavior.act)(act_key, states, mask, prior))
        epsilon = jnp.array([part.epsilon for part in mixture])[known.which]
        is_random = jax.vmap(jax.random.uniform)(epsilon_key) < epsilon
        own = jnp.stack(actions)[known.which, jnp.arange(num_envs)]
        action = jnp.where(is_random, jax.vmap(_random)(random_key, mask), own)
        return Choice(action, keys[:, 1], standing.envs.key), (), draws

    return Actor(start=lambda draws, known: draws, choose=choose)


def _random(key: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


def _select(episodes: Iterator[Episode], success_share: float | None) -> Iterator[Episode]:
    """Episodes as they come, or so many of either kind that any beginning has the share."""
    if success_share is None:
        yield from episodes
        return
    waiting: dict[bool, deque[Episode]] = {True: deque(), False: deque()}
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


def to_dataset(env: TextEnvironment, episodes: Sequence[Episode]) -> Dataset:
    """Puts the states into words, each once."""
    steps = jax.tree.map(lambda *leaves: np.concatenate(leaves), *episodes)
    observations = np.concatenate([steps.observation, steps.reached])
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
        truncated=steps.truncated,
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
