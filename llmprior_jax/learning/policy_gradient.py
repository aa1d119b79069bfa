"""Learning by policy gradient: rollouts of a policy that is a language model, and updates by them.

Seeds are trained one after the other, in one jitted loop: a language model per seed, with its
gradients and its optimizer, is more than most devices hold at once, and a batch of seeds would not
be faster where one language model already fills the device.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import AgentState, PolicyAgent, Rollout, States
from llmprior_jax.agents.agent import Metrics
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.learning.run import Run
from llmprior_jax.play.actors import Considered, PolicyActor
from llmprior_jax.play.players import JaxPlayer, OverSeeds
from llmprior_jax.play.rollouts import Progress, make_roller
from llmprior_jax.play.stepping import EnvsState, Step, find_in, reset_envs
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.settings import RunSettings


class PolicyState(NamedTuple):
    """All that training needs to continue, for one seed: what is learned, and the environments."""

    key: jax.Array
    agent: AgentState
    envs: EnvsState


class PolicyRun(Run):
    """A `Run` that trains a language model as the policy, in environments in JAX.

    Args:
      agent: the agent.
      actor: how it acts while it learns.
      player: plays episodes with the agent.
      settings: seeds, steps, evaluations.
      num_envs: N, environments of a rollout.
      rollout_steps: T, steps of each of them between two updates.
      over_seeds: maps functions of one seed over all.
    """

    def __init__(
        self,
        agent: PolicyAgent,
        actor: PolicyActor,
        player: JaxPlayer,
        settings: RunSettings,
        num_envs: int,
        rollout_steps: int,
        over_seeds: OverSeeds,
    ):
        super().__init__(player, settings)
        env, env_params = player.env, player.env_params
        self._actor, self._player = actor, player
        self._steps = num_envs * rollout_steps
        roller = make_roller(env, env_params, actor.in_rollouts, rollout_steps, _keep)
        self._start = over_seeds(roller.start, (0, None, 0, None, None))
        self._advance = over_seeds(roller.advance, (0, 0, None, None), one_by_one=True)
        self._learn = over_seeds(
            functools.partial(_learn, agent), (0, 0, None, None), one_by_one=True
        )

        def init(key: jax.Array) -> PolicyState:
            key, agent_key, envs_key = jax.random.split(key, 3)
            envs = reset_envs(env, env_params, envs_key, num_envs)
            return PolicyState(key, agent.init(agent_key), envs)

        self.state: PolicyState = over_seeds(init, (0,))(self.keys["train"])

    def restore(self, state: Any, meta: dict[str, Any]) -> None:
        """See `Run`."""
        super().restore(state, meta)
        self._actor.forget()

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds, one or more rollouts and updates; returns their metrics [S]."""
        history: list[dict[str, np.ndarray]] = []
        for _ in range(-(-self.due // self._steps)):
            shared = self._actor.shared(self.table)
            progress = self._start(self.state.agent, shared, self.state.envs, (), self.table)
            progress = self._player.complete(self._actor, self._advance, progress, self.state.agent)
            shared = self._actor.shared(self.table)
            self.state, metrics = self._learn(self.state, progress, shared, self.table)
            self.iteration += 1
            self.count(self._steps)
            history.append(fetch(metrics))
        self.segments += 1
        return {name: np.mean([of[name] for of in history], axis=0) for name in history[0]}


class _Kept(NamedTuple):
    """What is kept of each step of a rollout."""

    step: dict[str, jax.Array]
    considered: Considered


def _keep(step: Step, considered: Considered) -> _Kept:
    names = ("row", "action", "reward", "terminated", "truncated", "reached_row")
    return _Kept({name: getattr(step, name) for name in names}, considered)


def _rollout(progress: Progress, table: PriorTable) -> Rollout:
    """A complete rollout, as an agent learns from it."""
    step, considered = progress.steps
    values = progress.memory.values
    return Rollout(
        row=step["row"],
        action=step["action"],
        log_prob=considered.log_prob,
        kl=considered.kl,
        value=considered.value,
        reward=step["reward"],
        terminated=step["terminated"],
        truncated=step["truncated"],
        reached_value=jnp.where(step["truncated"], values[step["reached_row"]], 0.0),
        last_value=values[find_in(table)(progress.envs.observation)],
    )


def _learn(
    agent: PolicyAgent, state: PolicyState, progress: Progress, shared: Any, table: PriorTable
) -> tuple[PolicyState, Metrics]:
    """Updates the agent of one seed from a complete rollout, and goes on where that ended."""
    key, update_key = jax.random.split(state.key)
    rollout = _rollout(progress, table)
    agent_state, metrics = update(agent, state.agent, update_key, rollout, shared, table)
    return PolicyState(key, agent_state, progress.envs), metrics


def update(
    agent: PolicyAgent,
    state: AgentState,
    key: jax.Array,
    rollout: Rollout,
    shared: Any,
    table: PriorTable,
) -> tuple[AgentState, Metrics]:
    """Updates the agent of one seed from a rollout; `shared` is what its actor shares."""
    frozen, rows = shared
    return agent.update(state, frozen, key, States(rows, table.log_probs, table.others), rollout)
