"""From the text of a state to the prompt that a language model continues with an action.

A prompt builder is a small function from `TextState` to `Prompt`; write your own as you like. What
is scored is exactly `text + actions[i]`, so the builder decides about every space and line break.
"""

from typing import NamedTuple

from llmprior_jax.types import TextState


class Prompt(NamedTuple):
    """What a language model is asked about one state.

    Attributes:
      text: what comes before the action.
      actions: what may follow; action `i` of the state is `actions[i]`.
    """

    text: str
    actions: tuple[str, ...]


def plain(state: TextState) -> Prompt:
    """Writes a state as plain lines that any model which continues text can go on with.

    The text ends without a space and every action begins with one, because that is where the
    tokenizers of Qwen and Llama put the boundary between words.

    Example:
      Task: make tea
      Seen: The kettle is empty.
      Done: fill the kettle
      Now: The kettle is full.
      Next: boil the water

    Args:
      state: the state; each earlier (observation, action) pair becomes a pair of lines.

    Returns:
      The prompt.
    """
    seen = "".join(
        f"Seen: {observation}\nDone: {action}\n" for observation, action in state.history
    )
    return Prompt(
        text=f"Task: {state.task}\n{seen}Now: {state.observation}\nNext:",
        actions=tuple(f" {action}" for action in state.actions),
    )
