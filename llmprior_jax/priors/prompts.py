"""From the text of a state to the prompt that a language model continues with an action.

A prompt builder is a small function from `TextState` to `Prompt`. There are `plain`, `few_shot` and
`think_first`; write your own as you like, and `register` it to give it a name. What is
scored is exactly `text + actions[i]`, so the builder decides about every space and line break.

Example:
  >>> state = TextState("Make tea.", "The kettle is empty.", (), ("fill the kettle", "wait"))
  >>> prompt = priors.prompts.plain(state)
  >>> prompt.actions
  (' fill the kettle', ' wait')
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmprior_jax.registry import Registry
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
    """

    text: str
    actions: tuple[str, ...]
    after_thought: str | None = None
    uncut: str | None = None

    def with_thought(self, thought: str) -> "Prompt":
        """What is asked once a thought is there: a prompt to act upon at once."""
        space = " " if thought else ""
        return Prompt(f"{self.text}{space}{thought}{self.after_thought}", self.actions)


class Example(NamedTuple):
    """An episode that ended well, to show a model how.

    Attributes:
      task: what was to be achieved.
      steps: (observation, action) pairs, oldest first.
    """

    task: str
    steps: tuple[tuple[str, str], ...]


Builder = Callable[[TextState], Prompt]


def plain(state: TextState) -> Prompt:
    """Writes a state as plain lines that any model which continues text can go on with.

    The text ends without a space and every action begins with one, because that is where the
    tokenizers of Qwen and Llama put the boundary between words.

    Examples:
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
    return Prompt(f"{_situation(state)}Next:", _actions(state))


def few_shot(state: TextState, examples: Sequence[Example]) -> Prompt:
    """Writes a state as `plain` does, after episodes that ended well.

    The episodes come first, in the words of the question, so that all states of a run have the same
    beginning, which is read once.

    Examples:
      Task: make coffee
      Now: The cup is empty.
      Next: take the pot
      Now: You hold the pot.
      Next: fill the cup

      Task: make tea
      Now: The kettle is full.
      Next: boil the water

    Args:
      state: the state.
      examples: the episodes, in the order in which they are to be read; the agent's own, say.

    Returns:
      The prompt.
    """
    shown = "".join(
        f"Task: {example.task}\n"
        + "".join(f"Now: {observation}\nNext: {action}\n" for observation, action in example.steps)
        + "\n"
        for example in examples
    )
    prompt = plain(state)
    return prompt._replace(text=shown + prompt.text)


def think_first(state: TextState) -> Prompt:
    """Writes a state as `plain` does, and has the model think before it acts.

    Chain of thought (Wei et al., 2022, arXiv 2201.11903), one line of it.

    Examples:
      Task: make tea
      Now: The kettle is full.
      Thought: Tea needs hot water.
      Next: boil the water

    Args:
      state: the state.

    Returns:
      The prompt.
    """
    return Prompt(f"{_situation(state)}Thought:", _actions(state), after_thought="\nNext:")


FEW_SHOT = "few_shot"


# `few_shot` takes examples as well; `make` gives them to it.
_BUILDERS: Registry[Callable[..., Prompt]] = Registry(
    "prompt", {"plain": plain, "think_first": think_first, FEW_SHOT: few_shot}
)


def names() -> tuple[str, ...]:
    """The names that `make` knows."""
    return tuple(_BUILDERS)


def register(name: str, builder: Builder) -> None:
    """Gives a prompt builder a name for `make`, and so for runs.

    Raises:
      ValueError: another builder has that name, or it has a colon, as import paths have.
    """
    _BUILDERS.register(name, builder)


def make(name: str, examples: Sequence[Example] = ()) -> Builder:
    """The prompt builder of a name.

    Args:
      name: "plain", "few_shot", "think_first", one that was registered, or an import path
        `my_module:builder`.
      examples: what "few_shot" shows; no other builder takes any.

    Raises:
      ValueError: there is no such builder, or it lacks examples, or cannot use them.
    """
    builder = _BUILDERS[name]
    if name == FEW_SHOT:
        if not examples:
            raise ValueError(
                "prompt 'few_shot' has no examples to show; give it some, or use plain"
            )
        return functools.partial(few_shot, examples=tuple(examples))
    if examples:
        raise ValueError(f"prompt {name!r} takes no examples; use few_shot for them")
    return builder


def _situation(state: TextState) -> str:
    seen = "".join(
        f"Seen: {observation}\nDone: {action}\n" for observation, action in state.history
    )
    return f"Task: {state.task}\n{seen}Now: {state.observation}\n"


def _actions(state: TextState) -> tuple[str, ...]:
    return tuple(f" {action}" for action in state.actions)


def fit(state: TextState, build: Builder, fits: Callable[[Prompt], bool]) -> Prompt:
    """Builds a prompt that can be read, without the oldest of the history if need be.

    Args:
      state: the state.
      build: what builds a prompt.
      fits: whether there is room for a prompt and its actions; see `room_for`.

    Returns:
      The prompt; `uncut` says what it would have been. A state that is too long without any history
      keeps its prompt; scoring it is an error that says so.
    """
    whole = prompt = build(state)
    left_out = 0
    while left_out < len(state.history) and not fits(prompt):
        left_out += 1
        prompt = build(state._replace(history=state.history[left_out:]))
    return prompt._replace(uncut=whole.text) if left_out else prompt


def fitting(build: Builder, fits: Callable[[Prompt], bool]) -> Builder:
    """A builder whose prompts fit; see `fit`."""
    return lambda state: fit(state, build, fits)


def room_for(prompt: Prompt, context: int, count_tokens: Callable[[str], int]) -> bool:
    """Whether a context of so many tokens has room for a prompt together with each action."""
    room = context - count_tokens(prompt.text)
    # No token is less than a byte, so mostly the actions need not be tokenized.
    if room >= max((len(action.encode()) for action in prompt.actions), default=0):
        return True
    # A prompt without actions is itself to fit.
    return all(count_tokens(prompt.text + action) <= context for action in prompt.actions or [""])
