"""What a language model is asked about one state, and what builds it."""

from collections.abc import Callable
from typing import NamedTuple

from llmprior_jax.types import TextState


class Prompt(NamedTuple):
    """What a language model is asked about one state.

    Examples:
      >>> prompt = priors.Prompt("Task: make tea.", (" fill the kettle", " wait"))
      >>> prompt.text + prompt.actions[0]
      'Task: make tea. fill the kettle'

    Attributes:
      text: what comes before the action, or before the thought.
      actions: what may follow; action `i` of the state is `actions[i]`.
      after_thought: None for a model that acts at once. Otherwise the model first continues `text`
        with a thought, and this stands between the thought and the action.
      uncut: the text with all of the history, where `text` is without its oldest part (`fit`); None
        where nothing was left out.
      cue: the end of `text` that asks for the action, such as "Next:", so that a thought can be
        asked for before; empty where nothing does.
    """

    text: str
    actions: tuple[str, ...]
    after_thought: str | None = None
    uncut: str | None = None
    cue: str = ""

    def with_thought(self, thought: str) -> "Prompt":
        """What is asked once a thought is there: a prompt to act upon at once."""
        space = " " if thought else ""
        return Prompt(f"{self.text}{space}{thought}{self.after_thought}", self.actions)


Builder = Callable[[TextState], Prompt]
"""Makes the prompt of a state."""
