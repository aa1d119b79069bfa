"""How a language model comes to its prior over the actions of one state, token by token.

For people: scoring packs all actions of many states into few rows and keeps only totals; here each
action is read on its own, and every token of it is shown with its log-probability.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.models import LanguageModel
from llmprior_jax.priors.scoring.tokenizing import tokenize
from llmprior_jax.priors.tokens import must_be_decoder


class Token(NamedTuple):
    """A token of an action: its text, and `log p(token | all before it)` in nats.

    Examples:
      >>> priors.Token(" sink", log_prob=-0.1).text
      ' sink'
    """

    text: str
    log_prob: float


class Inspection(NamedTuple):
    """What a language model read, and the probability that it gave each continuation.

    Examples:
      >>> read = priors.inspect(models.load("tiny"), "Task: wash the cup.", [" go to the sink"])
      >>> "".join(token.text for token in read.actions[0])
      ' go to the sink'

    Attributes:
      prompt: the texts of the prompt's tokens, special ones included; where the first token of an
        action spans the end of the prompt, that end belongs to every action.
      actions: the tokens of each action.
    """

    prompt: tuple[str, ...]
    actions: tuple[tuple[Token, ...], ...]


def inspect(lm: LanguageModel, prompt: str, actions: Sequence[str]) -> Inspection:
    """Reads each action after the prompt, in a forward pass of its own.

    The log-probabilities of an action's tokens add up to its score in `score_actions` with the
    normalization "sum", before it is normalized over the list.

    Examples:
      >>> read = priors.inspect(models.load("tiny"), "Task: wash the cup.", [" go to the sink"])
      >>> sum(token.log_prob for token in read.actions[0]) < 0  # its score, in nats
      True

    Args:
      lm: a decoder-only language model.
      prompt: the text before the action.
      actions: A continuations.

    Raises:
      TypeError, ValueError: see `score_actions`.
    """
    must_be_decoder(lm.config, "this view of a prompt")
    (state,) = tokenize(lm, [prompt], [actions])
    scored = []
    first = len(state.head)
    for a in range(len(actions)):
        tokens = np.concatenate([state.head, state.tails.tokens[state.tails.path(a)]])
        before = np.arange(first - 1, len(tokens) - 1)  # A token is foretold by the one before it.
        log_probs = _log_probs_after(
            lm.graphdef, lm.params, _padded(tokens, 64), _padded(before, 8)
        )
        texts = [_text(lm, token) for token in tokens[first:]]
        pairs = zip(texts, log_probs[: len(texts)].tolist(), strict=True)
        scored.append(tuple(Token(*pair) for pair in pairs))
    return Inspection(tuple(_text(lm, token) for token in state.head), tuple(scored))


def _text(lm: LanguageModel, token: int) -> str:
    text = lm.tokenizer.decode([token])
    assert isinstance(text, str)  # a list only for a batch
    return text


def _padded(numbers: np.ndarray, multiple: int) -> np.ndarray:
    """Zeros up to a multiple of some length, so that few lengths are compiled."""
    return np.pad(numbers, (0, -len(numbers) % multiple))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs_after(
    graphdef: nnx.GraphDef[Any], params: Any, tokens: jax.Array, places: jax.Array
) -> jax.Array:
    """f32[n], the log-probability of the token after each place i32[n] in a text i32[L]."""
    decoder = nnx.merge(graphdef, params)
    length = tokens.shape[0]
    mask = jnp.tril(jnp.ones((1, length, length), bool))
    hidden = decoder(tokens[None], jnp.arange(length)[None], mask)[0]
    log_probs = jax.nn.log_softmax(decoder.logits(hidden[places]).astype(jnp.float32))
    return jnp.take_along_axis(log_probs, tokens[places + 1][:, None], axis=1)[:, 0]
