"""Search on a prior: Monte Carlo tree search guided by log p(a|s), with Q at the leaves.

An agent that acts by the posterior `p(a|s) exp(Q(s,a)/alpha)` looks no step ahead. Where the world
itself can be stepped from a state, simulations make a better Q of the actions at hand, and the
agent acts by the posterior of that. Two policies choose what a simulation tries:

- "gumbel" is Gumbel MuZero's (Danihelka et al., 2022, "Policy improvement by planning with
  Gumbel"), which transforms Q to `Q/alpha` here. Then its action, `argmax g + log p + Q/alpha` with
  Gumbel noise g, is a sample of the posterior: search changes Q, and nothing else.
- "puct" is AlphaZero's (Silver et al., 2018), without noise at the root. It hardly tries what the
  prior thinks unlikely.

A leaf is worth what a rollout by the agent's own policy brings, and Q's soft value where that ends.
The rollout is what keeps search from doing harm: Q alone is wrong in states that the agent hardly
ever saw, and a search goes where Q is too high. The trees are those of mctx (DeepMind's
`google-deepmind/mctx`).

What is searched in is the true world, its hidden parts too, and no learned model. An agent without
search is not given that, so the two are no fair race.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mctx

from llmprior_jax import posterior, ranges
from llmprior_jax.agents.agent import Agent, Search
from llmprior_jax.agents.dqn_prior import dqn_prior
from llmprior_jax.agents.temperature import Temperature
from llmprior_jax.bellman import Backup

# Its types are chex's, which JAX's arrays alone are not.
_mctx: Any = mctx
_TREE_POLICIES = _GUMBEL, _ = "gumbel", "puct"
# Actions of the root that "gumbel" tries at most, as in the paper.
_MOST_CONSIDERED = 16


class Sight(NamedTuple):
    """What is known of one state.

    Attributes:
      log_probs: f32[A], the prior, `-inf` where no action is.
      q_values: f32[A], Q; of no account where the agent has none, or the state is not known.
      is_known: bool[], whether prior and Q are those of this very state.
    """

    log_probs: jax.Array
    q_values: jax.Array
    is_known: jax.Array


class World(NamedTuple):
    """What an agent searches in, as pure functions of one state, which is any pytree.

    Attributes:
      step: `(key, state, action) -> (state, reward f32[], terminated bool[])`. It goes on beyond a
        time limit, which is no part of the task.
      see: `state -> Sight`.
      alpha: f32[], temperature of the posterior.
      has_values: whether `Sight.q_values` are estimates of the return.
    """

    step: Callable[[jax.Array, Any, jax.Array], tuple[Any, jax.Array, jax.Array]]
    see: Callable[[Any], Sight]
    alpha: jax.Array
    has_values: bool


class Found(NamedTuple):
    """What a search found in one state.

    Attributes:
      action: i32[], what to do.
      log_probs: f32[A], the improved policy, `-inf` where no action is.
      q_values: f32[A], Q as searched; of actions that were not tried, the agent's Q, or without one
        the mean of all simulations.
      visits: i32[A], simulations that began with each action.
    """

    action: jax.Array
    log_probs: jax.Array
    q_values: jax.Array
    visits: jax.Array


def search_prior(
    *,
    simulations: int = 32,
    tree_policy: str = "gumbel",
    rollout_steps: int = 16,
    alpha: float | Temperature = 0.03,
    backup: Backup = "posterior",
    num_candidates: int | None = None,
    discount: float = 0.95,
    learning_rate: float = 1e-3,
    target_rate: float = 0.01,
    max_grad_norm: float = 10.0,
    hidden_sizes: Sequence[int] = (64, 64),
) -> Agent:
    """DQN-Prior that searches before it acts, in evaluations and while it learns.

    It learns Q by the loss of `dqn_prior`, and uses the prior as is. A run's evaluations search;
    `act` itself acts by Q alone.

    Examples:
      >>> agent = agents.search_prior(simulations=8, alpha=0.1)
      >>> agent.search.simulations
      8

    Args:
      simulations: of each search, at least 1.
      tree_policy: see above.
      rollout_steps: see `with_search`.
      alpha, backup, num_candidates, discount, learning_rate, target_rate, max_grad_norm,
        hidden_sizes: see `dqn_prior`. Candidates are drawn for the loss only.

    Raises:
      ValueError: a parameter is out of its range.
    """
    agent = dqn_prior(
        alpha=alpha,
        backup=backup,
        num_candidates=num_candidates,
        discount=discount,
        learning_rate=learning_rate,
        target_rate=target_rate,
        max_grad_norm=max_grad_norm,
        hidden_sizes=hidden_sizes,
    )
    return with_search(
        agent,
        simulations=simulations,
        tree_policy=tree_policy,
        rollout_steps=rollout_steps,
        discount=discount,
    )


def with_search(
    agent: Agent,
    *,
    simulations: int = 32,
    tree_policy: str = "gumbel",
    rollout_steps: int = 16,
    alpha: float = 0.03,
    discount: float = 0.95,
) -> Agent:
    """The same agent, but it searches before it acts.

    From each leaf it acts by its own policy for some steps, and adds Q's soft value of the last
    state. An agent without Q, such as the prior alone, uses only the rewards of these steps.

    Examples:
      >>> agent = agents.with_search(agents.prior_alone(), simulations=64)
      >>> agent.search.tree_policy
      'gumbel'

    Args:
      agent: the agent.
      simulations: of each search, at least 1.
      tree_policy: what they try, "gumbel" or "puct".
      rollout_steps: steps from each leaf, at least 1. An agent with Q ends them where it comes to a
        state of which nothing is known.
      alpha: temperature of the posterior for such an agent; others have their own.
      discount: per decision.

    Raises:
      ValueError: a parameter is out of its range.
    """
    ranges.WIDTH.check("simulations", simulations)
    ranges.WIDTH.check("rollout_steps", rollout_steps)
    ranges.POSITIVE.check("alpha", alpha)
    ranges.SHARE.check("discount", discount)
    check_tree_policy(tree_policy)
    return agent._replace(search=Search(simulations, tree_policy, rollout_steps, alpha, discount))


def check_tree_policy(name: str) -> None:
    """Raises a ValueError unless simulations can be chosen so."""
    if name not in _TREE_POLICIES:
        raise ValueError(f"tree_policy is {name!r}; use one of {', '.join(_TREE_POLICIES)}")


def search(key: jax.Array, how: Search, world: World, state: Any) -> Found:
    """Searches from one state (vmap for more).

    Each action of a node is stepped once, when it is first tried: where steps are random, the tree
    has one sample of what may come of it, and overrates the lucky ones.

    Examples:
      >>> from llmprior_jax.agents.search_prior import Sight, World, search
      >>> def step(key, state, action):  # only the action 1 is worth something, in every state
      ...     return state, jnp.float32(action == 1), jnp.array(True)
      >>> prior = jnp.log(jnp.array([0.9, 0.1, 0.0]))
      >>> world = World(
      ...     step, lambda state: Sight(prior, jnp.zeros(3), True), jnp.float32(0.1), False
      ... )
      >>> how = agents.with_search(agents.prior_alone(), simulations=4).search
      >>> found = search(jax.random.key(0), how, world, jnp.int32(0))
      >>> print(found.action, found.q_values[:2])
      1 [0. 1.]

    Args:
      key: randomness of the search and of the steps in it.
      how: see `with_search`.
      world: what is searched in.
      state: where the search begins; its prior is to be known.
    """
    root_key, tree_key = jax.random.split(key)
    discount = how.discount

    def see(state: Any, expected: jax.Array) -> tuple[Sight, jax.Array, jax.Array]:
        """What is known of a state, what to do f32[A], and its value f32[] as the agent has it.

        `expected` f32[] is what its parent takes it for: the value where nothing is known of it.
        """
        sight = world.see(state)
        if not world.has_values:
            return sight, sight.log_probs, jnp.zeros(())
        q_values = jnp.where(sight.is_known, sight.q_values, expected)
        value = posterior.soft_value(sight.log_probs, q_values, world.alpha)
        policy = posterior.posterior_log_probs(sight.log_probs, q_values, world.alpha)
        return sight._replace(q_values=q_values), policy, value

    def expectation(sight: Sight, action: jax.Array, reward: jax.Array) -> jax.Array:
        """What an agent with values takes the next state for, f32[]."""
        return (sight.q_values[action] - reward) / discount if discount else jnp.zeros(())

    def rollout(key: jax.Array, state: Any, expected: jax.Array) -> jax.Array:
        """The value f32[] of a state by acting on from it."""

        def go_on(carry: Any, key: jax.Array) -> tuple[Any, None]:
            state, expected, value, weight = carry
            sight, policy, own = see(state, expected)
            if world.has_values:
                # What follows a state of which nothing is known says nothing of it.
                value += jnp.where(sight.is_known, 0.0, weight * own)
                weight = jnp.where(sight.is_known, weight, 0.0)
            act_key, step_key = jax.random.split(key)
            action = jax.random.categorical(act_key, policy)
            state, reward, terminated = world.step(step_key, state, action)
            expected = expectation(sight, action, reward)
            value += weight * reward
            return (state, expected, value, weight * discount * (1.0 - terminated)), None

        start = state, expected, jnp.zeros(()), jnp.ones(())
        keys = jax.random.split(key, how.rollout_steps)
        (state, expected, value, weight), _ = jax.lax.scan(go_on, start, keys)
        return value + weight * see(state, expected)[2]

    def expand(params: Any, key: jax.Array, actions: jax.Array, nodes: _Node) -> Any:
        del params
        node, action = jax.tree.map(lambda leaf: leaf[0], (nodes, actions))
        step_key, leaf_key = jax.random.split(key)
        state, reward, terminated = world.step(step_key, node.state, action)
        expected = expectation(node.sight, action, reward)
        sight, _, _ = see(state, expected)
        value = rollout(leaf_key, state, expected)
        is_over = node.is_over | terminated
        output = _mctx.RecurrentFnOutput(
            reward=jnp.where(node.is_over, 0.0, reward),
            discount=jnp.where(is_over, 0.0, discount),
            prior_logits=_as_logits(sight.log_probs),
            value=jnp.where(is_over, 0.0, value),
        )
        return _batch_of_one((output, _Node(state, sight, is_over)))

    def q_values(tree: Any, node: jax.Array) -> jax.Array:
        own = tree.embeddings.sight.q_values if world.has_values else tree.node_values[:, None]
        return jnp.where(tree.children_visits[node] > 0, tree.qvalues(node), own[node])

    sight, _, _ = see(state, jnp.zeros(()))
    value = rollout(root_key, state, jnp.zeros(()))
    is_action = jnp.isfinite(sight.log_probs)
    node = _Node(state, sight, jnp.zeros((), bool))
    root = _mctx.RootFnOutput(prior_logits=_as_logits(sight.log_probs), value=value, embedding=node)
    root, is_none = _batch_of_one((root, ~is_action))
    if how.tree_policy == _GUMBEL:
        plan = functools.partial(
            _mctx.gumbel_muzero_policy,
            qtransform=lambda tree, node: q_values(tree, node) / world.alpha,
            max_num_considered_actions=_MOST_CONSIDERED,
            gumbel_scale=0.0 if how.is_greedy else 1.0,
        )
    else:
        temperature = 0.0 if how.is_greedy else 1.0
        plan = functools.partial(
            _mctx.muzero_policy, dirichlet_fraction=0.0, temperature=temperature
        )
    output = plan((), tree_key, root, expand, how.simulations, is_none)
    tree = jax.tree.map(lambda leaf: leaf[0], output.search_tree)
    return Found(
        action=output.action[0],
        log_probs=jnp.where(is_action, jnp.log(output.action_weights[0]), -jnp.inf),
        q_values=q_values(tree, jnp.int32(tree.ROOT_INDEX)),
        visits=tree.children_visits[tree.ROOT_INDEX],
    )


class _Node(NamedTuple):
    """A state in the tree.

    Attributes:
      state: of the world.
      sight: what is known of it.
      is_over: bool[], whether the episode has ended, here or before.
    """

    state: Any
    sight: Sight
    is_over: jax.Array


def _batch_of_one(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def _as_logits(log_probs: jax.Array) -> jax.Array:
    """Log-probabilities f32[A] without infinities, of which mctx makes NaN."""
    return jnp.maximum(log_probs, jnp.finfo(jnp.float32).min / 4)
