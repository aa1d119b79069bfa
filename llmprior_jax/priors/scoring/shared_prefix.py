"""The head of prompts, such as instructions and examples: read once, its keys and values kept.

What all prompts of a call begin with need not be read again in every row. It is read alone, in a
pass of its own, so its keys and values depend on its tokens only and can be kept for the next call
with the same head.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.models import KVCache, LanguageModel
from llmprior_jax.priors.scoring.packing import Sequences, common_prefix, sort_key

# What is found in common is worth a pass of its own from here on.
_SHORTEST_FOUND = 64
# Heads kept for a model: one for each task that takes turns.
_MOST_KEPT = 4


def find(states: Sequence[Sequences]) -> int:
    """Length of the head that several states have in common, 0 if it is not worth reading apart.

    It is one of few lengths, so that calls with a little more or less in common share a shape.
    """
    if len(states) < 2:
        return 0
    heads = [state.head for state in states]
    # The least and the greatest of sorted texts differ first.
    in_common = common_prefix(min(heads, key=sort_key), max(heads, key=sort_key))
    longest = longest_possible(states, in_common)
    if longest < _SHORTEST_FOUND:
        return 0
    step = (1 << (longest.bit_length() - 1)) // 2  # Two lengths to each doubling.
    return longest // step * step


def longest_possible(states: Sequence[Sequences], length: int) -> int:
    """The most of `length` tokens that stand before the last token of every state's head."""
    # The last one is read with the actions, whose first tokens it predicts.
    return max(0, min(length, *(len(state.head) - 1 for state in states)))


def without(states: Sequence[Sequences], length: int) -> list[Sequences]:
    """The texts of states after a head of so many tokens."""
    return [state._replace(head=state.head[length:]) for state in states]


def read(lm: LanguageModel, tokens: np.ndarray) -> KVCache:
    """Keys and values of a head i32[H], one row of H slots; kept with the model for next time."""
    kept = lm.kept.setdefault("prefixes", {})
    name = tokens.tobytes()
    head = kept.pop(name, None)
    if head is None:
        head = _read(lm.graphdef, lm.params, tokens[None])
    kept[name] = head  # Last in order of use.
    while len(kept) > _MOST_KEPT:
        del kept[next(iter(kept))]
    return head


@functools.partial(jax.jit, static_argnames="graphdef")
def _read(graphdef: nnx.GraphDef[Any], params: Any, tokens: jax.Array) -> KVCache:
    decoder = nnx.merge(graphdef, params)
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((1, length, length), bool))
    positions = jnp.arange(length)[None]
    _, cache = decoder.extend(tokens, positions, causal, decoder.new_cache(1, length), 0)
    return cache
