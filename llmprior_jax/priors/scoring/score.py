"""log p(a|s): what a language model would do next, asked once for all actions of many states.

The probability of an action is the probability that the model continues the prompt with its text
(SayCan, Ahn et al., 2022, arXiv 2204.01691; TWOSOME, Tan et al., ICLR 2024, arXiv 2401.14151),
normalized over the list of admissible actions, as "Efficient Reinforcement Learning with Large
Language Model Priors" (Yan et al., ICLR 2025, arXiv 2410.07927) uses it.

`score_packed` is the computation: a pure function on arrays, over texts packed so that no common
beginning is computed twice (`packing`). `score` and `score_actions` are its face on the host: they
`normalize` what `score_texts` gives.

Which tokens are the action's. Tokenizers may merge the end of a prompt with the beginning of an
action, so the text is tokenized as it stands, `prompt + action`, with the tokenizer's leading
special tokens (Llama's BOS, unless the prompt has it already) and without its trailing ones. All
actions of a list are counted from one point of the text: the last one up to which the tokens of the
prompt and of every prompt + action agree (`tokens.align`). Mostly that is the end of the prompt;
where a token of some action spans the end, what that token swallows counts for all of them. So an
action's score depends on its prompt, its own text and that point, and on nothing else in the list
or the batch. An encoder-decoder reads the two apart; see `encoder_decoder`.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.distributed import data_parallel
from llmprior_jax.models import DecoderConfig, KVCache, LanguageModel
from llmprior_jax.priors.features import rotation, shorten
from llmprior_jax.priors.scoring import packing, shared_prefix
from llmprior_jax.priors.scoring.sizes import DEFAULT, Projection, Sizes, choose
from llmprior_jax.priors.scoring.tokenizing import tokenize
from llmprior_jax.priors.tokens import encode_from_start, visible
from llmprior_jax.ranges import POSITIVE
from llmprior_jax.registry import unknown
from llmprior_jax.types import ActionPrior

NORMALIZATIONS = ("sum", "token", "word")

# Passes that the device has before it while the host waits for the first: enough that it never
# waits, few enough that little is lost when scoring is stopped.
_PASSES_UNDER_WAY = 2


def score_actions(
    lm: LanguageModel,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
    normalization: str = "sum",
    temperature: float = 1.0,
    head: str | None = None,
) -> jax.Array:
    """The prior over each prompt's actions, `log p(a|s)`.

    Exactly `prompts[b] + actions[b][a]` is scored, so the caller decides about the space between
    them. An action that occurs twice in a list gets a probability each time.

    Examples:
      >>> prompts, actions = ["Task: wash the cup. Do:"], [[" go to the sink", " wait"]]
      >>> log_probs = priors.score_actions(models.load("tiny"), prompts, actions, "token")
      >>> log_probs.shape, f"{jnp.exp(log_probs).sum():.3f}"
      ((1, 2), '1.000')

    Args:
      lm: the language model.
      prompts: B texts.
      actions: for each prompt its admissible actions, one or more; A is the largest number.
      normalization: how the log-probabilities of an action's tokens become its score. "sum" adds
        them up: the log-probability of the text, which favors short actions. "token" divides by
        the number of tokens, "word" by the number of words (stretches without white space, at
        least one): the token and word normalization of TWOSOME.
      temperature: scores are divided by it before they are normalized over the list.
      head: what all these prompts begin with, and those of other calls too: instructions, examples.
        The model reads it once and keeps its keys and values for as long as `lm` lives. None: a
        long beginning that the prompts of this call have in common is found.

    Returns:
      f32[B, A], `log_softmax(score / temperature)` over each prompt's list; `-inf` after its end.

    Raises:
      TypeError: a prompt or an action is not a string, or a string stands where a list should.
      ValueError: an empty list or action, lists that do not match the prompts, a prompt that does
        not begin with `head`, a text longer than the model's context, an action without a token of
        its own or without a token before it, an unknown normalization, a temperature that is not
        positive, or a model that gives NaN.
    """
    check_options(normalization, temperature)
    scores = score_texts(lm, prompts, actions, with_features=False, head=head)
    return jnp.asarray(normalize(scores, actions, normalization, temperature))


def score(
    lm: LanguageModel,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
    normalization: str = "sum",
    temperature: float = 1.0,
    head: str | None = None,
) -> ActionPrior:
    """`score_actions`, together with the hidden state of each action, from the same pass.

    Examples:
      >>> actions = [[" go to the sink", " wait"]]
      >>> prior = priors.score(models.load("tiny"), ["Task: wash the cup. Do:"], actions)
      >>> prior.log_probs.shape, f"{jnp.exp(prior.log_probs).sum():.3f}"
      ((1, 2), '1.000')

    The arguments are those of `score_actions`, as are the errors.

    Returns:
      `log_probs` f32[B, A] as `score_actions` gives them, and `features` f32[B, A, D]: the final
      hidden state at each action's last token, zero where no action is.
    """
    check_options(normalization, temperature)
    scores = score_texts(lm, prompts, actions, head=head)
    log_probs = normalize(scores, actions, normalization, temperature)
    return ActionPrior(jnp.asarray(log_probs), jnp.asarray(scores.features))


class TextScores(NamedTuple):
    """A language model's scores of prompts' actions, before they are normalized (NumPy).

    Examples:
      >>> actions = [[" go to the sink", " wait"]]
      >>> scores = priors.score_texts(models.load("tiny"), ["Task: wash the cup. Do:"], actions)
      >>> scores.log_probs.shape, bool((scores.num_tokens > 0).all())
      ((1, 2), True)

    Attributes:
      log_probs: f32[B, A], the summed log-probability of each action's tokens; `-inf` where no
        action is.
      num_tokens: i32[B, A], how many they are; 0 where no action is.
      features: f32[B, A, D], the final hidden state at each action's last token, zero where no
        action is; D is 0 where they were not asked for.
    """

    log_probs: np.ndarray
    num_tokens: np.ndarray
    features: np.ndarray


def score_texts(
    lm: LanguageModel,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
    with_features: bool = True,
    head: str | None = None,
) -> TextScores:
    """Scores each action by itself: `normalize` makes a prior of these scores, which can be stored.

    The scores of all actions of a list start at the same point of the text: the end of the prompt
    or, if a token of one of them spans that, before it. A list from `tokens.align` always starts at
    the end of its prompt, whatever else is in the list.

    Examples:
      >>> prompts, actions = ["Task: wash the cup. Do:"], [[" go to the sink", " wait"]]
      >>> scores = priors.score_texts(models.load("tiny"), prompts, actions, with_features=False)
      >>> scores.features.shape
      (1, 2, 0)

    The other arguments are those of `score_actions`, as are the errors.

    Args:
      with_features: whether hidden states are wanted, too.
    """
    B, A = len(prompts), max(map(len, actions), default=0)
    scores = TextScores(
        log_probs=np.full((B, A), -np.inf, np.float32),
        num_tokens=np.zeros((B, A), np.int32),
        features=np.zeros((B, A, lm.config.hidden_size if with_features else 0), np.float32),
    )
    for done, part in score_in_passes(lm, prompts, actions, with_features, head):
        for whole, some in zip(scores, part, strict=True):
            whole[done, : some.shape[1]] = some
    return scores


def score_in_passes(
    lm: LanguageModel,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
    with_features: bool = True,
    head: str | None = None,
    short: bool = False,
) -> Iterator[tuple[np.ndarray, TextScores]]:
    """`score_texts` pass by pass, for who keeps what is done before all is.

    Texts become tokens and packed rows at once, in a thread of its own that ends with them. So who
    has several calls to make gets ahead of the device by making the next one before it iterates
    over this one's passes. Errors come with the first pass.

    The other arguments are those of `score_texts`, as are the errors.

    Args:
      short: whether hidden states are made short (`features.shorten`).

    Yields:
      Which prompts are done, i32[b], and the scores of their actions [b, A]; each prompt once.
    """
    sizes = choose(lm)
    executor = concurrent.futures.ThreadPoolExecutor(1, "tokens")
    prepared = executor.submit(_prepare, lm, prompts, actions, head, sizes)
    executor.shutdown(wait=False)
    return _run(lm, actions, prepared, _projecting(sizes.projection, short), with_features, short)


class _Prepared(NamedTuple):
    """What the host makes of texts.

    Attributes:
      states: their tokens.
      head: the tokens that all begin with and that are read apart; none for most.
      passes: the packed rows of what comes after.
    """

    states: list[packing.Sequences]
    head: np.ndarray
    passes: list[packing.Pass]


def _prepare(
    lm: LanguageModel,
    prompts: Sequence[str],
    actions: Sequence[Sequence[str]],
    head: str | None,
    sizes: Sizes,
) -> _Prepared:
    _check(prompts, actions, head)
    states = tokenize(lm, prompts, actions)
    length = _head_length(lm, states, head)
    packed = packing.passes(shared_prefix.without(states, length) if length else states, sizes)
    apart = states[0].head[:length] if length else np.zeros(0, np.int32)
    return _Prepared(states, apart, list(packed))


def _run(
    lm: LanguageModel,
    actions: Sequence[Sequence[str]],
    prepared: "concurrent.futures.Future[_Prepared]",
    score_pass: Callable[..., tuple[jax.Array, jax.Array]],
    with_features: bool,
    short: bool,
) -> Iterator[tuple[np.ndarray, TextScores]]:
    states, head, all_passes = prepared.result()
    cache = shared_prefix.read(lm, head) if len(head) else None
    shared = (cache, _rotation(lm)) if short else cache
    # Dispatch is asynchronous: while the device works on a pass, the host sends the next.
    under_way: collections.deque[tuple[list[np.ndarray], Any]] = collections.deque()
    for group in data_parallel.groups(all_passes, lm.mesh):
        passes = [texts.packed for texts in group]
        log_probs, features = data_parallel.run(score_pass, lm, passes, shared)
        places = [texts.places for texts in group]
        under_way.append((places, (log_probs, features) if with_features else (log_probs,)))
        if len(under_way) > _PASSES_UNDER_WAY:
            yield _gather(states, actions, *under_way.popleft())
    for each in under_way:
        yield _gather(states, actions, *each)


def _gather(
    states: Sequence[packing.Sequences],
    actions: Sequence[Sequence[str]],
    places: list[np.ndarray],
    results: Any,
) -> tuple[np.ndarray, TextScores]:
    """The prompts of one group of passes and their scores, from what the device made of it."""
    done = np.unique(np.concatenate([place[:, 0] for place in places]))
    numbers: list[int] = done.tolist()
    A = max(len(actions[b]) for b in numbers)
    log_probs, *features = jax.device_get(results)
    width = features[0][0].shape[-1] if features else 0
    scores = TextScores(
        log_probs=np.full((len(done), A), -np.inf, np.float32),
        num_tokens=np.zeros((len(done), A), np.int32),
        features=np.zeros((len(done), A, width), np.float32),
    )
    for row, place in enumerate(places):
        b, a, slot = place.T
        at = np.searchsorted(done, b)
        scores.log_probs[at, a] = log_probs[row][slot]
        if features:
            scores.features[at, a] = features[0][row][slot]
    for row, b in enumerate(numbers):
        lengths = states[b].tails.lengths
        scores.num_tokens[row, : len(lengths)] = lengths
        _check_finite(scores.log_probs[row], actions[b], b)
    return done, scores


def normalize(
    scores: TextScores,
    actions: Sequence[Sequence[str]],
    normalization: str = "sum",
    temperature: float = 1.0,
) -> np.ndarray:
    """The prior over each prompt's actions.

    Examples:
      >>> log_probs, num_tokens = np.log([[0.2, 0.2]]), np.ones((1, 2), int)
      >>> scores = priors.TextScores(log_probs, num_tokens, np.zeros((1, 2, 0)))
      >>> print(np.exp(priors.normalize(scores, [[" go", " wait"]])))
      [[0.5 0.5]]

    Args:
      scores: see `score_texts`.
      actions: the texts that were scored.
      normalization: see `score_actions`.
      temperature: see `score_actions`.

    Returns:
      f32[B, A]. A row depends on its own list alone, to the last bit.
    """
    log_probs = np.full(scores.log_probs.shape, -np.inf, np.float32)
    for b, texts in enumerate(actions):
        score = scores.log_probs[b, : len(texts)].astype(np.float64)
        lengths = zip(texts, scores.num_tokens[b], strict=False)
        score /= [divisor(normalization, *length) for length in lengths]
        score /= temperature
        top = score.max()
        log_probs[b, : len(texts)] = score - (top + np.log(np.exp(score - top).sum()))
    return log_probs


def divisor(normalization: str, text: str, num_tokens: int) -> int:
    """What the summed log-probability of an action is divided by (see `score_actions`)."""
    return {"sum": 1, "token": num_tokens, "word": max(1, len(text.split()))}[normalization]


def check_options(normalization: str, temperature: float) -> None:
    """Raises a ValueError if an argument of `score` is unknown or out of its range.

    Examples:
      >>> priors.check_options("token", temperature=2.0)
      >>> priors.check_options("tokens", temperature=2.0)
      Traceback (most recent call last):
      ValueError: ...
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(unknown("normalization", str(normalization), NORMALIZATIONS))
    POSITIVE.check("temperature", temperature)


@functools.cache
def _projecting(projection: Projection, short: bool) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Scores a pass with this projection; the same function for the same arguments."""
    return functools.partial(_score_shortly if short else score_packed, projection=projection)


@functools.partial(jax.jit, static_argnames=("graphdef", "projection"))
def score_packed(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    packed: packing.Packed,
    head: KVCache | None = None,
    projection: Projection = DEFAULT.projection,
) -> tuple[jax.Array, jax.Array]:
    """Scores packed texts in one forward pass. Pure, and differentiable in `params`.

    Args:
      graphdef: the structure of a `Decoder`, or of any module with its `__call__` and `logits`; for
        texts with prompts of their own, of an `EncoderDecoder`.
      params: its parameters, as `nnx.split` gives them.
      packed: R rows of L tokens, with N slots for results.
      head: one row of H slots that all the texts go on from, see `shared_prefix`; `packed` counts
        positions from its end. Needs a module whose `__call__` takes a `head`, as a `Decoder`'s.
      projection: how much of the projection onto the vocabulary is done at once. Not all of it at a
        time needs a module with the `some_logits` and `config` of a `Decoder`.

    Returns:
      f32[N], for each slot the summed log-probability of the tokens from `first` to `last`, and
      f32[N, D], the hidden state at `last`. Slots that are not in use hold arbitrary finite values.
    """
    model = nnx.merge(graphdef, params)
    R, L = packed.tokens.shape
    i, j = jnp.arange(L)[:, None], jnp.arange(L)
    mask = (j <= i) & (i < packed.ends[:, None, :])
    hidden = _read(model, packed, mask, head).reshape(R * L, -1)
    log_probs = _token_log_probs(model, hidden, packed, projection).reshape(R, L)

    row = packed.last // L
    counted = mask.reshape(R * L, L)[packed.last]
    counted &= packed.positions[row] >= packed.first[:, None]
    scores = jnp.sum(jnp.where(counted, log_probs[row], 0.0), axis=-1)
    return scores, hidden[packed.last].astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=("graphdef", "projection"))
def _score_shortly(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    packed: packing.Packed,
    shared: tuple[KVCache | None, jax.Array | None],
    projection: Projection,
) -> tuple[jax.Array, jax.Array]:
    """`score_packed` with its hidden states made short, in the same program."""
    head, by = shared
    scores, hidden = score_packed(graphdef, params, packed, head, projection)
    return scores, shorten(hidden, by)


def _rotation(lm: LanguageModel) -> jax.Array | None:
    """How hidden states are made short, on the device."""
    if "rotation" not in lm.kept:
        matrix = rotation(lm.config.hidden_size)
        lm.kept["rotation"] = None if matrix is None else jnp.asarray(matrix)
    return lm.kept["rotation"]


def _read(model: Any, packed: packing.Packed, mask: jax.Array, head: KVCache | None) -> jax.Array:
    """Hidden states [R, L, D] of all tokens, each of which sees what `mask` [R, L, L] says."""
    prompts, lengths = packed.prompts, packed.prompt_lengths
    if prompts is not None and lengths is not None:
        is_text = jnp.arange(prompts.shape[1]) < lengths[:, None]
        encoded = model.encode(prompts, is_text)
        return model.decode(packed.tokens, packed.positions, mask, encoded, is_text)
    if head is None:
        return model(packed.tokens, packed.positions, mask)
    return model(packed.tokens, head.positions.shape[1] + packed.positions, mask, head)


class _Sums(NamedTuple):
    """Of each query the highest logit so far, and the sum of exp(logit - highest)."""

    highest: jax.Array
    total: jax.Array


def _token_log_probs(
    model: Any, hidden: jax.Array, packed: packing.Packed, projection: Projection
) -> jax.Array:
    """f32[R * L], the log-probability of each token that has a query, zero for the others.

    The queries are projected a few at a time onto a part of the vocabulary at a time, and their
    normalizers are summed up over the parts, so there is never an array [R * L, V]. The number of
    steps depends on shapes alone, and steps without queries are skipped.
    """
    tokens, query = packed.tokens.reshape(-1), packed.query.reshape(-1)
    few, columns = projection
    starts = jnp.arange(0, len(packed.queries), few)
    queries = jnp.pad(packed.queries, (0, -len(packed.queries) % few))
    asking = hidden[queries]

    def onto_part(carry: Any, part: jax.Array) -> tuple[Any, None]:
        """Adds to what was made of other parts of the vocabulary what all queries make of one."""
        # The last part begins earlier, with tokens that the one before had.
        begin = part if columns is None else jnp.minimum(part, model.config.vocab_size - columns)
        logits_of = model.logits if columns is None else model.some_logits(begin, columns)

        def project(own: jax.Array, sums: _Sums, start: jax.Array) -> tuple[jax.Array, _Sums]:
            chunk = jax.lax.dynamic_slice_in_dim(asking, start, few)
            logits = logits_of(chunk).astype(jnp.float32).T  # [V, queries]
            is_new = begin + jnp.arange(len(logits)) >= part
            logits = jnp.where(is_new[:, None], logits, -jnp.inf)
            before = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, few), sums)
            # The highest logit cancels out, in gradients too.
            highest = jnp.maximum(before.highest, jax.lax.stop_gradient(logits.max(axis=0)))
            total = before.total * jnp.exp(before.highest - highest)
            total += jnp.exp(logits - highest).sum(axis=0)
            sums = jax.tree.map(
                lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, start, 0),
                sums,
                _Sums(highest, total),
            )
            here = (query >= start) & (query < start + few)
            here &= (tokens >= part) & (tokens < begin + len(logits))
            place = jnp.where(here, tokens - begin, 0), jnp.where(here, query - start, 0)
            return jnp.where(here, logits[place], own), sums

        def step(carry: Any, start: jax.Array) -> tuple[Any, None]:
            needed = start < packed.num_queries
            return jax.lax.cond(needed, project, lambda *carry: carry[:2], *carry, start), None

        return jax.lax.scan(step, carry, starts)[0], None

    # Of a query that nothing is asked of, the sum is 1 and has no gradient.
    none = _Sums(jnp.full(len(queries), jnp.finfo(jnp.float32).min), jnp.ones(len(queries)))
    parts = jnp.arange(0, 1 if columns is None else model.config.vocab_size, columns or 1)
    (own, sums), _ = jax.lax.scan(onto_part, (jnp.zeros(len(hidden)), none), parts)
    asked = jnp.maximum(query, 0)
    log_probs = own - (sums.highest + jnp.log(sums.total))[asked]
    return jnp.where(query >= 0, log_probs, 0.0)


def _check_finite(log_probs: np.ndarray, actions: Sequence[str], b: int) -> None:
    bad = np.flatnonzero(~np.isfinite(log_probs[: len(actions)])).tolist()
    if bad:
        raise ValueError(
            f"action {bad[0]} of prompt {b} ({visible(actions[bad[0]])!r}) has log-probability "
            f"{log_probs[bad[0]]}; look at the language model's weights, or load it in float32"
        )


def _head_length(lm: LanguageModel, states: Sequence[packing.Sequences], head: str | None) -> int:
    """How many tokens all texts begin with are read apart from them."""
    if not states or not isinstance(lm.config, DecoderConfig):
        return 0
    if head is None:
        return shared_prefix.find(states)
    (ids,) = encode_from_start(lm.tokenizer, [head])
    tokens = np.asarray(ids, np.int32)
    # The last token of the head may be another one in a text that goes on.
    shared = min(packing.common_prefix(tokens, state.head) for state in states)
    return shared_prefix.longest_possible(states, shared)


def _check(prompts: Sequence[str], actions: Sequence[Sequence[str]], head: str | None) -> None:
    """Refuses malformed arguments, naming the first thing wrong."""
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of strings, not one string; put it in a list")
    if len(prompts) != len(actions):
        raise ValueError(
            f"{len(prompts)} prompts and {len(actions)} lists of actions; every prompt needs one"
        )
    for b, (prompt, group) in enumerate(zip(prompts, actions, strict=True)):
        if not isinstance(prompt, str):
            raise TypeError(f"prompt {b} must be a string, not {type(prompt).__name__}")
        if head is not None and not prompt.startswith(head):
            raise ValueError(
                f"prompt {b} does not begin with the head: {prompt[: len(head)]!r} is not {head!r}"
            )
        if isinstance(group, str):
            raise TypeError(f"actions of prompt {b} must be a list of strings, not one string")
        if len(group) == 0:
            raise ValueError(f"prompt {b} has no actions; a prior needs at least one")
        for a, action in enumerate(group):
            if not isinstance(action, str):
                kind = type(action).__name__
                raise TypeError(f"action {a} of prompt {b} must be a string, not {kind}")
            if not action:
                raise ValueError(f"action {a} of prompt {b} is empty; give it some text")
