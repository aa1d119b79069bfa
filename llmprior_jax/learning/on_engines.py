"""Learning online on engines that run on the host: ALFWorld's own, TextWorld, Gymnasium in text.

What learns is the same as in environments in JAX: the agent, the replay of rows, the table of
priors, all jitted and mapped over seeds. What differs is who plays: processes, so that the loop
over steps runs on the host (`play.engine_player`).

A segment is made of whole episodes. Each environment begins new ones until it has taken its share
of steps, and plays the last to its end. So nothing is in flight when a checkpoint is written, and a
run that goes on from one ends as if it had never stopped, although engines cannot be saved. A
segment may overshoot its budget by part of an episode, and counts those steps.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.distributed.seeds import SEEDS, fold_in
from llmprior_jax.learning.replay import Record, make_replay
from llmprior_jax.learning.run import Run
from llmprior_jax.learning.ways import Ways, act_in_ways, begin_ways, go_on
from llmprior_jax.play.actors import ValueActor
from llmprior_jax.play.candidates import Tried
from llmprior_jax.play.engine_player import EngineEpisode, EnginePlayer, EngineStep
from llmprior_jax.play.players import OverSeeds
from llmprior_jax.play.stepping import lookup_rows
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import LoopSettings, RunSettings
from llmprior_jax.types import ActionPrior, TextState


class EngineState(NamedTuple):
    """All that training needs to continue, for one seed (with a leading axis for more)."""

    key: jax.Array
    agent: AgentState
    replay: Any
    ways: Ways | None = None


class EngineLoop(NamedTuple):
    """What is jitted of training one seed in N environments, as pure functions.

    Attributes:
      init: `(key, table) -> EngineState`.
      act: `(state, keys [N], prior of N states) -> i32[N]`.
      learn: `(state, table, record [N], taken bool[N], done bool[N]) -> (state, metrics)`, adds the
        transitions that were taken to replay, and updates the agent from it and from the episodes
        that ended.
    """

    init: Callable[[jax.Array, PriorTable], EngineState]
    act: Callable[[EngineState, jax.Array, ActionPrior], jax.Array]
    learn: Callable[
        [EngineState, PriorTable, Record, jax.Array, jax.Array], tuple[EngineState, Metrics]
    ]


def make_engine_loop(agent: Agent, settings: LoopSettings) -> EngineLoop:
    """Builds what is jitted of training one agent; see `EngineLoop`. It works within `over_seeds`.

    Raises:
      ValueError: the agent keeps candidates, which nobody draws here.
    """
    if agent.candidates is not None:
        raise ValueError(
            "the agent keeps candidates (keep_candidates), which is for environments in JAX; on "
            "engines they are drawn whenever they are needed"
        )
    replay, explore = make_replay(agent, settings, SEEDS), agent.explore

    def init(key: jax.Array, table: PriorTable) -> EngineState:
        key, agent_key = jax.random.split(key)
        agent_state = agent.init(agent_key, tables.lookup(table, jnp.zeros((), jnp.int32)))
        ways = None
        if explore is not None:
            key, way_key = jax.random.split(key)
            ways = begin_ways(explore, agent_state, way_key, settings.num_envs)
        return EngineState(key, agent_state, replay.init(), ways)

    def act(state: EngineState, keys: jax.Array, prior: ActionPrior) -> jax.Array:
        return act_in_ways(agent, state.agent, state.ways, keys, prior)

    def learn(
        state: EngineState,
        table: PriorTable,
        record: Record,
        taken: jax.Array,
        done: jax.Array,
    ) -> tuple[EngineState, Metrics]:
        key, learn_key = jax.random.split(state.key)
        replay_state = replay.add(state.replay, record, taken)
        agent_state, ways = state.agent, state.ways
        if explore is not None and ways is not None:
            key, way_key = jax.random.split(key)
            agent_state, ways = go_on(
                explore, agent_state, way_key, ways, record.reward, taken, done
            )
        agent_state, metrics = replay.learn(agent_state, replay_state, learn_key, table)
        return EngineState(key, agent_state, replay_state, ways), metrics

    return EngineLoop(init, act, learn)


class EngineRun(Run):
    """A `Run` that acts in games on engines of the host: all seeds, and the table that they share.

    Args:
      agent: the agent.
      player: plays the games.
      settings: seeds, steps, evaluations.
      loop: sizes.
      over_seeds: maps functions of one seed over all.
    """

    STREAMS = ("train", "act", "evaluate", "fresh")

    def __init__(
        self,
        agent: Agent,
        player: EnginePlayer,
        settings: RunSettings,
        loop: LoopSettings,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings, learns=agent.update is not None)
        self._engines = player
        self._entropy = settings.seed
        jitted = make_engine_loop(agent, loop)
        self._learn = over_seeds(jitted.learn, (0, None, 0, 0, 0))

        def act(
            state: EngineState, shared: Any, table: PriorTable, keys: jax.Array, row: jax.Array
        ) -> tuple[jax.Array, Any]:
            del shared
            return jitted.act(state, keys, lookup_rows(table, row)), ()

        self._act = player.acting(ValueActor(agent), act)
        self.state: EngineState = over_seeds(jitted.init, (0, None))(self.keys["train"], self.table)

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds; returns their metrics [S].

        Beside the agent's there are `restarts`, the episodes that ended because an engine's process
        was lost, and, of all seeds together, `lm_asked` and `lm_saved`, the states that the
        language model was asked about and those met again.
        """
        player = self._engines
        num_seeds, num_envs = player.shape
        iterations = -(-self.due // num_envs)
        begun: collections.Counter[tuple[int, int]] = collections.Counter()

        def schedule(seed: int, env: int, taken: int) -> EngineEpisode | None:
            if taken >= iterations:
                return None
            number = begun[seed, env]
            begun[seed, env] += 1
            entropy = self._entropy, seed, self.segments, env, number
            return player.draw(entropy, number * num_envs + env)

        before = player.asked()
        restarts = np.zeros(num_seeds)
        metrics: list[Metrics] = []
        tried: list[list[tuple[TextState, str, float]]] = [[] for _ in range(num_seeds * num_envs)]
        keys = fold_in(self.keys["act"], self.segments)
        for step in player.steps(lambda: self.state, schedule, keys, self._act):
            known = step.playing & ~step.seen.lost.reshape(player.shape)
            record = Record(
                row=jnp.asarray(step.row),
                action=jnp.asarray(step.action),
                reward=jnp.asarray(step.seen.reward.reshape(player.shape)),
                terminated=jnp.asarray(step.seen.terminated.reshape(player.shape)),
                next_row=jnp.asarray(step.next_row),
            )
            done = step.playing & (step.seen.done | step.seen.lost).reshape(player.shape)
            self.state, values = self._learn(
                self.state,
                self.table,
                record,
                jnp.asarray(known),
                jnp.asarray(done),
            )
            metrics.append(values)
            self._notice(step, tried)
            restarts += np.sum(step.playing & ~known, axis=1)
            self.count(known.sum(axis=1))
            self.iteration += 1
        self.segments += 1
        of_steps = jax.device_get(metrics)
        return {name: _nanmean([values[name] for values in of_steps]) for name in of_steps[0]} | {
            "restarts": restarts,
            **{name: now - before[name] for name, now in player.asked().items()},
        }

    def own(self) -> Any:
        """What was learned of candidates."""
        return self._engines.candidates.to_json()

    def restore_own(self, own: Any) -> None:
        """Goes back to what `own` gave; no episode was in flight."""
        self._engines.candidates.from_json(own)

    def _notice(self, step: EngineStep, tried: list[list[tuple[TextState, str, float]]]) -> None:
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
                self._engines.candidates.learn(index // self._engines.shape[1], episode)
                tried[index] = []


def _nanmean(values: Sequence[Any]) -> np.ndarray:
    """Mean over the first axis of what is there; NaN where nothing is."""
    array = np.array(values)
    there = ~np.isnan(array)
    return np.where(there, array, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan)
