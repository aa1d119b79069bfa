"""The bodies of prompts: the text of a state itself.

Each text ends without a space and every action begins with one, because that is where the
tokenizers of Qwen and Llama put the boundary between words.
"""

from llmprior_jax.priors.prompts.base import Prompt
from llmprior_jax.types import TextState

_NEXT = "Next:"
_DECIDE = "You decide to"


def plain(state: TextState) -> Prompt:
    """Writes a state as plain lines that any model which continues text can go on with.

    Examples:
      >>> past = (("The kettle is empty.", "fill the kettle"),)
      >>> state = TextState("make tea", "The kettle is full.", past, ("boil the water", "wait"))
      >>> print(priors.prompts.plain(state).text)
      Task: make tea
      Seen: The kettle is empty.
      Done: fill the kettle
      Now: The kettle is full.
      Next:

    Args:
      state: the state; each earlier (observation, action) pair becomes a pair of lines.
    """
    return Prompt(f"{_situation(state)}{_NEXT}", _actions(state), cue=_NEXT)


def options(state: TextState) -> Prompt:
    """Writes a state as `plain` does, and lists the admissible actions before it asks.

    What is listed can be said in the words in which it is scored. The paper's own prompts list the
    actions, too.

    Examples:
      >>> state = TextState("make tea", "The kettle is full.", (), ("boil the water", "wait"))
      >>> print(priors.prompts.options(state).text)
      Task: make tea
      Now: The kettle is full.
      You can do one of these: boil the water; wait
      Next:

    Args:
      state: the state; one without actions lists none.
    """
    listed = f"You can do one of these: {'; '.join(state.actions)}\n" if state.actions else ""
    return Prompt(f"{_situation(state)}{listed}{_NEXT}", _actions(state), cue=_NEXT)


def story(state: TextState) -> Prompt:
    """Tells a state as a story in the second person, without labels.

    Models that were trained to continue text, and for nothing else, have read more stories than
    lists.

    Examples:
      >>> past = (("The kettle is empty.", "fill the kettle"),)
      >>> state = TextState("Make tea.", "The kettle is full.", past, ("boil the water", "wait"))
      >>> print(priors.prompts.story(state).text)
      You have a task. Make tea.
      <BLANKLINE>
      The kettle is empty. You decide to fill the kettle
      The kettle is full. You decide to

    Args:
      state: the state; task and observation get a full stop if they have no end.
    """
    past = "".join(f"{_decide(seen)} {action}\n" for seen, action in state.history)
    text = f"You have a task. {_sentence(state.task)}\n\n{past}{_decide(state.observation)}"
    return Prompt(text, _actions(state), cue=_DECIDE)


def _situation(state: TextState) -> str:
    seen = "".join(
        f"Seen: {observation}\nDone: {action}\n" for observation, action in state.history
    )
    return f"Task: {state.task}\n{seen}Now: {state.observation}\n"


def _decide(observation: str) -> str:
    return " ".join(filter(None, (_sentence(observation), _DECIDE)))


def _sentence(text: str) -> str:
    text = text.rstrip()
    return f"{text}." if text[-1:].isalnum() else text


def _actions(state: TextState) -> tuple[str, ...]:
    return tuple(f" {action}" for action in state.actions)
