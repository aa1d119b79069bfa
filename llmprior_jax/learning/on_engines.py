"""Learning online on engines that run on the host: ALFWorld's own, TextWorld, Gymnasium in text.

What learns is the same as in environments in JAX: the agent, the replay of rows, the table of
priors, all jitted and mapped over seeds. What differs is who plays: processes, so that the loop
over steps runs on the host. All environments of all seeds are one batch: they act together, step
together, and their new states are scored together, each text once.

A segment is made of whole episodes. Each environment begins new ones until it has taken its share
of steps, and plays the last to its end. So nothing is in flight when a checkpoint is written, and a
run that goes on from one ends as if it had never stopped, although engines cannot be saved. A
segment takes some steps more than its share, therefore, and counts them. If an engine's process is
lost, its episode ends there and its last step is left out, since nobody knows where it led.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.envs.engines.bridge import HostStep
from llmprior_jax.learning.loop import LoopConfig
from llmprior_jax.learning.replay import Record, lookup_rows, make_replay
from llmprior_jax.learning.run import Decision, fold_in, over_seeds, seed_keys, step_unit
from llmprior_jax.play.candidates import Candidates, Tried
from llmprior_jax.play.engine_games import HostGames
from llmprior_jax.play.episodes import means
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.training.config import Config
from llmprior_jax.types import TextState


class HostState(NamedTuple):
    """All that training needs to continue, for one seed (with a leading axis for more)."""

    key: jax.Array
    agent: AgentState
    replay: Any


class HostLoop(NamedTuple):
    """What is jitted of training one seed in N environments, as pure functions.

    Attributes:
      init: `(key, table) -> HostState`.
      act: `(agent_state, table, key, episode i32[N], time i32[N], row i32[N]) -> i32[N]`, one
        action each; the randomness of a step follows from key, episode and time.
      learn: `(state, table, record [N], iteration) -> (state, metrics)`, adds transitions to replay
        and updates the agent from it.
    """

    init: Callable[[jax.Array, PriorTable], HostState]
    act: Callable[..., jax.Array]
    learn: Callable[[HostState, PriorTable, Record, jax.Array], tuple[HostState, Metrics]]


def make_host_loop(agent: Agent, config: LoopConfig) -> HostLoop:
    """Builds what is jitted of training one agent; see `HostLoop`."""
    replay = make_replay(agent, config.replay_capacity, config.batch_size, config.updates_per_step)

    def init(key: jax.Array, table: PriorTable) -> HostState:
        key, agent_key = jax.random.split(key)
        prior = tables.lookup(table, jnp.zeros((), jnp.int32))
        return HostState(key, agent.init(agent_key, prior), replay.init())

    def act(
        agent_state: AgentState,
        table: PriorTable,
        key: jax.Array,
        episode: jax.Array,
        time: jax.Array,
        row: jax.Array,
    ) -> jax.Array:
        of_episode = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, episode)
        keys = jax.vmap(jax.random.fold_in)(of_episode, time)
        return jax.vmap(agent.act, in_axes=(None, 0, 0))(agent_state, keys, lookup_rows(table, row))

    def learn(
        state: HostState, table: PriorTable, record: Record, iteration: jax.Array
    ) -> tuple[HostState, Metrics]:
        key, learn_key = jax.random.split(state.key)
        replay_state = replay.add(state.replay, record)
        no_metrics = jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype),
            jax.eval_shape(replay.learn, state.agent, replay_state, key, table)[1],
        )
        agent_state, metrics = jax.lax.cond(
            iteration >= config.warmup_steps,
            lambda: replay.learn(state.agent, replay_state, learn_key, table),
            lambda: (state.agent, no_metrics),
        )
        return HostState(key, agent_state, replay_state), metrics

    return HostLoop(init, act, learn)


class HostRun:
    """A `Run` that acts in games on the host: all seeds, and the table that they share."""

    def __init__(
        self,
        agent: Agent,
        config: Config,
        games: HostGames,
        filler: TableFiller,
        candidates: Candidates,
    ):
        """Loads the table, and starts the first games if there is none yet.

        Args:
          agent: the agent to train.
          config: see `default_config`.
          games: `config.num_seeds * config.loop.num_envs` environments.
          filler: scores the states of `games`.
          candidates: where the actions of a state come from; none of another run's.
        """
        self.agent = agent
        self.games = games
        self._candidates = candidates
        self._filler = filler
        self._num_steps = config.num_steps
        self._shape = config.num_seeds, config.loop.num_envs
        self._iterations = config.eval_every // config.loop.num_envs
        self._num_episodes = config.eval_episodes
        self._entropy = config.seed
        loop = make_host_loop(agent, LoopConfig(**config.loop))
        self._act = over_seeds(loop.act, (0, None, 0, 0, 0, 0), config.num_seeds, mesh=config.mesh)
        self._learn = over_seeds(loop.learn, (0, None, 0, None), config.num_seeds, mesh=config.mesh)
        # Learning, acting, evaluations, and evaluations afterwards draw from streams of their own.
        streams = jax.vmap(functools.partial(jax.random.split, num=4))(seed_keys(config))
        init_keys, self._act_keys, self._eval_keys, self._fresh_keys = streams.T
        self._committed = np.zeros(config.num_seeds, int)
        self._iteration = 0
        self.segments = 0
        self.unit = step_unit(config)
        self._met = 0
        self._keep(filler.load())
        self.state: HostState = over_seeds(
            loop.init, (0, None), config.num_seeds, mesh=config.mesh
        )(init_keys, self.table)

    @property
    def steps(self) -> int:
        """Environment steps that every seed has learned from."""
        return int(self._committed.min())

    @property
    def num_steps(self) -> int:
        """Environment steps after which training is finished; 0 for agents that do not learn."""
        return 0 if self.agent.update is None else self._num_steps

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S].

        Beside the agent's there are `restarts`, the episodes that ended because an engine's process
        was lost, and, of all seeds together, `lm_asked` and `lm_saved`, the states that the
        language model was asked about and those met again.
        """
        num_envs = self._shape[1]
        begun: collections.Counter[tuple[int, int]] = collections.Counter()

        def schedule(seed: int, env: int, taken: int) -> "_Episode | None":
            if taken >= self._iterations:
                return None
            number = begun[seed, env]
            begun[seed, env] += 1
            rng = np.random.default_rng([self._entropy, seed, self.segments, env, number])
            game = self.games.games[int(rng.integers(len(self.games.games)))]
            return _Episode(game, int(rng.integers(2**31)), number * num_envs + env)

        asked, met = int(self.table.size), self._met
        restarts = np.zeros(self._shape[0])
        metrics = []
        tried: list[list[tuple[TextState, str, float]]] = [[] for _ in range(np.prod(self._shape))]
        for step in self._play(schedule, self._keys(self._act_keys)):
            known = step.playing & ~step.seen.lost.reshape(self._shape)
            record = Record(
                row=jnp.asarray(step.row),
                action=jnp.asarray(step.action),
                reward=jnp.asarray(step.seen.reward.reshape(self._shape)),
                terminated=jnp.asarray(step.seen.terminated.reshape(self._shape)),
                next_row=jnp.asarray(step.next_row),
                weight=jnp.asarray(known, jnp.float32),
            )
            self.state, values = self._learn(
                self.state, self.table, record, jnp.asarray(self._iteration, jnp.int32)
            )
            metrics.append(values)
            self._notice(step, tried)
            restarts += np.sum(step.playing & ~known, axis=1)
            self._committed += known.sum(axis=1)
            self._iteration += 1
        self.segments += 1
        asked = int(self.table.size) - asked
        metrics = jax.device_get(metrics)
        return {name: _nanmean([values[name] for values in metrics]) for name in metrics[0]} | {
            "restarts": restarts,
            "lm_asked": np.asarray(asked),
            "lm_saved": np.asarray(self._met - met - asked),
        }

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Success rate, return and length of episodes of all seeds [S].

        The episodes go through the games in turn. Those in unseen games are reported by the same
        names with `unseen_` before them.

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        keys = self._keys(self._fresh_keys if fresh else self._eval_keys)
        results = {}
        for number, (prefix, games) in enumerate(
            (("", self.games.games), ("unseen_", self.games.unseen))
        ):
            if games:
                stream = 2 * number + fresh
                results |= means(prefix, *self._evaluate(games, stream, fold_in(keys, number)))
        return results

    def _evaluate(
        self, games: Sequence[str], stream: int, keys: jax.Array
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Success, return and length [S, E] of episodes in some games."""
        shape = self._shape[0], self._num_episodes
        begun = [0] * shape[0]

        def schedule(seed: int, env: int, taken: int) -> "_Episode | None":
            del env, taken
            number = int(begun[seed])
            if number == self._num_episodes:
                return None
            begun[seed] += 1
            rng = np.random.default_rng([self._entropy, seed, self.segments, stream, number, 1])
            return _Episode(games[number % len(games)], int(rng.integers(2**31)), number)

        success, returns, length = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape, int)
        for step in self._play(schedule, keys):
            seed, env = np.nonzero(step.playing)
            place = seed, step.episode[seed, env]
            success[place] |= step.seen.won.reshape(self._shape)[seed, env]
            returns[place] += step.seen.reward.reshape(self._shape)[seed, env]
            length[place] += 1
        return success, returns, length

    def _notice(self, step: "_Step", tried: list[list[tuple[TextState, str, float]]]) -> None:
        """Adds a step to what each environment has tried, and tells the candidates of episodes."""
        action = step.action.ravel()
        for index in np.flatnonzero(step.playing).tolist():
            state = step.states[index]
            tried[index].append(
                (state, state.actions[action[index]], float(step.seen.reward[index]))
            )
            if step.seen.done[index]:
                states, actions, rewards = zip(*tried[index], strict=True)
                gained = np.cumsum(rewards[::-1])[::-1].tolist()
                episode = [Tried(*each) for each in zip(states, actions, gained, strict=True)]
                self._candidates.learn(index // self._shape[1], episode)
                tried[index] = []

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        return {
            "committed": self._committed.tolist(),
            "segments": self.segments,
            "iteration": self._iteration,
            "table_size": int(self.table.size),
            "candidates": self._candidates.to_json(),
        }

    def restore(self, step: int, state: HostState, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint; no episode was in flight when it was written."""
        del step
        self.state = state
        self.segments = meta["segments"]
        self._iteration = meta["iteration"]
        self._committed = np.array(meta["committed"])
        self._candidates.from_json(meta["candidates"])
        self._keep(self._filler.load(meta["table_size"]))

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the agent of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the agent.
        """
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        game = self.games.games[int(rng.integers(len(self.games.games)))]
        episode = _Episode(game, int(rng.integers(2**31)), 0)

        def schedule(of_seed: int, env: int, taken: int) -> "_Episode | None":
            return episode if (of_seed, env, taken) == (seed, 0, 0) else None

        agent_state = jax.tree.map(lambda leaf: leaf[seed], self.state.agent)
        policy = jax.jit(self.agent.policy)
        for step in self._play(schedule, jnp.broadcast_to(key, self._shape[0])):
            index = seed * self._shape[1]
            prior = tables.lookup(self.table, jnp.asarray(step.row[seed, 0]))
            view = policy(agent_state, prior)
            yield Decision(
                text=step.states[index],
                prior=np.exp(prior.log_probs),
                q_values=np.asarray(view.q_values),
                posterior=np.exp(view.log_probs),
                action=int(step.action[seed, 0]),
                reward=float(step.seen.reward[index]),
                success=bool(step.seen.won[index]),
                truncated=bool(step.seen.truncated[index]),
            )

    def _play(
        self, schedule: Callable[[int, int, int], "_Episode | None"], keys: jax.Array
    ) -> Iterator["_Step"]:
        """Plays all environments until there is nothing more to play.

        Args:
          schedule: `(seed, env, steps taken so far) -> the next episode` of an environment.
          keys: [S], randomness of the actions.
        """
        size = self.games.bridge.num_environments
        playing = np.zeros(size, bool)
        episode, time, taken, row = np.zeros((4, size), np.int32)
        states = [TextState("", "")] * size

        def begin(indices: Sequence[int]) -> list[int]:
            """Starts the next episodes of environments; returns those that have one."""
            names: list[str | None] = [None] * size
            seeds = [0] * size
            for index in indices:
                begun = schedule(*divmod(index, self._shape[1]), int(taken[index]))
                if begun is not None:
                    names[index], seeds[index], episode[index] = begun
                    time[index] = 0
            self.games.reset(names, seeds)
            return [index for index in indices if names[index] is not None]

        def enter(indices: Sequence[int], offered: Sequence[TextState], rows: np.ndarray) -> None:
            for index, state in zip(indices, offered, strict=True):
                states[index] = state
            row[indices] = rows
            playing[indices] = True

        started = begin(range(size))
        enter(started, *self._look_up(started, [self.games.states[index] for index in started]))
        while playing.any():
            action = np.asarray(
                self._act(
                    self.state.agent,
                    self.table,
                    keys,
                    *(array.reshape(self._shape) for array in (episode, time, row)),
                )
            ).ravel()
            seen = self.games.step(
                [
                    states[index].actions[action[index]] if playing[index] else None
                    for index in range(size)
                ]
            )
            # What follows an end or a lost process is worth nothing, or not known.
            goes_on = np.flatnonzero(playing & ~seen.terminated & ~seen.lost).tolist()
            reached = [self.games.states[index] for index in goes_on]
            before = _Step(
                *(array.reshape(self._shape).copy() for array in (playing, episode, row, action)),
                next_row=np.zeros(self._shape, np.int32),
                seen=seen,
                states=tuple(states),
            )
            time += playing
            taken += playing
            ended = np.flatnonzero(playing & seen.done).tolist()
            playing[ended] = False
            started = begin(ended)
            offered, rows = self._look_up(
                goes_on + started, reached + [self.games.states[index] for index in started]
            )
            before.next_row.reshape(-1)[goes_on] = rows[: len(reached)]
            stays = [place for place, index in enumerate(goes_on) if playing[index]]
            enter(
                [goes_on[place] for place in stays],
                [offered[place] for place in stays],
                rows[stays],
            )
            enter(started, offered[len(reached) :], rows[len(reached) :])
            yield before

    def _look_up(
        self, indices: Sequence[int], states: Sequence[TextState]
    ) -> tuple[list[TextState], np.ndarray]:
        """States of environments with their actions, and their rows.

        Those that the table lacks are scored in one batch.
        """
        seeds = [index // self._shape[1] for index in indices]
        offered = self.games.offer(self._candidates, seeds, states)
        observations = [self.games.observe(state) for state in offered]
        missing = [key for key in observations if key.tobytes() not in self._row_of]
        if missing:
            self._keep(self._filler.extend(self.table, np.stack(missing)))
        self._met += len(states)
        rows = [self._row_of[key.tobytes()] for key in observations]
        return offered, np.array(rows, np.int32)

    def _keep(self, table: PriorTable) -> None:
        self.table = table
        keys = np.asarray(table.observations)[: int(table.size)]
        self._row_of = {key.tobytes(): row for row, key in enumerate(keys)}

    def _keys(self, keys: jax.Array) -> jax.Array:
        """The keys [S] of the present segment."""
        return fold_in(keys, self.segments)


class _Episode(NamedTuple):
    """An episode to play: the game, the seed of its chance, and its number among the seed's."""

    game: str
    chance: int
    number: int


class _Step(NamedTuple):
    """One step of N environments of S seeds, where they are `playing` bool[S, N].

    Attributes:
      playing: bool[S, N].
      episode: i32[S, N], the number of the episode.
      row: i32[S, N], the state acted in.
      action: i32[S, N], what was done.
      next_row: i32[S, N], the state reached, 0 where the episode ended for good.
      seen: what came of it, of all S * N environments.
      states: the S * N states acted in.
    """

    playing: np.ndarray
    episode: np.ndarray
    row: np.ndarray
    action: np.ndarray
    next_row: np.ndarray
    seen: HostStep
    states: tuple[TextState, ...]


def _nanmean(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    array = np.array(values)
    there = np.isfinite(array)
    return np.where(there, array, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan)
