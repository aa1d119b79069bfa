"""Learning by policy gradient on engines of the host, where the policy is a language model.

What learns is the same as in environments in JAX (`learning.policy_gradient`); the steps of a
rollout are taken by processes, all seeds together (`play.engine_player`).

Every segment begins with new episodes, since engines cannot be saved in a checkpoint. Those that
are under way where it ends are given up: the value of the state that they are in stands for the
rest, as it does at the end of every rollout.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import AgentState, PolicyAgent, Rollout
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.distributed.seeds import fold_in
from llmprior_jax.learning import policy_gradient
from llmprior_jax.learning.run import Run
from llmprior_jax.play.actors import PolicyActor
from llmprior_jax.play.engine_player import EngineEpisode, EnginePlayer, EngineStep
from llmprior_jax.play.players import OverSeeds
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import RunSettings


class PolicyEngineState(NamedTuple):
    """All that training needs to continue, for one seed (with a leading axis for more)."""

    key: jax.Array
    agent: AgentState


class PolicyEngineRun(Run):
    """A `Run` that trains a language model as the policy, in games on engines of the host.

    Args:
      agent: the agent.
      actor: how it acts while it learns.
      player: plays the games.
      settings: seeds, steps, evaluations.
      rollout_steps: T, steps of each environment between two updates.
      over_seeds: maps functions of one seed over all.
    """

    STREAMS = ("train", "act", "evaluate", "fresh")

    def __init__(
        self,
        agent: PolicyAgent,
        actor: PolicyActor,
        player: EnginePlayer,
        settings: RunSettings,
        rollout_steps: int,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings)
        self._actor, self._player = actor, player
        self._rollout_steps, self._entropy = rollout_steps, settings.seed
        self._act = player.acting(actor)
        self._values = over_seeds(actor.values, (0, None, 0), one_by_one=True)
        self._learn = over_seeds(
            functools.partial(_learn, agent), (0, 0, None, None), one_by_one=True
        )

        def init(key: jax.Array) -> PolicyEngineState:
            key, agent_key = jax.random.split(key)
            return PolicyEngineState(key, agent.init(agent_key))

        self.state: PolicyEngineState = over_seeds(init, (0,))(self.keys["train"])

    def own(self) -> Any:
        """How large the rows are that the policy reads."""
        return self._actor.shapes()

    def restore_own(self, own: Any) -> None:
        """Goes back to what `own` gave; no episode was in flight."""
        self._actor.forget(own)

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds, one or more rollouts and updates; returns their metrics [S].

        Beside the agent's there are `restarts`, `lm_asked` and `lm_saved`, as in `EngineRun`.
        """
        player, (num_seeds, num_envs) = self._player, self._player.shape
        num_rollouts = -(-self.due // (num_envs * self._rollout_steps))
        begun = np.zeros(player.shape, int)

        def schedule(seed: int, env: int, taken: int) -> EngineEpisode:
            del taken
            number = int(begun[seed, env])
            begun[seed, env] += 1
            entropy = self._entropy, seed, self.segments, env, number
            return player.draw(entropy, number * num_envs + env)

        before, restarts = player.asked(), np.zeros(num_seeds)
        keys = fold_in(self.keys["act"], self.segments)
        steps = player.steps(lambda: self.state.agent, schedule, keys, self._act)
        history: list[dict[str, np.ndarray]] = []
        for _ in range(num_rollouts):
            rollout, lost = self._rollout([next(steps) for _ in range(self._rollout_steps)])
            shared = self._actor.shared(self.table)
            self.state, metrics = self._learn(self.state, rollout, shared, self.table)
            history.append(fetch(metrics))
            restarts += lost
            self.count(num_envs * self._rollout_steps - lost)
            self.iteration += 1
        self.segments += 1
        return {name: np.mean([of[name] for of in history], axis=0) for name in history[0]} | {
            "restarts": restarts,
            **{name: now - before[name] for name, now in player.asked().items()},
        }

    def _rollout(self, steps: list[EngineStep]) -> tuple[Rollout, np.ndarray]:
        """A rollout of all seeds, [S, T, N], and the steps [S] whose process was lost.

        Nobody knows where such a step led. It counts as an end that is worth what its state was
        thought to be worth, which is an advantage of zero: nothing is learned from it.
        """
        agents, shared = self.state.agent, self._actor.shared(self.table)

        def of_steps(values: list[np.ndarray]) -> jax.Array:
            shape = self._player.shape
            return jnp.asarray(np.stack([value.reshape(shape) for value in values], axis=1))

        considered = jax.tree.map(
            lambda *leaves: jnp.stack(leaves, axis=1), *[step.about for step in steps]
        )
        lost = of_steps([step.seen.lost for step in steps])
        truncated = of_steps([step.seen.truncated for step in steps])
        reached = [
            self._values(agents, shared, jnp.asarray(step.next_row))
            if step.seen.truncated.any() or step is steps[-1]
            else jnp.zeros(self._player.shape)
            for step in steps
        ]
        cut_off = jnp.where(truncated, jnp.stack(reached, axis=1), 0.0)
        rollout = Rollout(
            row=of_steps([step.row for step in steps]),
            action=of_steps([step.action for step in steps]),
            log_prob=considered.log_prob,
            kl=jnp.where(lost, 0.0, considered.kl),
            value=considered.value,
            reward=jnp.where(
                lost, considered.value, of_steps([step.seen.reward for step in steps])
            ),
            terminated=of_steps([step.seen.terminated for step in steps]) | lost,
            truncated=truncated & ~lost,
            reached_value=jnp.where(lost, 0.0, cut_off),
            last_value=reached[-1],
        )
        return rollout, np.asarray(lost).sum(axis=(1, 2))


def _learn(
    agent: PolicyAgent,
    state: PolicyEngineState,
    rollout: Rollout,
    shared: Any,
    table: PriorTable,
) -> tuple[PolicyEngineState, Metrics]:
    """Updates the agent of one seed from a rollout."""
    key, update_key = jax.random.split(state.key)
    agent_state, metrics = policy_gradient.update(
        agent, state.agent, update_key, rollout, shared, table
    )
    return PolicyEngineState(key, agent_state), metrics
