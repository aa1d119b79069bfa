"""Learning a policy that is a language model: rollouts, and updates by what came of them.

Seeds are trained one after the other, in one jitted loop: a language model per seed, with its
gradients and its optimizer, is more than most devices hold at once, and a batch of seeds would not
be faster where one language model already fills the device.
"""

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax import agents, models
from llmprior_jax.agents import PolicyAgent, States
from llmprior_jax.distributed.processes import fetch
from llmprior_jax.envs import TextEnvironment
from llmprior_jax.learning.loop import EnvsState, reset_envs
from llmprior_jax.learning.run import Decision, fold_in, over_seeds, seed_keys, step_unit
from llmprior_jax.play import rollouts
from llmprior_jax.play.episodes import Choice, means, play
from llmprior_jax.play.rollouts import Progress, Roller, make_roller
from llmprior_jax.play.scored_states import TableFiller
from llmprior_jax.priors import prompts
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.language_policy import LanguagePolicy, append, language_policy
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.priors.tokens import count_tokens
from llmprior_jax.training.config import Config
from llmprior_jax.types import TextState


class PolicyState(NamedTuple):
    """All that training needs to continue, for one seed: what is learned, and the environments."""

    key: jax.Array
    agent: agents.AgentState
    envs: EnvsState


class PolicyRun:
    """A `Run` that trains a language model as the policy, in environments in JAX."""

    def __init__(
        self,
        name: str,
        config: Config,
        env: TextEnvironment,
        env_params: Any,
        filler: TableFiller,
        unseen_params: Any = None,
    ):
        """Loads the policy's model; nothing is read yet.

        Args:
          name: of the agent, as `agents.make_policy` takes it.
          config: the run's; how the policy is made of its model is as the prior's is
            (`config.prior.normalization`, `config.prior.temperature`).
          env: the environment.
          env_params: its parameters.
          filler: the source of priors.
          unseen_params: parameters under which the agent is also evaluated and never trained, or
            None.

        Raises:
          ValueError: the configuration is invalid.
        """
        check_config(config)
        # bfloat16 would round small updates away.
        lm = models.load(config.policy.model, jnp.float32)
        model = make_model(lm, config, env)
        agent = make_policy_agent(name, model, config)
        self._model = model
        self._build_prompt = prompts.fitting(
            filler.build_prompt,
            lm.config.max_position_embeddings,
            functools.partial(count_tokens, lm.tokenizer),
        )
        self._reading = Reading(model, env, self._build_prompt)
        self._filler = filler
        self.env, self.env_params = env, env_params
        self._num_steps = config.num_steps
        num_envs, steps = config.policy.num_envs, config.policy.rollout_steps
        self._updates = config.eval_every // (num_envs * steps)
        self._steps_per_update = num_envs * steps
        self._policy = jax.jit(agent.policy)

        S = config.num_seeds
        streams = jax.vmap(functools.partial(jax.random.split, num=3))(seed_keys(config))
        train_keys, self._eval_keys, self._fresh_keys = streams.T
        all_seeds = functools.partial(over_seeds, num_seeds=S, mesh=config.mesh)
        self._training = _compiled(make_roller(env, env_params, agent, steps), all_seeds)
        evaluations = {"": env_params}
        if unseen_params is not None:
            evaluations["unseen_"] = unseen_params

        def evaluation(params: Any) -> tuple[Callable[..., EnvsState], Roller]:
            """What begins and what rolls out whole episodes."""
            time_limit = int(params.max_steps_in_episode)
            reset = functools.partial(reset_envs, env, params, num_envs=config.eval_episodes)
            roller = make_roller(env, params, agent, time_limit, True)
            return all_seeds(reset, (0,)), _compiled(roller, all_seeds)

        self._evaluating = {name: evaluation(params) for name, params in evaluations.items()}
        self._episodes = all_seeds(rollouts.episodes, (0,))
        self._learn = all_seeds(
            functools.partial(_learn, agent), (0, 0, None, None), one_by_one=True
        )
        self.segments = 0
        self.unit = step_unit(config)
        self.table = filler.load()

        def init(key: jax.Array) -> PolicyState:
            key, agent_key, envs_key = jax.random.split(key, 3)
            return PolicyState(
                key, agent.init(agent_key), reset_envs(env, env_params, envs_key, num_envs)
            )

        self.state: PolicyState = all_seeds(init, (0,))(train_keys)

    @property
    def steps(self) -> int:
        """Environment steps that every seed has taken."""
        return self.segments * self._updates * self._steps_per_update

    @property
    def num_steps(self) -> int:
        """Environment steps after which training is finished."""
        return self._num_steps

    def train(self) -> dict[str, np.ndarray]:
        """One segment of all seeds, one or more rollouts and updates; returns their metrics [S]."""
        history = []
        for _ in range(self._updates):
            progress = self._roll(self._training, self.state.envs)
            states = States(self._reading.rows(self.table), self.table.prior.log_probs)
            self.state, metrics = self._learn(self.state, progress, self._model.frozen, states)
            history.append(fetch(metrics))
        self.segments += 1
        return {name: np.mean([of[name] for of in history], axis=0) for name in history[0]}

    def evaluate(self, fresh: bool = False) -> dict[str, np.ndarray]:
        """Success rate, return and length of episodes of all seeds [S], in unseen games, too.

        Args:
          fresh: take other episodes than those by which training was watched.
        """
        keys = fold_in(self._fresh_keys if fresh else self._eval_keys, self.segments)
        results = {}
        for name, (reset, roller) in self._evaluating.items():
            episodes = fetch(self._episodes(self._roll(roller, reset(keys))))
            results |= means(name, episodes.success, episodes.returns, episodes.length)
        return results

    def meta(self) -> dict[str, Any]:
        """What a checkpoint needs beside the arrays of `state`."""
        return {"segments": self.segments, "table_size": int(self.table.size)}

    def restore(self, step: int, state: PolicyState, meta: dict[str, Any]) -> None:
        """Goes back to a checkpoint; the table too, so that states are read in the same batches."""
        del step
        self.state = state
        self.segments = meta["segments"]
        self.table = self._filler.load(meta["table_size"])
        self._reading = Reading(self._model, self.env, self._build_prompt)

    def play(self, seed: int, key: jax.Array) -> Iterator[Decision]:
        """Plays one episode with the policy of one seed, a decision at a time (host side).

        Args:
          seed: index of the seed, `0 .. num_seeds - 1`.
          key: randomness of the environment and of the policy.
        """
        agent_state = jax.tree.map(lambda leaf: leaf[seed], fetch(self.state.agent))

        def choose(observation: jax.Array, key: jax.Array) -> Choice:
            self.table = self._filler.extend(self.table, np.asarray(observation)[None])
            row = tables.find(self.table, observation)
            rows = jax.tree.map(operator.itemgetter(row[None]), self._reading.rows(self.table))
            log_probs, _ = self._policy(agent_state, self._model.frozen, rows)
            return Choice(
                prior=np.exp(tables.lookup(self.table, row).log_probs),
                q_values=np.zeros(self.env.num_actions, np.float32),
                posterior=np.exp(log_probs[0]),
                action=jax.random.categorical(key, log_probs[0]),
            )

        return play(self.env, self.env_params, key, choose)

    def _roll(self, roller: Roller, envs: EnvsState) -> Progress:
        """A complete rollout of all seeds, with the states that it meets added to the table."""
        progress = roller.start(envs, self.table)
        while True:
            rows = self._reading.rows(self.table)
            progress, missing = roller.advance(
                progress, self.state.agent, self._model.frozen, rows, self.table
            )
            self.table, incomplete = self._filler.fill(self.table, missing)
            if not incomplete:
                return progress
            progress = rollouts.for_more_rows(progress, self.table.observations.shape[0])


class Reading:
    """What the policy reads of each state of a table, tokenized once and kept on the device."""

    def __init__(self, model: LanguagePolicy, env: TextEnvironment, build_prompt: prompts.Builder):
        self._model = model
        self._env = env
        self._build_prompt = build_prompt
        self._rows: Any = None
        self._size = 0

    def rows(self, table: PriorTable) -> Any:
        """The rows of all states of a table, in its order and with its capacity.

        What was returned before is used up where the table has grown.

        Raises:
          ValueError: the policy has other actions in a state than the prior.
        """
        size = int(table.size)
        if size > self._size:
            observations = np.asarray(table.observations[self._size : size])
            texts = [self._env.text_state(observation) for observation in observations]
            asked = [self._build_prompt(text) for text in texts]
            check_actions(texts, np.asarray(table.prior.log_probs[self._size : size]))
            new = self._model.read(
                [prompt.text for prompt in asked], [prompt.actions for prompt in asked]
            )
            capacity = table.observations.shape[0]
            self._rows = append(self._rows, self._size, new, capacity)
            self._size = size
        return self._rows


def check_actions(states: list[TextState], prior_log_probs: np.ndarray) -> None:
    """Checks that policy and prior have the same actions, or their divergence would mean nothing.

    Args:
      states: M states, whose actions the policy chooses from.
      prior_log_probs: f32[M, A], the prior over them.

    Raises:
      ValueError: a state has another number of actions than its prior gives a probability to.
    """
    for state, log_probs in zip(states, prior_log_probs, strict=True):
        num_actions = int(np.isfinite(log_probs).sum())
        if len(state.actions) != num_actions or not np.isfinite(log_probs[:num_actions]).all():
            raise ValueError(
                f"the policy has {len(state.actions)} actions ({', '.join(state.actions)}) in the "
                f"state {state.observation!r}, and the prior gives a probability to {num_actions}: "
                "no policy is near such a prior. If the prior is estimated from proposals, give "
                "every action some (config.prior.propose.pseudo_count); otherwise the priors in "
                "the work directory are those of another environment: use another --workdir"
            )


def check_config(config: Config) -> None:
    """Raises a ValueError that names the field if a value of `config.policy` is out of range."""
    policy = config.policy
    for name in ("num_envs", "rollout_steps"):
        if policy[name] < 1:
            raise ValueError(f"config.policy.{name} is {policy[name]}; use a number >= 1")
    if policy.lora_rank < 0:
        raise ValueError(
            f"config.policy.lora_rank is {policy.lora_rank}; use a number >= 1, or 0 for full "
            "fine-tuning"
        )
    if min(policy.hidden_sizes, default=1) < 1:
        raise ValueError(f"config.policy.hidden_sizes is {policy.hidden_sizes}; use numbers >= 1")
    steps = policy.num_envs * policy.rollout_steps
    if config.eval_every % steps:
        raise ValueError(
            f"config.eval_every is {config.eval_every}, and a rollout is {policy.num_envs} "
            f"environments x {policy.rollout_steps} steps (config.policy.num_envs, "
            f"config.policy.rollout_steps); use a multiple of {steps}"
        )


def make_model(lm: models.LanguageModel, config: Config, env: TextEnvironment) -> LanguagePolicy:
    """A language model as the policy, as `config.policy` describes it."""
    return language_policy(
        lm,
        env.num_actions,
        config.prior.normalization,
        config.prior.temperature,
        config.policy.lora_rank,
    )


def make_policy_agent(name: str, model: LanguagePolicy, config: Config) -> PolicyAgent:
    """The agent `name` with the parameters of `config.policy`."""
    parameters = config.policy.to_dict()
    for other in ("model", "lora_rank", "num_envs", "rollout_steps"):
        del parameters[other]
    return agents.make_policy(name, model, **parameters)


def _compiled(roller: Roller, all_seeds: Callable[..., Any]) -> Roller:
    return Roller(
        start=all_seeds(roller.start, (0, None)),
        advance=all_seeds(roller.advance, (0, 0, None, None, None), one_by_one=True),
    )


def _learn(
    agent: PolicyAgent, state: PolicyState, progress: Progress, frozen: Any, states: States
) -> tuple[PolicyState, dict[str, jax.Array]]:
    """Updates the agent of one seed from a complete rollout, and goes on where that ended."""
    key, update_key = jax.random.split(state.key)
    agent_state, metrics = agent.update(state.agent, frozen, update_key, states, progress.rollout)
    return PolicyState(key, agent_state, progress.envs), metrics
