"""From the text of a state to the prompt that a language model continues with an action.

A prompt builder is a small function from `TextState`, and optionally the tokenizer, to `Prompt`. A
body writes the state: `plain`, `options`, `story`, or your own by name or import path. Wrappers are
added around it: `few_shot`, `think_first` or `chat`. A name lists them all, from left to right:
"options+few_shot+chat". Exactly `text + actions[i]` is scored, so the builder decides about every
space and line break.

Example:
  >>> state = TextState("Make tea.", "The kettle is empty.", (), ("fill the kettle", "wait"))
  >>> prompt = priors.prompts.make("options")(state)
  >>> prompt.actions
  (' fill the kettle', ' wait')
"""

from llmprior_jax.examples import Example, read_examples, write_examples
from llmprior_jax.priors.prompts.base import Builder, Prompt
from llmprior_jax.priors.prompts.bodies import options, plain, story
from llmprior_jax.priors.prompts.naming import FEW_SHOT, THINK_FIRST, make, names, register, words
from llmprior_jax.priors.prompts.room import fit, fitting, room_for
from llmprior_jax.priors.prompts.wrappers import chat, few_shot, think_first

__all__ = [
    "FEW_SHOT",
    "THINK_FIRST",
    "Builder",
    "Example",
    "Prompt",
    "chat",
    "few_shot",
    "fit",
    "fitting",
    "make",
    "names",
    "options",
    "plain",
    "read_examples",
    "register",
    "room_for",
    "story",
    "think_first",
    "words",
    "write_examples",
]
