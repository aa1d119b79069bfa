"""The two things that travel between packages: a state as text, and a prior as arrays.

A `TextState` is all that a prompt is made of; environments write it, priors read it, and neither
needs to know the other. An `ActionPrior` is all that an agent sees of a language model.
"""

from typing import NamedTuple

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
      features: f32[..., A, D], what the language model makes of (state, action); zero where no
        action is.
    """

    log_probs: jax.Array
    features: jax.Array
