"""The agent interface: a few pure functions over arrays, as optax has for optimizers.

An agent never sees text. A state reaches it as an `ActionPrior`: log-probabilities of the actions
and features of (state, action). A baseline is the same agent with another prior, mostly a uniform
one (`with_uniform_prior`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmprior_jax.posterior import sample_candidates
from llmprior_jax.types import ActionPrior

AgentState = Any
Metrics = dict[str, jax.Array]


class Transitions(NamedTuple):
    """A batch of transitions, the states given by their priors.

    Examples:
      >>> prior = ActionPrior(jnp.log(jnp.full((1, 2), 0.5)), jnp.ones((1, 2, 3)))
      >>> action, reward, terminated = jnp.array([0]), jnp.array([1.0]), jnp.array([True])
      >>> batch = agents.Transitions(prior, action, reward, terminated, prior, jnp.ones(1))
      >>> batch.prior.features.shape  # [B, A, D]
      (1, 2, 3)

    Attributes:
      prior: prior of the states acted in, `log_probs` f32[B, A], `features` f32[B, A, D].
      action: i32[B], what was done.
      reward: f32[B].
      terminated: bool[B], the episode ended for good; a time limit does not count.
      next_prior: prior of the states reached, also where the episode was truncated there.
      weight: f32[B], 0 for entries that hold no transition.
    """

    prior: ActionPrior
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array
    next_prior: ActionPrior
    weight: jax.Array


class Policy(NamedTuple):
    """What an agent would do in one state, and the values that it gives the actions.

    Examples:
      >>> prior = ActionPrior(jnp.log(jnp.array([0.25, 0.75])), jnp.zeros((2, 3)))
      >>> policy = agents.prior_alone().policy((), prior)
      >>> print(jnp.exp(policy.log_probs), policy.q_values)
      [0.25 0.75] [0. 0.]

    Attributes:
      log_probs: f32[A], log pi(a|s), exact also where the agent acts on candidates drawn from the
        prior; `-inf` where no action is.
      q_values: f32[A], its estimate of the return of each action (0 for agents without one).
      prior: f32[A], log-probabilities of the prior that it acts by, where that is another than the
        one it is given (`with_prior`); otherwise None.
      trust: f32[], how much the language model's prior counts in this state, 0 to 1: the posterior
        probability that the action comes from it, and not from the uniform prior; None where an
        agent does not weigh the two.
    """

    log_probs: jax.Array
    q_values: jax.Array
    prior: jax.Array | None = None
    trust: jax.Array | None = None


class Exploration(NamedTuple):
    """How an agent acts while it learns, and what it learns from whole episodes.

    Each episode is played in one way, a number that the agent draws when the episode begins.

    Examples:
      >>> agent = agents.dqn_prior(trust=agents.trust.by_episodes())
      >>> state = agent.init(jax.random.key(0), ActionPrior(jnp.zeros(2), jnp.zeros((2, 3))))
      >>> agent.explore.begin(state, jax.random.key(1)).shape  # with the prior or without it
      ()

    Attributes:
      begin: `(state, key) -> i32[]`, the way to play an episode, drawn when it begins.
      act: `(state, key, prior, way) -> i32[]`, one action.
      end: `(state, value f32[N], way i32[N], ended bool[N]) -> state`, tells of N episodes, those
        that have ended with their discounted returns; after every step.
      discount: of those returns, per decision.
    """

    begin: Callable[[AgentState, jax.Array], jax.Array]
    act: Callable[[AgentState, jax.Array, ActionPrior, jax.Array], jax.Array]
    end: Callable[[AgentState, jax.Array, jax.Array, jax.Array], AgentState]
    discount: float


class Search(NamedTuple):
    """How an agent searches where it acts (`agents.with_search`).

    Examples:
      >>> agent = agents.with_search(agents.prior_alone(), simulations=8)
      >>> agent.search.simulations, agents.greedy(agent).search.is_greedy
      (8, True)

    Attributes:
      simulations: of each search, at least 1.
      tree_policy: what they try, "gumbel" or "puct".
      rollout_steps: steps of the agent's own policy from each leaf.
      alpha: temperature of the posterior, in units of reward, where the agent has none of its own.
      discount: per decision.
      is_greedy: takes the best action instead of drawing one.
    """

    simulations: int
    tree_policy: str
    rollout_steps: int
    alpha: float
    discount: float
    is_greedy: bool = False


class Candidates(NamedTuple):
    """Actions that are drawn once per visit of a state, and stored with its transition.

    The code that steps environments draws them when a state is reached. It gives them to the agent
    with the state's prior (`ActionPrior.candidates`), to act there and later to learn.

    Examples:
      >>> agent = agents.dqn_prior(num_candidates=5, keep_candidates=True)
      >>> prior = ActionPrior(jnp.log(jnp.array([1.0, 0.0])), jnp.zeros((2, 3)))
      >>> state = agent.init(jax.random.key(0), prior)
      >>> print(agent.candidates.draw(state, jax.random.key(1), prior))
      [0 0 0 0 0]

    Attributes:
      number: K.
      draw: `(state, key, prior) -> i32[K]`, for one state.
    """

    number: int
    draw: Callable[[AgentState, jax.Array, ActionPrior], jax.Array]


class Agent(NamedTuple):
    """A learner as pure functions; all but `update` are for one state (vmap for more).

    Examples:
      >>> agent = agents.dqn_prior(alpha=0.1, hidden_sizes=())
      >>> prior = ActionPrior(jnp.log(jnp.array([0.25, 0.75])), jnp.zeros((2, 3)))
      >>> state = agent.init(jax.random.key(0), prior)
      >>> print(jnp.exp(agent.policy(state, prior).log_probs))  # Q is 0 at first
      [0.25 0.75]

    Attributes:
      init: `(key, prior) -> state`; `prior` only shows the shapes.
      policy: `(state, prior) -> Policy`, the distribution over actions.
      act: `(state, key, prior) -> i32[]`, one action.
      update: `(state, key, transitions) -> (state, metrics)`, one step of learning from a batch;
        None for agents that do not learn.
      explore: how it acts while it learns, where that is not `act`.
      candidates: what is drawn once per visit of a state; None for agents to whom a visit is like
        any other.
      alpha: `state -> f32[]`, the temperature of an agent whose `Policy.q_values` are estimates of
        the return, and its policy the posterior of them and its prior; None for any other.
      search: how it searches where the environment can be stepped from a state; None: it does not.
    """

    init: Callable[[jax.Array, ActionPrior], AgentState]
    policy: Callable[[AgentState, ActionPrior], Policy]
    act: Callable[[AgentState, jax.Array, ActionPrior], jax.Array]
    update: Callable[[AgentState, jax.Array, Transitions], tuple[AgentState, Metrics]] | None
    explore: Exploration | None = None
    candidates: Candidates | None = None
    alpha: Callable[[AgentState], jax.Array] | None = None
    search: Search | None = None


def uniform(prior: ActionPrior) -> ActionPrior:
    """The same states with a uniform prior over the admissible actions.

    Examples:
      >>> prior = ActionPrior(jnp.log(jnp.array([0.9, 0.1, 0.0])), jnp.zeros((3, 1)))
      >>> print(jnp.exp(agents.uniform(prior).log_probs))
      [0.5 0.5 0. ]

    Args:
      prior: `log_probs` f32[..., A], `features` f32[..., A, D].
    """
    return prior._replace(log_probs=uniform_log_probs(prior.log_probs))


def uniform_log_probs(log_probs: jax.Array) -> jax.Array:
    """The uniform prior f32[..., A] over the actions that a prior f32[..., A] admits."""
    admissible = jnp.isfinite(log_probs)
    count = jnp.sum(admissible, axis=-1, keepdims=True)
    return jnp.where(admissible, -jnp.log(jnp.maximum(count, 1)), -jnp.inf)


def with_prior(agent: Agent, transform: Callable[[ActionPrior], ActionPrior]) -> Agent:
    """The same agent, with another prior in place of the language model's.

    Examples:
      >>> agent = agents.with_prior(agents.prior_alone(), agents.prior_transforms.reversed_order)
      >>> prior = ActionPrior(jnp.log(jnp.array([0.75, 0.25])), jnp.zeros((2, 1)))
      >>> print(jnp.exp(agent.policy((), prior).log_probs))
      [0.25 0.75]

    Args:
      agent: the agent.
      transform: `prior -> prior`, of one state or of a batch; see `prior_transforms`.
    """
    update, explore, candidates = agent.update, agent.explore, agent.candidates
    if explore is not None:
        act_so = explore.act
        explore = explore._replace(
            act=lambda state, key, prior, way: act_so(state, key, transform(prior), way)
        )
    if candidates is not None:
        draw = candidates.draw
        candidates = candidates._replace(
            draw=lambda state, key, prior: draw(state, key, transform(prior))
        )

    def transformed_update(
        state: AgentState, key: jax.Array, transitions: Transitions
    ) -> tuple[AgentState, Metrics]:
        assert update is not None
        prior, next_prior = transform(transitions.prior), transform(transitions.next_prior)
        return update(state, key, transitions._replace(prior=prior, next_prior=next_prior))

    def transformed_policy(state: AgentState, prior: ActionPrior) -> Policy:
        seen = transform(prior)
        policy = agent.policy(state, seen)
        return policy if policy.prior is not None else policy._replace(prior=seen.log_probs)

    return agent._replace(
        init=lambda key, prior: agent.init(key, transform(prior)),
        policy=transformed_policy,
        act=lambda state, key, prior: agent.act(state, key, transform(prior)),
        update=None if update is None else transformed_update,
        explore=explore,
        candidates=candidates,
    )


def greedy(agent: Agent) -> Agent:
    """The same agent, but it takes the likeliest action of its policy instead of sampling.

    Ties are broken at random.

    Examples:
      >>> agent = agents.greedy(agents.prior_alone())
      >>> prior = ActionPrior(jnp.log(jnp.array([0.4, 0.6])), jnp.zeros((2, 1)))
      >>> int(agent.act((), jax.random.key(0), prior))
      1
    """

    def act(state: AgentState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        return likeliest(key, agent.policy(state, prior).log_probs)

    search = None if agent.search is None else agent.search._replace(is_greedy=True)
    return agent._replace(act=act, search=search)


def best_of_candidates(agent: Agent, num_candidates: int) -> Agent:
    """The same agent, but it draws K candidates from its prior and takes the one of largest Q.

    The paper's tests act this way (Yan et al., 2025, arXiv 2410.07927, appendix). Of equal
    candidates the first is taken, so an agent without Q acts as its prior does.

    Examples:
      >>> agent = agents.best_of_candidates(agents.prior_alone(), num_candidates=5)
      >>> prior = ActionPrior(jnp.log(jnp.array([0.0, 1.0])), jnp.zeros((2, 1)))
      >>> int(agent.act((), jax.random.key(0), prior))
      1

    Args:
      agent: the agent.
      num_candidates: K.
    """

    def act(state: AgentState, key: jax.Array, prior: ActionPrior) -> jax.Array:
        policy = agent.policy(state, prior)
        acted_by = prior.log_probs if policy.prior is None else policy.prior
        candidates = sample_candidates(key, acted_by, num_candidates)
        return candidates[jnp.argmax(policy.q_values[candidates])]

    return agent._replace(act=act)


def likeliest(key: jax.Array, log_probs: jax.Array) -> jax.Array:
    """The likeliest of some actions f32[A], drawn where several are: i32[]."""
    is_best = log_probs == jnp.max(log_probs)
    return jax.random.categorical(key, jnp.where(is_best, 0.0, -jnp.inf))


def with_uniform_prior(agent: Agent) -> Agent:
    """The same agent, blind to what the language model prefers: DQN-Prior becomes DQN.

    Examples:
      >>> agent = agents.with_uniform_prior(agents.prior_alone())
      >>> prior = ActionPrior(jnp.log(jnp.array([0.75, 0.25])), jnp.zeros((2, 1)))
      >>> print(jnp.exp(agent.policy((), prior).log_probs))
      [0.5 0.5]
    """
    return with_prior(agent, uniform)


def prior_alone() -> Agent:
    """The agent that samples from the prior and learns nothing: the language model on its own.

    Examples:
      >>> prior = ActionPrior(jnp.log(jnp.array([0.0, 1.0])), jnp.zeros((2, 1)))
      >>> print(agents.prior_alone().act((), jax.random.key(0), prior))
      1
    """

    def policy(state: AgentState, prior: ActionPrior) -> Policy:
        del state
        return Policy(prior.log_probs, jnp.zeros_like(prior.log_probs))

    return Agent(
        init=lambda key, prior: (),
        policy=policy,
        act=lambda state, key, prior: jax.random.categorical(key, prior.log_probs),
        update=None,
    )
