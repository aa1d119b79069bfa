"""Playing games on engines of the host: all environments of all seeds are one batch.

They act together, step together, and their new states are scored together, each text once. If an
engine's process is lost, its episode ends there and its last step is left out, since nobody knows
where it led.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import AgentState, Policy
from llmprior_jax.distributed.seeds import fold_in
from llmprior_jax.envs.engines import HostStep
from llmprior_jax.play.actors import AgentActor, PolicyActor
from llmprior_jax.play.candidates import Candidates
from llmprior_jax.play.engine_games import EngineGames
from llmprior_jax.play.evaluation import Decision, Episodes
from llmprior_jax.play.players import OverSeeds, of_seed, policies, prior_acted_by
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior, TextState


class EngineEpisode(NamedTuple):
    """An episode to play.

    Attributes:
      game: its name.
      engine_seed: RNG seed of the engine.
      number: the episode's among those of its seed.
    """

    game: str
    engine_seed: int
    number: int


Schedule = Callable[[int, int, int], EngineEpisode | None]
"""`(seed, env, steps taken so far) -> the next episode` of an environment, None for no more."""


Act = Callable[..., tuple[jax.Array, Any]]
"""`(states of S agents, key[S], episode, time and row i32[S, N]) -> (i32[S, N], about [S, N])`."""


class EngineStep(NamedTuple):
    """One step of N environments of S seeds, where they are `playing` bool[S, N].

    Attributes:
      playing: bool[S, N].
      episode: i32[S, N], the number of the episode.
      row: i32[S, N], the state acted in.
      action: i32[S, N], what was done.
      about: [S, N], what the actor tells of it.
      next_row: i32[S, N], the state reached, 0 where the episode ended for good.
      seen: what came of it, of all S * N environments.
      states: the S * N states acted in.
    """

    playing: np.ndarray
    episode: np.ndarray
    row: np.ndarray
    action: np.ndarray
    about: Any
    next_row: np.ndarray
    seen: HostStep
    states: tuple[TextState, ...]


class EnginePlayer:
    """A `Player` in games on engines of the host.

    Args:
      actors: how the agent acts in evaluations, by what stands before the names of their metrics;
        as the first does, it acts in episodes that are shown.
      games: S * N environments.
      candidates: where the actions of a state come from; none of another run's.
      scored: scores the states of `games`; its table is loaded.
      num_seeds: S.
      num_episodes: episodes of an evaluation, per seed.
      over_seeds: maps functions of one seed over all.

    Attributes:
      shape: (S, N).
      met: states that environments were in so far, the same ones counted again.
    """

    def __init__(
        self,
        actors: Mapping[str, AgentActor],
        games: EngineGames,
        candidates: Candidates,
        scored: ScoredStates,
        num_seeds: int,
        num_episodes: int,
        over_seeds: OverSeeds,
    ):
        self.env, self.env_params = games, None
        self.candidates = candidates
        self.scored = scored
        self.shape = num_seeds, games.bridge.num_environments // num_seeds
        self.met = 0
        self._num_episodes = num_episodes
        self._over_seeds = over_seeds
        self._actor = next(iter(actors.values()))
        self._policy = jax.jit(self._actor.policy)
        self._acts = {prefix: self.acting(actor) for prefix, actor in actors.items()}

    def acting(
        self, actor: AgentActor, act: Callable[..., tuple[jax.Array, Any]] | None = None
    ) -> Act:
        """Makes what `steps` acts by.

        Args:
          actor: the actor.
          act: what it does, where that is not `AgentActor.act`, of which it has the arguments.
        """
        chosen = act or actor.act

        def act_in(
            state: Any,
            shared: Any,
            table: tables.PriorTable,
            key: jax.Array,
            episode: jax.Array,
            time: jax.Array,
            row: jax.Array,
        ) -> tuple[jax.Array, Any]:
            # The randomness of a step follows from key, episode and time.
            of_episode = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, episode)
            keys = jax.vmap(jax.random.fold_in)(of_episode, time)
            return chosen(state, shared, table, keys, row)

        mapped = self._over_seeds(act_in, (0, None, None, 0, 0, 0, 0), one_by_one=actor.one_by_one)

        def act_now(states: Any, *places: Any) -> tuple[jax.Array, Any]:
            table = self.scored.table
            return mapped(states, actor.shared(table), table, *places)

        return act_now

    def draw(self, entropy: Sequence[int], number: int) -> EngineEpisode:
        """An episode in one of the games to train on, which follows from `entropy`."""
        rng = np.random.default_rng(entropy)
        game = self.env.games[int(rng.integers(len(self.env.games)))]
        return EngineEpisode(game, int(rng.integers(2**31)), number)

    def asked(self) -> dict[str, np.ndarray]:
        """How many states the language model was asked about so far, and how many met again."""
        size = int(self.scored.table.size)
        return {"lm_asked": np.asarray(size), "lm_saved": np.asarray(self.met - size)}

    def evaluate(self, agents: AgentState, keys: jax.Array) -> dict[str, Episodes]:
        """See `Player`; the episodes go through the games in turn."""
        tasks = {"": self.env.games} | ({"unseen_": self.env.unseen} if self.env.unseen else {})
        return {
            f"{prefix}{name}": self._evaluate(agents, games, fold_in(keys, number), act)
            for prefix, act in self._acts.items()
            for number, (name, games) in enumerate(tasks.items())
        }

    def play(self, agents: AgentState, seed: int, key: jax.Array) -> Iterator[Decision]:
        """See `Player`."""
        episode = self.draw(np.asarray(jax.random.key_data(key)).tolist(), 0)

        def schedule(of_seed: int, env: int, taken: int) -> EngineEpisode | None:
            return episode if (of_seed, env, taken) == (seed, 0, 0) else None

        state = of_seed(agents, seed)
        index = seed * self.shape[1]
        for step in self.steps(lambda: agents, schedule, jnp.broadcast_to(key, self.shape[0])):
            table = self.scored.table
            row = jnp.asarray(step.row[seed, 0])
            policy = self._policy(state, self._actor.shared(table), table, row)
            yield Decision(
                text=step.states[index],
                prior=np.exp(prior_acted_by(policy, table, row)),
                q_values=np.asarray(policy.q_values),
                posterior=np.exp(policy.log_probs),
                action=int(step.action[seed, 0]),
                reward=float(step.seen.reward[index]),
                success=bool(step.seen.won[index]),
                truncated=bool(step.seen.truncated[index]),
                trust=None if policy.trust is None else float(policy.trust),
            )

    def policies(self, agents: AgentState, seed: int) -> tuple[ActionPrior, Policy]:
        """See `Player`.

        Raises:
          ValueError: the policy is a language model, which would have to read all states again.
        """
        if isinstance(self._actor, PolicyActor):
            raise ValueError(
                "of states of games that were played before, the words are not kept, and a policy "
                "that is a language model must read them; look at an agent that learns Q, such as "
                "dqn_prior"
            )
        return policies(self._actor, self.scored.table, of_seed(agents, seed))

    def by_prior(
        self, agents: AgentState, seed: int
    ) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """See `Player`."""
        raise ValueError(
            "this agent acts in games on engines of the host; here one is needed that acts in an "
            "environment in JAX"
        )

    def steps(
        self,
        agents: Callable[[], Any],
        schedule: Schedule,
        keys: jax.Array,
        act: Act | None = None,
    ) -> Iterator[EngineStep]:
        """Plays all environments until there is nothing more to play.

        Args:
          agents: gives the agents of all seeds, which may learn between two steps.
          schedule: the episodes.
          keys: key[S], randomness of the actions.
          act: how they act, from `acting`; None as they do in the first evaluation.
        """
        act = act or next(iter(self._acts.values()))
        size = self.env.bridge.num_environments
        playing = np.zeros(size, bool)
        episode, time, taken, row = np.zeros((4, size), np.int32)
        states = [TextState("", "")] * size

        def begin(indices: Sequence[int]) -> list[int]:
            """Starts the next episodes of environments; returns those that have one."""
            names: list[str | None] = [None] * size
            seeds = [0] * size
            for index in indices:
                begun = schedule(*divmod(index, self.shape[1]), int(taken[index]))
                if begun is not None:
                    names[index], seeds[index], episode[index] = begun
                    time[index] = 0
            self.env.reset(names, seeds)
            return [index for index in indices if names[index] is not None]

        def enter(indices: Sequence[int], offered: Sequence[TextState], rows: np.ndarray) -> None:
            for index, state in zip(indices, offered, strict=True):
                states[index] = state
            row[indices] = rows
            playing[indices] = True

        started = begin(range(size))
        enter(started, *self._look_up(started, [self.env.states[index] for index in started]))
        while playing.any():
            taken_now, about = act(
                agents(), keys, *(array.reshape(self.shape) for array in (episode, time, row))
            )
            action = np.asarray(taken_now).ravel()
            seen = self.env.step(
                [
                    states[index].actions[action[index]] if playing[index] else None
                    for index in range(size)
                ]
            )
            # What follows an end or a lost process is worth nothing, or not known.
            goes_on = np.flatnonzero(playing & ~seen.terminated & ~seen.lost).tolist()
            reached = [self.env.states[index] for index in goes_on]
            step = EngineStep(
                *(array.reshape(self.shape).copy() for array in (playing, episode, row, action)),
                about=about,
                next_row=np.zeros(self.shape, np.int32),
                seen=seen,
                states=tuple(states),
            )
            time += playing
            taken += playing
            ended = np.flatnonzero(playing & seen.done).tolist()
            playing[ended] = False
            started = begin(ended)
            offered, rows = self._look_up(
                goes_on + started, reached + [self.env.states[index] for index in started]
            )
            step.next_row.reshape(-1)[goes_on] = rows[: len(reached)]
            stays = [place for place, index in enumerate(goes_on) if playing[index]]
            enter(
                [goes_on[place] for place in stays],
                [offered[place] for place in stays],
                rows[stays],
            )
            enter(started, offered[len(reached) :], rows[len(reached) :])
            yield step

    def _evaluate(
        self, agents: AgentState, games: Sequence[str], keys: jax.Array, act: Act
    ) -> Episodes:
        """Episodes [S, E] in some games."""
        entropy = np.asarray(jax.random.key_data(keys)).tolist()
        shape = self.shape[0], self._num_episodes
        begun = [0] * shape[0]

        def schedule(seed: int, env: int, taken: int) -> EngineEpisode | None:
            del env, taken
            number = begun[seed]
            if number == self._num_episodes:
                return None
            begun[seed] += 1
            rng = np.random.default_rng([*entropy[seed], number])
            return EngineEpisode(games[number % len(games)], int(rng.integers(2**31)), number)

        success, returns, length = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape, int)
        for step in self.steps(lambda: agents, schedule, keys, act):
            seed, env = np.nonzero(step.playing)
            place = seed, step.episode[seed, env]
            success[place] |= step.seen.won.reshape(self.shape)[seed, env]
            returns[place] += step.seen.reward.reshape(self.shape)[seed, env]
            length[place] += 1
        return Episodes(success, returns, length)

    def _look_up(
        self, indices: Sequence[int], states: Sequence[TextState]
    ) -> tuple[list[TextState], np.ndarray]:
        """States of environments with their actions, and their rows.

        Those that the table lacks are scored in one batch.
        """
        seeds = [index // self.shape[1] for index in indices]
        offered = self.env.offer(self.candidates, seeds, states)
        self.met += len(states)
        if not states:
            return offered, np.zeros(0, np.int32)
        observations = np.stack([self.env.observe(state) for state in offered])
        rows = tables.find_rows(self.scored.table, observations)
        if np.any(rows < 0):
            self.scored.extend(observations)
            rows = tables.find_rows(self.scored.table, observations)
            assert np.all(rows >= 0)
        return offered, rows
