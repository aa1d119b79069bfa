"""What travels between packages: a state as text, a prior as arrays, a policy as functions.

A `TextState` is all that a prompt is made of; environments write it, priors read it, and neither
needs to know the other. An `ActionPrior` is all that an agent sees of a language model, unless the
model is its policy: then it has a `LanguagePolicy`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class TextState(NamedTuple):
    """One state of an environment, as text (host side).

    Examples:
      >>> state = TextState("Make tea.", "The kettle is empty.", (), ("fill the kettle", "wait"))
      >>> state.actions[0]
      'fill the kettle'

    Attributes:
      task: what is to be achieved, e.g. a sentence that names the dish.
      observation: what is seen now.
      history: earlier (observation, action) pairs, oldest first.
      actions: the text of each admissible action; action `i` is `actions[i]`. An environment with
        `A` action slots and `n < A` admissible actions numbers the admissible ones `0 .. n-1`.
    """

    task: str
    observation: str
    history: tuple[tuple[str, str], ...] = ()
    actions: tuple[str, ...] = ()


class ActionPrior(NamedTuple):
    """A prior over the actions of one state or of a batch of states (device side).

    Examples:
      >>> prior = ActionPrior(jnp.log(jnp.array([0.75, 0.25])), features=jnp.zeros((2, 8)))
      >>> prior.log_probs.shape, prior.features.shape  # [A], [A, D]
      ((2,), (2, 8))

    Attributes:
      log_probs: f32[..., A], `log p(a|s)`, normalized over the actions; `-inf` where no action is.
      features: f32[..., A, D], a representation of (state, action) by a language model, from which
        Q is learned; zero where no action is.
      others: f32[..., J, A], log-probabilities of J further priors of the same actions, such as
        those of other models, for agents that weigh several (`agents.trust`); None is none.
      candidates: i32[..., K], actions drawn from the prior when the state was visited, for agents
        that act and learn on these (`agents.Candidates`); None is none.
    """

    log_probs: jax.Array
    features: jax.Array
    others: jax.Array | None = None
    candidates: jax.Array | None = None


def _whole(function: Callable[[Any, Any], Any], rows: Any, of_states: Any) -> Any:
    """All states are one part."""
    return function(rows, of_states)


class LanguagePolicy(NamedTuple):
    """A language model whose answers are a policy, as functions over arrays.

    Examples:
      >>> from llmprior_jax.priors.language_policy import language_policy
      >>> model = language_policy(models.load("tiny"), num_actions=2)
      >>> rows = model.read(["Task: wash the cup. Do:"], [[" go to the sink", " sleep"]])
      >>> params = model.init(jax.random.key(0))
      >>> log_probs, hidden = jax.eval_shape(model.apply, params, model.frozen, rows)
      >>> log_probs.shape, hidden.shape == (1, model.num_features)
      ((1, 2), True)

    Attributes:
      read: `(prompts, actions) -> rows`, what the model needs to know of some states (host side): a
        NamedTuple of arrays with a leading axis of states. Other states may need other sizes; zeros
        are padding in every field.
      init: `key -> params`, the parameters to be learned.
      apply: `(params, frozen, rows) -> (log_probs f32[B, A], hidden f32[B, D])` for B states: the
        policy, `-inf` where no action is, and a hidden state for a value head.
      frozen: parameters that are not learned; an argument of `apply`, because a large constant
        within a compiled function would be slow to compile.
      num_features: D.
      in_parts: `(function, rows, of_states) -> sums`: the sum of `function(rows, of_states)`, a
        pytree, over parts of B states. `of_states` is a pytree [B, ...]. A part is as large as a
        device holds the activations of at once, for a `function` that takes a gradient of `apply`.
    """

    read: Callable[[Sequence[str], Sequence[Sequence[str]]], Any]
    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]
    frozen: Any
    num_features: int
    in_parts: Callable[[Callable[[Any, Any], Any], Any, Any], Any] = _whole
