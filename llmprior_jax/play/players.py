"""Who plays episodes with an agent: many at once, in numbers, or one, for people.

A run asks its `Player`, and not where the agent acts: in environments in JAX (`JaxPlayer`) or in
games on engines of the host (`engine_player`).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import AgentState, Policy
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.play.actors import AgentActor
from llmprior_jax.play.evaluation import Decision, Episodes
from llmprior_jax.play.rollouts import Progress, complete, make_roller
from llmprior_jax.play.scored_states import ScoredStates
from llmprior_jax.play.stepping import Missing, Place, Share, Step, reset_envs
from llmprior_jax.priors import table as tables
from llmprior_jax.types import ActionPrior

OverSeeds = Callable[..., Callable[..., Any]]
"""`distributed.over_seeds`, with the seeds and devices of a run."""


class Player(Protocol):
    """Plays episodes with the agents of all seeds.

    `agents` are agent states with a leading axis of seeds, S.

    Attributes:
      env: what is played; `env.name` says which.
      env_params: the parameters of an environment in JAX; None elsewhere.
      scored: the states met so far, with their priors.
    """

    env: Any
    env_params: Any
    scored: ScoredStates

    def evaluate(self, agents: AgentState, keys: jax.Array) -> dict[str, Episodes]:
        """Episodes [S, E, ...] of each set of tasks, by what stands before the metrics' names.

        Args:
          agents: the agents.
          keys: key[S], randomness of all that happens.
        """
        ...

    def play(self, agents: AgentState, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the agent of one seed, a decision at a time."""
        ...

    def policies(self, agents: AgentState, seed: int) -> tuple[ActionPrior, Policy]:
        """The priors [R] of all states met so far, and what one seed's agent makes of them."""
        ...

    def by_prior(
        self, agents: AgentState, seed: int
    ) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """`(key, prior) -> i32[]`: what one seed's agent does in a state of an environment in JAX.

        Raises:
          ValueError: it acts elsewhere, or a prior is not enough for it.
        """
        ...


class JaxPlayer:
    """A `Player` in environments in JAX.

    Args:
      env: the environment.
      env_params: its parameters.
      unseen_params: parameters under which agents are evaluated, too, and never trained; or None.
      actors: how the agent acts in evaluations, by what stands before the names of their metrics;
        as the first does, it acts in episodes that are shown.
      scored: scores the environment's states; its table is loaded.
      num_episodes: E, episodes of an evaluation.
      over_seeds: see `OverSeeds`.
      share: see `stepping.Share`.
    """

    def __init__(
        self,
        env: TextEnvironment,
        env_params: Any,
        unseen_params: Any,
        actors: Mapping[str, AgentActor],
        scored: ScoredStates,
        num_episodes: int,
        over_seeds: OverSeeds,
        share: Share = lambda envs: envs,
    ):
        self.env, self.env_params = env, env_params
        self.actor = next(iter(actors.values()))
        self.scored = scored
        tasks = {"": env_params} | ({} if unseen_params is None else {"unseen_": unseen_params})

        def evaluation(
            actor: AgentActor, params: Any
        ) -> tuple[AgentActor, Callable[..., Any], Callable[..., Any]]:
            num_steps = int(params.max_steps_in_episode)
            roller = make_roller(
                env,
                params,
                actor.in_rollouts,
                num_steps,
                _keep_outcome,
                one_episode=True,
                share=share,
            )

            def begin(
                key: jax.Array, agent_state: AgentState, shared: Any, table: tables.PriorTable
            ) -> tuple[jax.Array, Progress]:
                reset_key, draws = actor.begin(key, num_episodes, num_steps)
                envs = share(reset_envs(env, params, reset_key, num_episodes))
                progress = roller.start(agent_state, shared, envs, draws, table)
                return envs.observation, progress

            return (
                actor,
                over_seeds(begin, (0, 0, None, None)),
                over_seeds(roller.advance, (0, 0, None, None), one_by_one=actor.one_by_one),
            )

        self._evaluations = {
            f"{prefix}{name}": evaluation(actor, params)
            for prefix, actor in actors.items()
            for name, params in tasks.items()
        }
        self._episodes = over_seeds(_episodes, (0, 0))
        self._decide = jax.jit(self.actor.decide)

    def evaluate(self, agents: AgentState, keys: jax.Array) -> dict[str, Episodes]:
        """See `Player`."""
        played = {}
        for name, (actor, begin, advance) in self._evaluations.items():
            table = self.scored.table
            start, progress = begin(keys, agents, actor.shared(table), table)
            progress = self.complete(actor, advance, progress, agents)
            played[name] = fetch(self._episodes(progress, start))
        return played

    def complete(
        self,
        actor: AgentActor,
        advance: Callable[..., tuple[Progress, Missing]],
        progress: Progress,
        agents: AgentState,
    ) -> Progress:
        """Goes on with rollouts of all seeds until they are complete.

        Args:
          actor: how the agents act in them.
          advance: `Roller.advance`, over all seeds.
          progress: what `Roller.start` gave, over all seeds.
          agents: the agents.
        """

        def advance_known(progress: Progress) -> tuple[Progress, Missing]:
            table = self.scored.table
            progress = actor.grown(progress, table)
            return advance(progress, agents, actor.shared(table), table)

        return complete(progress, advance_known, self.scored.fill)

    def play(self, agents: AgentState, seed: int, key: jax.Array) -> Iterator[Decision]:
        """See `Player`."""
        state = of_seed(agents, seed)
        key, reset_key = jax.random.split(key)
        observation, env_state = self.env.reset(reset_key, self.env_params)
        done = False
        while not done:
            key, act_key, step_key = jax.random.split(key, 3)
            self.scored.extend(np.asarray(observation)[None])
            table = self.scored.table
            row, shared = tables.find(table, observation), self.actor.shared(table)
            policy, action = self._decide(
                state, shared, table, Place(env_state, observation), act_key
            )
            text, scene = self.env.text_state(np.asarray(observation)), self.env.scene(env_state)
            observation, env_state, reward, terminated, truncated, info = self.env.step(
                step_key, env_state, action, self.env_params
            )
            done = bool(terminated | truncated)
            yield Decision(
                text=text,
                prior=np.exp(prior_acted_by(policy, table, row)),
                q_values=np.asarray(policy.q_values),
                posterior=np.exp(policy.log_probs),
                action=int(action),
                reward=float(reward),
                success=bool(info["success"]),
                truncated=bool(truncated),
                scene=scene,
                trust=None if policy.trust is None else float(policy.trust),
            )

    def policies(self, agents: AgentState, seed: int) -> tuple[ActionPrior, Policy]:
        """See `Player`."""
        return policies(self.actor, self.scored.table, of_seed(agents, seed))

    def by_prior(
        self, agents: AgentState, seed: int
    ) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """See `Player`."""
        return self.actor.by_prior(of_seed(agents, seed))


def of_seed(agents: AgentState, seed: int) -> AgentState:
    """The agent of one seed, on the host."""
    return jax.tree.map(lambda leaf: leaf[seed], fetch(agents))


def prior_acted_by(policy: Policy, table: tables.PriorTable, row: jax.Array) -> jax.Array:
    """The log-probs f32[A] of the prior that an agent acts by in the state of row i32[]."""
    return tables.lookup(table, row).log_probs if policy.prior is None else policy.prior


def policies(
    actor: AgentActor, table: tables.PriorTable, state: AgentState
) -> tuple[ActionPrior, Policy]:
    """The priors of all states of a table, and what an agent makes of them."""
    shared, size = actor.shared(table), int(table.size)

    @jax.jit
    def of_all(state: AgentState, shared: Any, table: tables.PriorTable) -> Policy:
        return jax.lax.map(lambda row: actor.policy(state, shared, table, row), jnp.arange(size))

    return tables.rows(table), of_all(state, shared, table)


def _keep_outcome(step: Step, about: Any) -> dict[str, jax.Array]:
    del about
    return {name: getattr(step, name) for name in ("reward", "success", "action", "row")}


def _episodes(progress: Progress, start: jax.Array) -> Episodes:
    """What came of the episode of each environment."""
    num_steps = progress.steps["success"].shape[0]
    counts = jnp.arange(num_steps)[:, None] < progress.time
    return Episodes(
        success=jnp.any(counts & progress.steps["success"], axis=0),
        returns=jnp.sum(jnp.where(counts, progress.steps["reward"], 0.0), axis=0),
        length=progress.time,
        start=start,
        actions=jnp.where(counts, progress.steps["action"], -1).T,
        rows=jnp.where(counts, progress.steps["row"], -1).T,
    )
