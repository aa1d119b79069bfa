"""Prompts by name: words joined by "+", the body first, and then what is put around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmprior_jax.examples import Example
from llmprior_jax.priors.prompts.base import Builder, Prompt
from llmprior_jax.priors.prompts.bodies import options, plain, story
from llmprior_jax.priors.prompts.wrappers import chat, few_shot, think_first
from llmprior_jax.priors.tokens import literal
from llmprior_jax.registry import Registry, unknown_entry
from llmprior_jax.settings import PriorSettings
from llmprior_jax.types import TextState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FEW_SHOT, THINK_FIRST, _CHAT = "few_shot", "think_first", "chat"
# From the inside out: examples are episodes of acting, and a chat holds all that is said.
_AROUND = (FEW_SHOT, THINK_FIRST, _CHAT)
_PLAIN = "plain"
_BODIES: Registry[Callable[..., Prompt]] = Registry(
    "prompt", {_PLAIN: plain, "options": options, "story": story}
)


def names() -> tuple[str, ...]:
    """The words that names of prompts are made of: bodies, and what goes around them.

    Examples:
      >>> priors.prompts.names()
      ('plain', 'options', 'story', 'few_shot', 'think_first', 'chat')
    """
    return *_BODIES, *_AROUND


def register(name: str, builder: Callable[..., Prompt]) -> None:
    """Gives a body of your own a name for `make`, and so for runs.

    A run is evaluated by other processes, which do not import your file: there an import path,
    `my_module:builder`, serves better.

    Examples:
      >>> def terse(state):
      ...     actions = tuple(f" {action}" for action in state.actions)
      ...     return priors.Prompt(f"{state.observation} So I", actions)
      >>> priors.prompts.register("terse", terse)
      >>> build = priors.prompts.make("terse+think_first")
      >>> build(TextState("make tea", "The kettle is full.", (), ("boil it",))).text
      'The kettle is full. So I\\nThought:'

    Args:
      name: the name, which no prompt has yet.
      builder: makes the prompt of a state; it may take the tokenizer as its second argument.

    Raises:
      ValueError: another builder has that name, or it has a colon or a plus.
    """
    if name in _AROUND:
        raise ValueError(f"the prompt {name!r} is there already; choose another name")
    if "+" in name:
        raise ValueError(f"prompt {name!r} cannot be registered: a plus joins names; leave it out")
    _BODIES.register(name, builder)


def words(name: str) -> tuple[str, ...]:
    """What a prompt's name is made of, its body first.

    Examples:
      >>> priors.prompts.words("few_shot+chat")
      ('plain', 'few_shot', 'chat')
      >>> priors.prompts.words("chat+few_shot")
      Traceback (most recent call last):
      ValueError: ...

    Raises:
      ValueError: a word is unknown (the message has the nearest), too many, or in the wrong place.
    """
    said = name.split("+")
    for word in said:
        if ":" not in word and word not in names():
            raise ValueError(unknown_entry("prompt", word, names()))
    bodies = [word for word in said if word not in _AROUND]
    if len(bodies) > 1:
        raise ValueError(
            f"prompt {name!r} has {len(bodies)} bodies, {' and '.join(bodies)}; a state is written "
            "once: leave one"
        )
    around = [word for word in said if word in _AROUND]
    for word in around:
        if around.count(word) > 1:
            raise ValueError(f"prompt {name!r} has {word!r} twice; once is enough")
    right = [*bodies, *sorted(around, key=_AROUND.index)]
    if said != right:
        raise ValueError(
            f"prompt {name!r} has its words in another order than they are put together in; say "
            f"{'+'.join(right)!r}"
        )
    return (*(bodies or [_PLAIN]), *around)


def make(
    name: str,
    examples: Sequence[Example] = (),
    tokenizer: Callable[[], PreTrainedTokenizerFast] | None = None,
    system: str = PriorSettings.system,
) -> Builder:
    """The prompt builder of a name.

    Examples:
      >>> build = priors.prompts.make("story")
      >>> build(TextState("Make tea.", "The kettle is full.", (), ("boil the water",))).actions
      (' boil the water',)

    Args:
      name: a body ("plain", "options", "story", one that was registered, or an import path
        `my_module:builder`), and after it, joined by "+", what goes around it: "few_shot",
        "think_first", "chat". A name without a body has the body "plain".
      examples: what "few_shot" shows; no other prompt takes any.
      tokenizer: gives the tokenizer of the model that is asked, when a prompt is first made. With
        it, text of a state that looks like one of the model's special tokens is read as text
        (`tokens.literal`). "chat" needs it, and so does a builder that takes it.
      system: what "chat" tells the model before all.

    Raises:
      ValueError: there is no such builder, or it lacks examples or a tokenizer, or cannot use them.
    """
    body, *around = words(name)
    build = _as_builder(body, _BODIES[body], tokenizer)
    if FEW_SHOT in around:
        build = few_shot(build, tuple(examples))
    elif examples:
        raise ValueError(f"prompt {name!r} takes no examples; use few_shot for them")
    if THINK_FIRST in around:
        build = think_first(build)
    if _CHAT in around:
        if tokenizer is None:
            raise ValueError(f"prompt {name!r} needs the model's tokenizer; give it one")
        build = chat(build, tokenizer, system)
    return build


def _as_builder(
    name: str,
    function: Callable[..., Prompt],
    tokenizer: Callable[[], PreTrainedTokenizerFast] | None,
) -> Builder:
    """A function of a state of what may be a function of state and tokenizer, its result checked.

    Texts of the state are read as text.
    """
    takes = _num_required(name, function)
    if takes == 2 and tokenizer is None:
        raise ValueError(f"prompt {name!r} takes the model's tokenizer; give it one")

    def build(state: TextState) -> Prompt:
        own = ()
        if tokenizer is not None:
            reader = tokenizer()
            state = _read_as_text(state, functools.partial(literal, reader))
            own = (reader,) if takes == 2 else ()
        prompt = function(state, *own)
        if not isinstance(prompt, Prompt):
            raise TypeError(
                f"prompt {name!r} made {prompt!r:.60}; a builder returns a `priors.Prompt`"
            )
        if len(prompt.actions) != len(state.actions):
            raise ValueError(
                f"prompt {name!r} has {len(prompt.actions)} actions for the {len(state.actions)} "
                "of a state; a builder keeps all of them, in their order"
            )
        return prompt

    return build


def _num_required(name: str, function: Callable[..., Prompt]) -> int:
    """How many arguments a builder must be given: one, or two."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some callables have no signature to see.
        return 1
    positional = [
        each
        for each in parameters
        if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    takes = sum(each.default is each.empty for each in positional)
    takes_any = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    if takes == 0 and (positional or takes_any):
        return 1
    if takes not in (1, 2):
        raise ValueError(
            f"prompt {name!r} takes {takes} arguments; a builder takes a state, or a state and a "
            "tokenizer"
        )
    return takes


def _read_as_text(state: TextState, read: Callable[[str], str]) -> TextState:
    return TextState(
        read(state.task),
        read(state.observation),
        tuple((read(observation), read(action)) for observation, action in state.history),
        tuple(map(read, state.actions)),
    )
