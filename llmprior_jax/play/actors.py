"""How agents act in states that have been scored: by what they look up, or by what they read.

An agent that learns Q finds the prior of a state in the table. An agent whose policy is a language
model reads the state itself. Whoever plays, trains or evaluates asks an `AgentActor`, and not which
of the two it is.
"""

import copy
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.agents import Agent, AgentState, Policy, PolicyAgent
from llmprior_jax.agents.agent import likeliest
from llmprior_jax.play.rollouts import Actor, Progress, Standing
from llmprior_jax.play.stepping import Choice, Place, Step, lookup_rows, own_keys
from llmprior_jax.posterior import kl_to_prior
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.language_policy import put
from llmprior_jax.priors.prompts import Builder
from llmprior_jax.priors.table import PriorTable
from llmprior_jax.types import ActionPrior, LanguagePolicy, TextState

# States read in one forward pass: few, since in most steps few environments meet a new one.
_READ_AT_ONCE = 4


class AgentActor(Protocol):
    """How one agent acts: `shared` and `grown` on the host; the rest is pure, and used within jit.

    Attributes:
      in_rollouts: how it acts in a batch of environments.
      one_by_one: whether seeds are to act one after the other, because a batch of them would need
        too much memory, or compute both branches of every condition.
    """

    in_rollouts: Actor
    one_by_one: bool

    def begin(self, key: jax.Array, num_envs: int, num_steps: int) -> tuple[jax.Array, Any]:
        """Parts a key into that of the first reset and the draws of a rollout."""
        ...

    def shared(self, table: PriorTable) -> Any:
        """What all seeds share beside the table (host side)."""
        ...

    def grown(self, progress: Progress, table: PriorTable) -> Progress:
        """Rollouts of all seeds, [S, ...], with room for a table that has grown (host side)."""
        ...

    def policy(self, state: AgentState, shared: Any, table: PriorTable, row: jax.Array) -> Policy:
        """How the agent sees the state of row i32[]."""
        ...

    def decide(
        self, state: AgentState, shared: Any, table: PriorTable, place: Place, key: jax.Array
    ) -> tuple[Policy, jax.Array]:
        """What it weighs in a place whose state the table has, and what it does there, i32[]."""
        ...

    def act(
        self, state: AgentState, shared: Any, table: PriorTable, keys: jax.Array, row: jax.Array
    ) -> tuple[jax.Array, Any]:
        """What it does in the states of rows i32[N], i32[N], and what is to be known of it, [N]."""
        ...

    def by_prior(self, state: AgentState) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """`(key, prior) -> i32[]`, what it does where only the prior is given.

        Raises:
          ValueError: a prior is not enough for it.
        """
        ...


class ValueActor:
    """Acts by the posterior of the table's prior and Q.

    Args:
      agent: the agent.
    """

    def __init__(self, agent: Agent):
        self._agent = agent
        self.in_rollouts = Actor(start=lambda keys, table: keys, choose=self._choose)
        self.one_by_one = False

    def begin(self, key: jax.Array, num_envs: int, num_steps: int) -> tuple[jax.Array, jax.Array]:
        """A key for the reset, and key[T, N], one for each action."""
        reset_key, act_key = jax.random.split(key)

        def of_a_step(key: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            key, act_key = jax.random.split(key)
            return key, jax.random.split(act_key, num_envs)

        _, keys = jax.lax.scan(of_a_step, act_key, length=num_steps)
        return reset_key, keys

    def shared(self, table: PriorTable) -> Any:
        """Nothing beside the table."""
        del table
        return ()

    def grown(self, progress: Progress, table: PriorTable) -> Progress:
        """Nothing needs room."""
        del table
        return progress

    def policy(self, state: AgentState, shared: Any, table: PriorTable, row: jax.Array) -> Policy:
        """See `AgentActor`."""
        del shared
        return self._agent.policy(state, tables.lookup(table, row))

    def decide(
        self, state: AgentState, shared: Any, table: PriorTable, place: Place, key: jax.Array
    ) -> tuple[Policy, jax.Array]:
        """See `AgentActor`."""
        del shared
        prior = tables.lookup(table, tables.find(table, place.observation))
        return self._agent.policy(state, prior), self._agent.act(state, key, prior)

    def act(
        self, state: AgentState, shared: Any, table: PriorTable, keys: jax.Array, row: jax.Array
    ) -> tuple[jax.Array, Any]:
        """See `AgentActor`."""
        del shared
        prior = lookup_rows(table, row)
        return jax.vmap(self._agent.act, in_axes=(None, 0, 0))(state, keys, prior), ()

    def by_prior(self, state: AgentState) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """See `AgentActor`."""
        return functools.partial(self._agent.act, state)

    def _choose(
        self, state: AgentState, shared: Any, keys: jax.Array, standing: Standing, table: Any
    ) -> tuple[Choice, Any, jax.Array]:
        del shared
        num_steps, num_envs = keys.shape
        now = keys[jnp.minimum(standing.time, num_steps - 1), jnp.arange(num_envs)]
        return own_keys(standing.envs, self._acted(state, now, standing, table)), (), keys

    def _acted(
        self, state: AgentState, keys: jax.Array, standing: Standing, table: Any
    ) -> jax.Array:
        """What it does i32[N] where N environments stand."""
        prior = lookup_rows(table, standing.row)
        return jax.vmap(self._agent.act, in_axes=(None, 0, 0))(state, keys, prior)


class View(NamedTuple):
    """What the policy says of the states that it has read, by their rows in the table.

    Attributes:
      is_wanted: bool[R], whether a state is needed.
      is_read: bool[R], whether it was read already.
      log_probs: f32[R, A].
      values: f32[R].
    """

    is_wanted: jax.Array
    is_read: jax.Array
    log_probs: jax.Array
    values: jax.Array


class Considered(NamedTuple):
    """What a policy weighed when it acted, [N].

    Attributes:
      log_prob: f32, log-probability of the action.
      kl: f32, divergence of the policy from the prior that it trusts, in nats.
      value: f32, the estimated value of the state.
    """

    log_prob: jax.Array
    kl: jax.Array
    value: jax.Array


class PolicyActor:
    """Acts by a policy that reads the states itself.

    Within a rollout the policy stands still, so what it says of a state is remembered: the language
    model reads each distinct state once, however many environments pass through it.

    Args:
      agent: the agent.
      model: the language model that is the policy.
      text_state: puts an observation into words (`TextEnvironment.text_state`).
      build_prompt: what the policy reads of a state.
      has_words: whether the words of an observation are known yet. Those of games on engines are
        not, in a run that goes on from a checkpoint, until a game shows them again.
    """

    def __init__(
        self,
        agent: PolicyAgent,
        model: LanguagePolicy,
        text_state: Callable[[np.ndarray], TextState],
        build_prompt: Builder,
        has_words: Callable[[np.ndarray], bool] = lambda observation: True,
    ):
        self._choice = jax.random.categorical
        self._agent = agent
        self._model = model
        self._reading = _Reading(model, text_state, build_prompt, has_words)
        self.in_rollouts = Actor(_nothing_read, self._choose, _look)
        self.one_by_one = True

    def greedy(self) -> "PolicyActor":
        """The same actor, which takes the likeliest action; both know what either has read."""
        actor = copy.copy(self)
        actor._choice = likeliest
        actor.in_rollouts = Actor(_nothing_read, actor._choose, _look)
        return actor

    def begin(self, key: jax.Array, num_envs: int, num_steps: int) -> tuple[jax.Array, Any]:
        """The key is the reset's; actions are drawn with the environments' own keys."""
        del num_envs, num_steps
        return key, ()

    def shared(self, table: PriorTable) -> Any:
        """The parameters that are not learned, and what the policy reads of each state."""
        return self._model.frozen, self._reading.rows(table)

    def forget(self, shapes: Sequence[Sequence[int]] = ()) -> None:
        """Forgets what was read: the table may have other states under the same rows.

        Args:
          shapes: those that rows had (`shapes`), which they are to have again: how much is padded
            moves the last bits of what is computed.
        """
        self._reading.forget(shapes)

    def shapes(self) -> list[list[int]]:
        """The shapes of the rows that were read."""
        return self._reading.shapes()

    def grown(self, progress: Progress, table: PriorTable) -> Progress:
        """Rollouts of all seeds, with room in what is remembered."""
        more = table.observations.shape[0] - progress.memory.values.shape[1]
        if not more:
            return progress

        def extend(leaf: jax.Array) -> jax.Array:
            return jnp.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2))

        return progress._replace(memory=jax.tree.map(extend, progress.memory))

    def policy(self, state: AgentState, shared: Any, table: PriorTable, row: jax.Array) -> Policy:
        """See `AgentActor`."""
        del table
        log_probs, _ = self._read(state, shared, row[None])
        return Policy(log_probs[0], jnp.zeros_like(log_probs[0]))

    def decide(
        self, state: AgentState, shared: Any, table: PriorTable, place: Place, key: jax.Array
    ) -> tuple[Policy, jax.Array]:
        """See `AgentActor`."""
        policy = self.policy(state, shared, table, tables.find(table, place.observation))
        return policy, self._choice(key, policy.log_probs)

    def act(
        self, state: AgentState, shared: Any, table: PriorTable, keys: jax.Array, row: jax.Array
    ) -> tuple[jax.Array, Considered]:
        """See `AgentActor`."""
        log_probs, values = self._read(state, shared, row)
        return self._take(state, table, keys, row, log_probs, values)

    def values(self, state: AgentState, shared: Any, row: jax.Array) -> jax.Array:
        """The estimated values f32[N] of the states of rows i32[N]."""
        return self._read(state, shared, row)[1]

    def by_prior(self, state: AgentState) -> Callable[[jax.Array, ActionPrior], jax.Array]:
        """See `AgentActor`."""
        raise ValueError(
            "an agent whose policy is a language model reads states itself; here one is needed "
            "that acts by a prior, such as dqn_prior"
        )

    def _choose(
        self,
        state: AgentState,
        shared: Any,
        view: View,
        standing: Standing,
        table: PriorTable,
    ) -> tuple[Choice, Considered, View]:
        row = standing.row
        wanted = _want(view, row, ~standing.is_over & ~standing.waits)
        view = self._read_missing(state, shared, wanted)
        keys = jax.vmap(jax.random.split)(standing.envs.key)
        action, considered = self._take(
            state, table, keys[:, 0], row, view.log_probs[row], view.values[row]
        )
        choice = own_keys(standing.envs._replace(key=keys[:, 1]), action)
        return choice, considered, view

    def _take(
        self,
        state: AgentState,
        table: PriorTable,
        keys: jax.Array,
        row: jax.Array,
        log_probs: jax.Array,
        values: jax.Array,
    ) -> tuple[jax.Array, Considered]:
        """An action in each of N states, and what was weighed there."""
        action = jax.vmap(self._choice)(keys, log_probs)
        trusted = jax.vmap(self._agent.prior, in_axes=(None, 0))
        return action, Considered(
            log_prob=jnp.take_along_axis(log_probs, action[:, None], axis=1)[:, 0],
            kl=jax.vmap(kl_to_prior)(log_probs, trusted(state, lookup_rows(table, row))),
            value=values,
        )

    def _read(self, state: AgentState, shared: Any, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the policy says of the states of rows i32[N]: f32[N, A], and their values f32[N]."""
        frozen, rows = shared
        return self._agent.policy(state, frozen, jax.tree.map(operator.itemgetter(row), rows))

    def _read_missing(self, agent_state: AgentState, shared: Any, view: View) -> View:
        """Reads the states that are wanted and were not read yet, a few at a time."""

        def read_some(view: View) -> View:
            # A row beyond the end is no state: nothing is written there.
            (some,) = jnp.nonzero(
                view.is_wanted & ~view.is_read,
                size=_READ_AT_ONCE,
                fill_value=view.values.shape[0],
            )
            log_probs, values = self._read(agent_state, shared, some)
            return view._replace(
                is_read=view.is_read.at[some].set(True, mode="drop"),
                log_probs=view.log_probs.at[some].set(log_probs, mode="drop"),
                values=view.values.at[some].set(values, mode="drop"),
            )

        return jax.lax.while_loop(
            lambda view: jnp.any(view.is_wanted & ~view.is_read), read_some, view
        )


def _nothing_read(draws: Any, table: PriorTable) -> View:
    del draws
    num_rows, num_actions = table.log_probs.shape
    return View(
        is_wanted=jnp.zeros(num_rows, bool),
        is_read=jnp.zeros(num_rows, bool),
        log_probs=jnp.full((num_rows, num_actions), -jnp.inf),
        values=jnp.zeros(num_rows),
    )


def _look(view: View, step: Step) -> View:
    # A truncated episode bootstraps from its last state.
    return _want(view, step.reached_row, step.taken & step.truncated)


def _want(view: View, row: jax.Array, is_wanted: jax.Array) -> View:
    """Asks for the states of rows i32[N], where they are wanted bool[N] and known."""
    place = jnp.where(is_wanted & (row >= 0), row, view.values.shape[0])
    return view._replace(is_wanted=view.is_wanted.at[place].set(True, mode="drop"))


class _Reading:
    """What the policy reads of each state of a table, tokenized once and kept on the device."""

    def __init__(
        self,
        model: LanguagePolicy,
        text_state: Callable[[np.ndarray], TextState],
        build_prompt: Builder,
        has_words: Callable[[np.ndarray], bool],
    ):
        self._model = model
        self._text_state = text_state
        self._build_prompt = build_prompt
        self._has_words = has_words
        self.forget()

    def forget(self, shapes: Sequence[Sequence[int]] = ()) -> None:
        """Reads all states again at the next call of `rows`, into rows as large as `shapes`."""
        self._least = shapes
        self._rows: Any = None
        self._size = 0
        self._unread: dict[int, np.ndarray] = {}

    def rows(self, table: PriorTable) -> Any:
        """The rows of all states of a table that have words, in its order and with its capacity.

        What was returned before is used up where there is more to read.

        Raises:
          ValueError: the policy has other actions in a state than the prior.
        """
        if (size := int(table.size)) > self._size:
            new = np.arange(self._size, size)
            self._unread |= dict(
                zip(new.tolist(), np.asarray(table.observations[new]), strict=True)
            )
            self._size = size
        if found := [row for row, seen in self._unread.items() if self._has_words(seen)]:
            texts = [self._text_state(self._unread.pop(row)) for row in found]
            prompts = [self._build_prompt(text) for text in texts]
            place = np.array(found)
            check_actions(texts, np.asarray(table.log_probs[place]))
            read = self._model.read(
                [prompt.text for prompt in prompts], [prompt.actions for prompt in prompts]
            )
            if self._rows is None and self._least:
                read = _at_least(read, self._least)
            self._rows = put(self._rows, place, read, table.observations.shape[0])
        return self._rows

    def shapes(self) -> list[list[int]]:
        """The shapes of the rows, field by field; none where nothing was read."""
        return [list(leaf.shape[1:]) for leaf in jax.tree.leaves(self._rows)]


def _at_least(rows: Any, shapes: Sequence[Sequence[int]]) -> Any:
    """Rows [M, ...] with padding up to these shapes, field by field."""
    leaves, structure = jax.tree.flatten(rows)
    padded = [
        np.pad(
            leaf,
            [(0, 0), *((0, max(0, n - m)) for n, m in zip(shape, leaf.shape[1:], strict=True))],
        )
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    return jax.tree.unflatten(structure, padded)


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
                "every action some (prior.propose.pseudo_count); otherwise the priors in the work "
                "directory are those of another environment: use another --workdir"
            )
