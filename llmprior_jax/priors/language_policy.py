"""A language model as a policy: log pi(a|s), as a function of parameters that are learned.

A prior is asked once for each text and then looked up. A policy changes with every update, so what
can be prepared once is its reading matter: the tokens of each state's prompt and actions, laid out
in one row per state. A batch of states is then a gather of rows and a forward pass, which is
differentiable in the parameters. Before any learning the policy is the prior that `score` gives
with the same model, normalization and temperature.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.models import LanguageModel, lora
from llmprior_jax.posterior import normalize
from llmprior_jax.priors import table as tables
from llmprior_jax.priors.scoring import packing, score, sizes
from llmprior_jax.priors.scoring.tokenizing import tokenize
from llmprior_jax.ranges import WIDTH_OR_ZERO
from llmprior_jax.types import LanguagePolicy

# Logits held at once: of more states than this many fit, they are computed a few states at a time,
# in the backward pass again (67 MB in float32).
_LOGITS_AT_ONCE = 1 << 24
# Activations held for the backward pass: of more rows than these are of, they are computed a row at
# a time, in the backward pass again.
_ACTIVATIONS_AT_ONCE = 1 << 31  # bytes
# Lengths at which long rows are read, up to that of the longest.
_LENGTHS = 4


class Rows(NamedTuple):
    """States as a language model reads them, a row of L tokens for each of M states.

    A row is a trie of the state's texts (`packing`). Zeros are padding in every field.

    Attributes:
      tokens: i32[M, L].
      positions: i32[M, L], the position of each token in its texts.
      ends: i32[M, L], one past the last descendant of each token.
      queries: i32[M, Q], the tokens whose next-token distribution is needed.
      action_tokens: i32[M, A, T], the tokens of each action.
      action_queries: i32[M, A, T], for each of them the index in `queries` of the token before it,
        plus one.
      divisor: f32[M, A], what the log-probability of an action's text is divided by
        (`normalization`); 0 where no action is.
      last: i32[M], the last token of the prompt, as far as all actions share it.
      prompt: i32[M, S], what an encoder reads before; S is 0 for a decoder, whose texts begin with
        the prompt.
      prompt_length: i32[M], how many of those tokens are text.
    """

    tokens: np.ndarray | jax.Array
    positions: np.ndarray | jax.Array
    ends: np.ndarray | jax.Array
    queries: np.ndarray | jax.Array
    action_tokens: np.ndarray | jax.Array
    action_queries: np.ndarray | jax.Array
    divisor: np.ndarray | jax.Array
    last: np.ndarray | jax.Array
    prompt: np.ndarray | jax.Array
    prompt_length: np.ndarray | jax.Array


def language_policy(
    lm: LanguageModel,
    num_actions: int,
    normalization: str = "sum",
    temperature: float = 1.0,
    lora_rank: int = 0,
) -> LanguagePolicy:
    """Makes a policy of a language model, a decoder or an encoder-decoder (T5, Flan-T5).

    The hidden state for a value head is the one from which the action's first token is predicted:
    it has read the whole state, and no action yet. In a decoder that is the prompt's last token, in
    an encoder-decoder the start token of the answer.

    Args:
      lm: the language model.
      num_actions: A, the action slots of a state.
      normalization: see `score_actions`.
      temperature: see `score_actions`.
      lora_rank: rank of the low-rank adaptation (`models.lora`) of all linear layers; 0 learns all
        parameters instead.

    Raises:
      ValueError: the normalization is unknown, the temperature not positive, or the rank negative.
    """
    score.check_options(normalization, temperature)
    WIDTH_OR_ZERO.check("lora_rank", lora_rank, ", where 0 is full fine-tuning")
    merge = lora.merge if lora_rank else lambda frozen, params: params

    return LanguagePolicy(
        read=functools.partial(_read, lm, num_actions, normalization),
        init=(lambda key: lora.init(key, lm.params, lora_rank))
        if lora_rank
        else (lambda key: lm.params),
        apply=lambda params, frozen, rows: _apply(
            nnx.merge(lm.graphdef, merge(frozen, params)), rows, temperature
        ),
        frozen=lm.params if lora_rank else (),
        num_features=lm.config.hidden_size,
        in_parts=functools.partial(_in_parts, lm.config),
    )


def put(rows: Any, place: np.ndarray, new: Any, capacity: int) -> Any:
    """Puts states among those on the device (host side).

    That takes time for the new ones alone, unless the arrays must grow.

    Args:
      rows: states and padding, as this function gave them: they are used up, donated to those
        returned. None where there are no states yet.
      place: i32[M], where the new states belong.
      new: M states, as `LanguagePolicy.read` gives them.
      capacity: states to have room for, more than any place.

    Returns:
      The states in their places, and padding: [capacity, ...], large enough for every state.
    """
    if rows is None:
        rows = jax.tree.map(lambda field: jnp.zeros((0, *field.shape[1:]), field.dtype), new)

    def enlarged(field: jax.Array, other: np.ndarray) -> jax.Array:
        shape = capacity, *np.maximum(field.shape[1:], other.shape[1:])
        return field if field.shape == shape else jnp.asarray(_pad(np.asarray(field), shape))

    rows = jax.tree.map(enlarged, rows, new)
    padded = jax.tree.map(lambda field, old: _pad(field, (len(field), *old.shape[1:])), new, rows)
    return tables.write_rows(rows, place, padded)


def _read(
    lm: LanguageModel,
    num_actions: int,
    normalization: str,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
) -> Rows:
    """Tokenizes states and lays each out in a row of its own."""
    most = max(map(len, actions))
    if most > num_actions:
        raise ValueError(f"a state has {most} actions, and the policy has {num_actions} slots")
    states = tokenize(lm, prompts, actions)
    packed = packing.alone(states)
    read_before = [() if state.prompt is None else state.prompt for state in states]
    M, L = len(states), packed[0].tokens.shape[1]
    num_queries = max(int(row.num_queries) for row in packed)
    longest = max(int(state.tails.lengths.max()) for state in states)
    rows = Rows(
        tokens=np.concatenate([row.tokens for row in packed]),
        positions=np.concatenate([row.positions for row in packed]),
        ends=np.zeros((M, L), np.int32),
        queries=np.zeros((M, num_queries), np.int32),
        action_tokens=np.zeros((M, num_actions, longest), np.int32),
        action_queries=np.zeros((M, num_actions, longest), np.int32),
        divisor=np.zeros((M, num_actions), np.float32),
        last=np.array([len(state.head) - 1 for state in states], np.int32),
        prompt=np.zeros((M, max(map(len, read_before))), np.int32),
        prompt_length=np.array([len(prompt) for prompt in read_before], np.int32),
    )
    for m, (state, row) in enumerate(zip(states, packed, strict=True)):
        rows.prompt[m, : len(read_before[m])] = read_before[m]
        # Tokens beyond the texts see nothing and are seen by nothing: zeros, as all padding.
        used = row.ends[0, 0]
        rows.ends[m, :used] = row.ends[0, :used]
        rows.queries[m, : row.num_queries] = row.queries[: row.num_queries]
        for a in range(len(actions[m])):
            path = state.tails.path(a)
            rows.action_tokens[m, a, : len(path)] = state.tails.tokens[path]
            rows.action_queries[m, a, : len(path)] = row.query[0, len(state.head) + path] + 1
            rows.divisor[m, a] = score.divisor(normalization, actions[m][a], len(path))
    return rows


def _pad(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    widths = [(0, new - old) for old, new in zip(array.shape, shape, strict=True)]
    return np.pad(array, widths)


def _hidden(model: Any, rows: Rows) -> jax.Array:
    """Hidden states [B, L, D] of B rows."""
    L, S = rows.tokens.shape[1], rows.prompt.shape[1]
    i, j = jnp.arange(L)[:, None], jnp.arange(L)
    mask = (j <= i) & (i < rows.ends[:, None, :])
    if S == 0:
        return model(rows.tokens, rows.positions, mask)
    is_text = jnp.arange(S) < rows.prompt_length[:, None]
    encoded = model.encode(rows.prompt, is_text)
    return model.decode(rows.tokens, rows.positions, mask, encoded, is_text)


def _in_parts(config: Any, function: Callable[[Rows, Any], Any], rows: Rows, of_states: Any) -> Any:
    """See `LanguagePolicy.in_parts`: long rows, or those of a large model, are taken one by one."""
    if not _is_one_by_one(config, rows):
        return function(rows, of_states)

    def of_one(row: Rows, of_state: Any) -> Any:
        return function(*jax.tree.map(lambda field: field[None], (row, of_state)))

    def add(total: Any, one: tuple[Rows, Any]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, _at_own_length(of_one, *one)), None

    first = jax.tree.map(lambda field: field[0], (rows, of_states))
    sums = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_one, *first)
    )
    return jax.lax.scan(add, sums, (rows, of_states))[0]


def _at_own_length(function: Callable[..., Any], row: Rows, *args: Any) -> Any:
    """`function(row, *args)` of a row that is cut to about its own length.

    In a batch all were as long as the longest, and one such row keeps a device busy. A decoder's
    rows hold the prompts, and vary in length; those of an encoder-decoder hold actions alone, and
    hardly do.
    """
    L = row.tokens.shape[0]  # a multiple of 16, as `packing` makes it
    lengths = range(L // _LENGTHS, L + 1, L // _LENGTHS)

    def up_to(length: int, row: Rows, *args: Any) -> Any:
        cut = {name: getattr(row, name)[:length] for name in ("tokens", "positions", "ends")}
        return function(row._replace(**cut), *args)

    # The first token of a text is before all others.
    shorter = sum(row.ends[0] > length for length in lengths[:-1])
    return jax.lax.switch(shorter, [functools.partial(up_to, n) for n in lengths], row, *args)


def _is_one_by_one(config: Any, rows: Rows) -> bool:
    """Whether rows are read one by one; a row that is alone may be such a one already."""
    B, L = rows.tokens.shape
    if B == 1:
        return False
    is_long = L > sizes.ROW_TOKENS and rows.prompt.shape[1] == 0
    return is_long or B * _activations(config, rows) > _ACTIVATIONS_AT_ONCE


def _activations(config: Any, rows: Rows) -> int:
    """About how many bytes the activations of one row are that a backward pass needs, in float32.

    Of a token, in each layer: some ten vectors of the model's width and four of the MLP's, and what
    each head makes of each token that may be attended to, three times.
    """
    per_token = 10 * config.hidden_size + 4 * config.intermediate_size

    def layer(length: int, seen: int) -> int:
        return length * (per_token + 3 * config.num_attention_heads * seen)

    L, S = rows.tokens.shape[1], rows.prompt.shape[1]
    if S == 0:
        return 4 * config.num_hidden_layers * layer(L, L)
    encoder = config.num_hidden_layers * layer(S, S)
    return 4 * (encoder + config.num_decoder_layers * layer(L, L + S))


def _apply(model: Any, rows: Rows, temperature: float) -> tuple[jax.Array, jax.Array]:
    """log pi(a|s) f32[B, A] of B rows, and the hidden states f32[B, D] before the actions."""
    if not _is_one_by_one(model.config, rows):
        return _answers(model, rows, temperature)

    # Who differentiates this holds the activations of one row, which are computed again.
    @jax.checkpoint
    def of_one(row: Rows) -> tuple[jax.Array, jax.Array]:
        one = jax.tree.map(lambda field: field[None], row)
        log_probs, hidden = _answers(model, one, temperature)
        return log_probs[0], hidden[0]

    return jax.lax.map(functools.partial(_at_own_length, of_one), rows)


def _answers(model: Any, rows: Rows, temperature: float) -> tuple[jax.Array, jax.Array]:
    """The same, of rows that are read together."""
    hidden = _hidden(model, rows)

    @jax.checkpoint
    def scores(of_state: tuple[jax.Array, ...]) -> jax.Array:
        """Summed log-probability of each action's tokens, f32[A], of one state."""
        hidden, queries, tokens, query = of_state
        logits = model.logits(hidden[queries]).astype(jnp.float32)
        own = jnp.maximum(query - 1, 0)
        log_probs = logits[own, tokens] - jax.nn.logsumexp(logits, axis=-1)[own]
        return jnp.sum(jnp.where(query > 0, log_probs, 0.0), axis=-1)

    logits_per_state = rows.queries.shape[1] * model.config.vocab_size
    summed = jax.lax.map(
        scores,
        (hidden, rows.queries, rows.action_tokens, rows.action_queries),
        batch_size=min(len(rows.queries), max(1, _LOGITS_AT_ONCE // logits_per_state)),
    )
    is_action = rows.divisor > 0
    logits = jnp.where(
        is_action, summed / (jnp.where(is_action, rows.divisor, 1.0) * temperature), -jnp.inf
    )
    last = jnp.take_along_axis(hidden, rows.last[:, None, None], axis=1)[:, 0]
    return jax.vmap(normalize)(logits), last.astype(jnp.float32)
