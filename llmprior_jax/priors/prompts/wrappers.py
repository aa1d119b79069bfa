"""What is put around the body of a prompt: examples before it, a thought after it, a chat's marks.

Each function takes a builder and returns a builder.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llmprior_jax.examples import Example
from llmprior_jax.priors.prompts.base import Builder, Prompt
from llmprior_jax.priors.tokens import literal
from llmprior_jax.settings import PriorSettings
from llmprior_jax.types import TextState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_THOUGHT, _NEXT = "Thought:", "Next:"
_ANOTHER = "And "
# A template that asks for the date gets this one, which Llama's own template has where there is no
# clock: a text is scored once, and is to be the same on other days.
_DATE = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"


def few_shot(body: Builder, examples: Sequence[Example]) -> Builder:
    """Puts episodes that ended well before a state.

    Each step is the body's text for that step, followed by what was done. Lines that an episode's
    texts begin with whatever is seen, such as the task, are said once. The episodes come first, in
    the words of the question, so that all states of a run have the same beginning, which is read
    once.

    Examples:
      >>> steps = (("The cup is empty.", "take the pot"), ("You hold the pot.", "fill the cup"))
      >>> shown = [priors.prompts.Example("make coffee", steps)]
      >>> build = priors.prompts.few_shot(priors.prompts.plain, shown)
      >>> print(build(TextState("make tea", "The kettle is full.", (), ("boil the water",))).text)
      Task: make coffee
      Now: The cup is empty.
      Next: take the pot
      Now: You hold the pot.
      Next: fill the cup
      <BLANKLINE>
      Task: make tea
      Now: The kettle is full.
      Next:

    Args:
      body: writes each state; its model acts at once.
      examples: the episodes, in the order in which they are to be read; the agent's own, say.

    Raises:
      ValueError: there are no examples; or, of what it returns, the body asks for a thought.
    """
    if not examples:
        raise ValueError(
            "prompt 'few_shot' has no examples to show; give it some, or use another prompt"
        )
    # Not before it is needed: a body may load a tokenizer.
    shown = functools.cache(lambda: "".join(_episode(body, example) for example in examples))

    def build(state: TextState) -> Prompt:
        prompt = body(state)
        return prompt._replace(text=shown() + prompt.text)

    return build


def think_first(body: Builder) -> Builder:
    """Has the model think before it acts.

    Chain of thought (Wei et al., 2022, arXiv 2201.11903), one line of it.

    Examples:
      >>> build = priors.prompts.think_first(priors.prompts.plain)
      >>> prompt = build(TextState("make tea", "The kettle is full.", (), ("boil the water",)))
      >>> print(prompt.with_thought("Tea needs hot water.").text)
      Task: make tea
      Now: The kettle is full.
      Thought: Tea needs hot water.
      Next:

    Args:
      body: writes the state. The end that asks for the action (`Prompt.cue`) moves behind the
        thought; without one it is "Next:".

    Raises:
      ValueError: of what it returns: the body asks for a thought itself.
    """

    def build(state: TextState) -> Prompt:
        prompt = _acting(body(state), "think_first")
        situation = prompt.text.removesuffix(prompt.cue)
        if situation and not situation.endswith("\n"):
            situation = f"{situation.rstrip()}\n"
        actions = prompt.actions
        if not prompt.cue:  # Then the actions follow upon ours.
            actions = tuple(a if a[:1].isspace() else f" {a}" for a in actions)
        return prompt._replace(
            text=f"{situation}{_THOUGHT}",
            actions=actions,
            after_thought=f"\n{prompt.cue or _NEXT}",
            cue=_THOUGHT,
        )

    return build


def chat(
    body: Builder,
    tokenizer: Callable[[], PreTrainedTokenizerFast],
    system: str = PriorSettings.system,
) -> Builder:
    r"""Asks in the language model's own chat format, for models that were trained to answer.

    The body is what the user says, up to what asks for the action (`Prompt.cue`) or the thought.
    With that the answer begins, since a model left to itself begins with a capital letter or a
    courtesy, and no action does. After a body without a cue the action is the whole answer, without
    the space before it. The template (Jinja) comes with the tokenizer and is run by transformers in
    its sandbox; today's date it is not told.

    Examples:
      >>> tokenizer = models.load_tokenizer("tiny")
      >>> tokenizer.chat_template = (  # Models that were trained to answer bring theirs.
      ...     "{% for each in messages %}[{{ each.role }}]{{ each.content }}{% endfor %}[assistant]"
      ... )
      >>> build = priors.prompts.chat(priors.prompts.plain, lambda: tokenizer, "Be brief.")
      >>> prompt = build(TextState("make tea", "The kettle is full.", (), ("boil the water",)))
      >>> prompt.text
      '[system]Be brief.[user]Task: make tea\nNow: The kettle is full.[assistant]Next:'
      >>> prompt.actions
      (' boil the water',)

    Args:
      body: writes the state.
      tokenizer: gives the model's tokenizer when it is first needed.
      system: what the model is told before all; the user says it where the template has no place
        for it. Empty for nothing.

    Raises:
      ValueError: of what it returns: the model has no template, or the template fails.
    """

    def build(state: TextState) -> Prompt:
        prompt = body(state)
        said = prompt.text.removesuffix(prompt.cue).rstrip()
        actions = prompt.actions
        if not prompt.cue and prompt.after_thought is None:
            actions = tuple(action.removeprefix(" ") for action in actions)
        text = f"{_render(tokenizer(), system, said)}{prompt.cue}"
        return prompt._replace(text=text, actions=actions)

    return build


def _episode(body: Builder, example: Example) -> str:
    """An example as text: what the body says of each step, and what was done there."""
    written: list[str] = []
    for index, (observation, action) in enumerate(example.steps):
        options = example.options[index] if example.options else ()
        state = TextState(example.task, observation, (), options)
        text = _acting(body(state), "few_shot").text
        (done,) = body(state._replace(actions=(action,))).actions
        if written:
            another = body(state._replace(observation=_ANOTHER + observation)).text
            text = text.removeprefix(_common_lines(text, another, written[0]))
        written.append(f"{text}{done}\n")
    return "".join(written) + "\n"


def _common_lines(*texts: str) -> str:
    """The whole lines that all texts begin with."""
    lines = zip(*(text.split("\n")[:-1] for text in texts), strict=False)
    return "".join(f"{same[0]}\n" for same in itertools.takewhile(lambda s: len({*s}) == 1, lines))


def _acting(prompt: Prompt, wrapper: str) -> Prompt:
    if prompt.after_thought is not None:
        raise ValueError(
            f"{wrapper!r} goes around prompts that ask for an action at once, and this one asks "
            "for a thought before"
        )
    return prompt


def _render(tokenizer: PreTrainedTokenizerFast, system: str, said: str) -> str:
    """A chat up to where the model's answer begins."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "prompt 'chat' needs a language model with a chat template, and this one's tokenizer "
            "has none: use a prompt without 'chat', or a model that was trained to answer "
            "(-Instruct, -it)"
        )
    system = literal(tokenizer, system)
    turns = [[_message("user", "\n\n".join(filter(None, (system, said))))]]
    if system:
        turns.insert(0, [_message("system", system), _message("user", said)])
    template, problem = str(tokenizer.get_chat_template()), ""
    if "strftime_now" in template:
        template = _DATE + template
    for messages in turns:  # Some templates refuse what a system says, and some drop it.
        try:
            text: Any = tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except Exception as error:  # A template is foreign code.
            problem = f"{type(error).__name__}: {error}"
            continue
        if all(part.strip() in text for part in (system, said)):
            return text
        problem = "it leaves out what is said to it"
    raise ValueError(
        f"prompt 'chat': the language model's chat template fails ({problem}); use a prompt "
        "without 'chat', or mend the template"
    )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
