"""Prompts that fit into a context: without the oldest of the history, if need be."""

from collections.abc import Callable

from llmprior_jax.priors.prompts.base import Builder, Prompt
from llmprior_jax.types import TextState


def fit(state: TextState, build: Builder, fits: Callable[[Prompt], bool]) -> Prompt:
    """Builds a prompt that can be read, without the oldest of the history if need be.

    Examples:
      >>> past = (("The kettle is empty.", "fill the kettle"),)
      >>> state = TextState("make tea", "The kettle is full.", past, ("boil the water", "wait"))
      >>> short = priors.prompts.fit(state, priors.prompts.plain, lambda p: len(p.text) < 60)
      >>> "empty" in short.text, "empty" in short.uncut
      (False, True)

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
    """A builder whose prompts fit; see `fit`.

    Examples:
      >>> model = priors.CachedModel("tiny")
      >>> build = priors.prompts.fitting(priors.prompts.plain, model.fits)
      >>> build(TextState("make tea", "The kettle is full.", (), ("wait",))).uncut is None
      True
    """
    return lambda state: fit(state, build, fits)


def room_for(prompt: Prompt, context: int, count_tokens: Callable[[str], int]) -> bool:
    """Whether a context of so many tokens has room for a prompt together with each action.

    Examples:
      >>> prompt = priors.Prompt("Make tea:", (" boil the water", " wait"))
      >>> words = lambda text: len(text.split())
      >>> priors.prompts.room_for(prompt, 5, words), priors.prompts.room_for(prompt, 4, words)
      (True, False)
    """
    room = context - count_tokens(prompt.text)
    # No token is less than a byte, so mostly the actions need not be tokenized.
    if room >= max((len(action.encode()) for action in prompt.actions), default=0):
        return True
    # A prompt without actions is itself to fit.
    return all(count_tokens(prompt.text + action) <= context for action in prompt.actions or [""])
