"""What a language model writes after a prompt: sampled token by token, many answers at once.

`sample_tokens` is the computation: a pure function on arrays. A prompt is read once, into one row
of a cache of keys and values, and all its answers are written into that row after it. An answer is
a branch of the row, as a packed action is: it sees the prompt and itself. One step reads the newest
token of every answer of every prompt, and the steps end when all answers have.

`generate` is its face on the host. Tokens know nothing of strings, so on the device an answer ends
with a token that has a stop string in it, or with a special token such as the end of a text; a stop
string that is spread over several tokens is found afterwards, in the text.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from llmprior_jax.distributed import data_parallel
from llmprior_jax.models import EncoderDecoder, EncoderDecoderConfig, KVCache, LanguageModel
from llmprior_jax.models.encoder_decoder import AnswerCache
from llmprior_jax.priors.scoring.packing import bucket
from llmprior_jax.priors.tokens import encode_from_start, encode_whole
from llmprior_jax.ranges import NOT_NEGATIVE, SHARE_NOT_ZERO, WIDTH

# Answers that grow together, and tokens of prompts that are read together: enough to keep the
# matrix units busy, few enough that logits and activations stay small beside the parameters.
_ANSWERS_PER_PASS = 64
_TOKENS_PER_PASS = 4096
_ROWS_PER_PASS = (1, 4, 16, 64)  # So that only these are compiled.
_SHORTEST_ROW = 32  # tokens
_NO_TOKEN = -1


class Sampling(NamedTuple):
    """How an answer is drawn.

    Examples:
      >>> priors.Sampling(max_new_tokens=8, temperature=0.7, stop=(".",)).top_p
      1.0

    Attributes:
      max_new_tokens: N, the most tokens that an answer may have.
      temperature: logits are divided by it; 0 takes the likeliest token always (greedy).
      top_p: a token is drawn from the fewest likeliest ones that together have at least this
        probability (nucleus sampling, Holtzman et al., 2020, arXiv 1904.09751); 1 is all of them.
      stop: an answer ends before the first of these strings; () leaves that to special tokens.
    """

    max_new_tokens: int = 32
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("\n",)


DEFAULT_SAMPLING = Sampling()


class Completion(NamedTuple):
    """What a language model wrote after a prompt.

    Examples:
      >>> priors.Completion("go to the sink", finished=True).text
      'go to the sink'

    Attributes:
      text: the answer, without the stop string or special token that ended it.
      finished: whether it was ended by one, and not by `max_new_tokens`.
    """

    text: str
    finished: bool


class Sampled(NamedTuple):
    """What `sample_tokens` returns.

    Attributes:
      tokens: i32[B, k, N], the answers, each with the token that ended it; -1 after that.
      is_finite: bool[B], false where a logit was not.
      num_steps: i32[], times that the decoder was run after the prompts.
    """

    tokens: jax.Array
    is_finite: jax.Array
    num_steps: jax.Array


def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    keys: jax.Array,
    num_samples: int = 1,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> list[list[Completion]]:
    """Samples answers to each prompt.

    Answer `i` to a prompt is a function of the model, the prompt, its key, `i` and `sampling`. The
    other prompts and the number of samples matter only through rounding (1e-6 of a logit in
    float32), which can decide between two equally likely tokens.

    Examples:
      >>> prompts = ["Task: wash the cup. Do:"]
      >>> keys = priors.prompt_keys(jax.random.key(0), prompts)
      >>> sampling = priors.Sampling(max_new_tokens=4)
      >>> answers = priors.generate(models.load("tiny"), prompts, keys, 4, sampling)
      >>> len(answers[0])  # k
      4

    Args:
      lm: the language model.
      prompts: B texts, to be continued exactly where they end.
      keys: key[B], a PRNG key for each prompt (`prompt_keys` makes them).
      num_samples: k, answers to each prompt, independent and so not always different.
      sampling: how an answer is drawn, and when it ends.

    Returns:
      k completions for each prompt. None is cut silently: see `Completion.finished`.

    Raises:
      TypeError: a prompt is not a string, or one string stands where a list should.
      ValueError: an option out of its range, a prompt that with `max_new_tokens` is longer than the
        model's context or that makes no token, or a model that gives NaN.
    """
    check_sampling(num_samples, sampling)
    texts = _tokenize(lm, prompts, sampling.max_new_tokens)
    if len(keys) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(keys)} keys; every prompt needs one")
    ends = _end_tokens(lm.tokenizer, lm.config.vocab_size, sampling.stop)

    # Dispatch is asynchronous: while the device works on a pass, the host prepares the next.
    sample = _sampler(num_samples, sampling.max_new_tokens, jax.random.key_impl(keys))
    key_data = np.asarray(jax.random.key_data(keys))
    shared = ends, sampling.temperature, sampling.top_p
    places, results = [], []
    for group in data_parallel.groups(_passes(texts, key_data, num_samples), lm.mesh):
        places.append([place for _, place in group])
        results.append(data_parallel.run(sample, lm, [batch for batch, _ in group], shared))

    sampled = (
        (b, result.tokens[i][row], result.is_finite[i][row])
        for group, result in zip(places, jax.device_get(results), strict=True)
        for i, place in enumerate(group)
        for row, b in enumerate(place)
    )
    completions: list[list[Completion]] = [[] for _ in prompts]
    for b, tokens, is_finite in sampled:
        if not is_finite:
            raise ValueError(
                f"the language model has no finite logits after prompt {b}; look at its weights, "
                "or load it in float32"
            )
        answers = [answer[answer != _NO_TOKEN] for answer in tokens]
        completions[b] = _complete(lm.tokenizer, int(texts[b][-1]), answers, ends, sampling.stop)
    return completions


def prompt_keys(key: jax.Array, prompts: Sequence[str]) -> jax.Array:
    """A PRNG key for each prompt, key[B], which depends on `key` and the prompt's text only.

    Examples:
      >>> first, second = priors.prompt_keys(jax.random.key(0), ["Wash the cup.", "Wait."])
      >>> bool(first == second)
      False
    """
    digests = [hashlib.sha256(prompt.encode()).digest()[:8] for prompt in prompts]
    words = np.frombuffer(b"".join(digests), ">u4").astype(np.uint32).reshape(len(prompts), 2)
    fold_in = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(jax.random.fold_in)(fold_in(key, words[:, 0]), words[:, 1])


def check_sampling(num_samples: int, sampling: Sampling) -> None:
    """Raises a ValueError if an argument of `generate` is out of its range."""
    WIDTH.check("num_samples", num_samples)
    WIDTH.check("max_new_tokens", sampling.max_new_tokens)
    NOT_NEGATIVE.check("temperature", sampling.temperature, " (0 takes the likeliest token)")
    SHARE_NOT_ZERO.check("top_p", sampling.top_p)
    if isinstance(sampling.stop, str) or not all(sampling.stop):
        raise ValueError(f"stop is {sampling.stop!r}; use a tuple of strings that are not empty")


@functools.partial(jax.jit, static_argnames=("graphdef", "num_samples", "max_new_tokens"))
def sample_tokens(
    graphdef: nnx.GraphDef[Any],
    params: Any,
    tokens: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    ends: jax.Array,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
    *,
    num_samples: int,
    max_new_tokens: int,
) -> Sampled:
    """Samples k answers to each of B prompts of at most S tokens.

    Args:
      graphdef: the decoder, or encoder and decoder, without its parameters.
      params: its parameters.
      tokens: i32[B, S], each prompt, followed by padding.
      lengths: i32[B], tokens of each prompt; 0 for a row that is padding.
      keys: key[B]. Token t of answer i is drawn with `fold_in(fold_in(key, i), t)`.
      ends: bool[V], tokens that end an answer.
      temperature: f32[], see `Sampling`.
      top_p: f32[], see `Sampling`.
      num_samples: k.
      max_new_tokens: N.

    Returns:
      See `Sampled`.
    """
    decoder = nnx.merge(graphdef, params)
    tokens, lengths, cache = _begin(decoder, tokens, lengths)
    B, S = tokens.shape
    k, N = num_samples, max_new_tokens
    sample_keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(k))

    def draw(step: jax.Array | int, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A token for each answer, i32[B, k], from hidden states [B, k, D]."""
        logits = decoder.logits(hidden)
        finite = jnp.isfinite(logits).all(axis=(1, 2))
        logits = jnp.broadcast_to(logits, (B, k, logits.shape[-1]))
        step_keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(sample_keys, step)
        return _draw(step_keys, logits, temperature, top_p), finite

    causal = jnp.tri(S, dtype=bool)[None]
    positions = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
    hidden, cache = decoder.extend(tokens, positions, causal, cache, 0)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    first, is_finite = draw(0, jnp.take_along_axis(hidden, last, axis=1))

    # Token t of answer i is in slot S + t k + i, so that the tokens of a step are neighbors.
    slots = jnp.arange(S + N * k)
    in_prompt = slots < jnp.minimum(lengths, S)[:, None, None]
    in_answer = (slots >= S) & ((slots - S) % k == jnp.arange(k)[:, None])
    visible = in_prompt | in_answer

    is_padding = (lengths == 0)[:, None]

    def go_on(state: _Writing) -> jax.Array:
        return (state.step < N - 1) & ~state.done.all()

    def write(state: _Writing) -> _Writing:
        t = state.step
        newest = jax.lax.dynamic_index_in_dim(state.answers, t, axis=2, keepdims=False)
        hidden, cache = decoder.extend(
            jnp.maximum(newest, 0),
            jnp.broadcast_to(lengths[:, None] + t, (B, k)),
            visible & (slots < S + (t + 1) * k),
            state.cache,
            S + t * k,
        )
        token, is_finite = draw(t + 1, hidden)
        token = jnp.where(state.done, _NO_TOKEN, token)
        return _Writing(
            step=t + 1,
            answers=jax.lax.dynamic_update_index_in_dim(state.answers, token, t + 1, axis=2),
            done=state.done | ends[jnp.maximum(token, 0)],
            is_finite=state.is_finite & is_finite,
            cache=cache,
        )

    first = jnp.where(is_padding, _NO_TOKEN, first)
    answers = jnp.full((B, k, N), _NO_TOKEN, jnp.int32).at[:, :, 0].set(first)
    state = _Writing(
        step=jnp.int32(0),
        answers=answers,
        done=is_padding | ends[jnp.maximum(first, 0)],
        is_finite=is_finite,
        cache=cache.enlarged(len(slots)),
    )
    state = jax.lax.while_loop(go_on, write, state)
    return Sampled(state.answers, state.is_finite | is_padding[:, 0], state.step)


def _begin(model: Any, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    """What a decoder is to go on from, its length, and a cache with room for it."""
    B, S = tokens.shape
    if not isinstance(model, EncoderDecoder):
        return tokens, lengths, model.new_cache(B, S)
    # The encoder reads the prompt; what the decoder goes on from is one token.
    is_text = jnp.arange(S) < lengths[:, None]
    cache = model.new_cache(model.encode(tokens, is_text), is_text, 1)
    start = jnp.full((B, 1), model.config.decoder_start_token_id, jnp.int32)
    return start, jnp.minimum(lengths, 1), cache


class _Batch(NamedTuple):
    """The prompts of one pass: tokens i32[B, S], lengths i32[B], and the data of keys u32[B, ...].

    Rows of padding have length 0 and some prompt's key.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    key_data: np.ndarray


@functools.cache
def _sampler(num_samples: int, max_new_tokens: int, impl: Any) -> Callable[..., Sampled]:
    """`sample_tokens` as `data_parallel.run` takes it, with keys of one implementation."""

    def sample(graphdef: Any, params: Any, batch: _Batch, shared: tuple[Any, Any, Any]) -> Sampled:
        keys = jax.random.wrap_key_data(jnp.asarray(batch.key_data), impl=impl)
        return sample_tokens(
            graphdef,
            params,
            batch.tokens,
            batch.lengths,
            keys,
            *shared,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
        )

    return sample


class _Writing(NamedTuple):
    """Answers that are being written; all have their tokens up to `step`.

    Attributes:
      step: i32[].
      answers: i32[B, k, N], -1 where nothing is written.
      done: bool[B, k], which have ended.
      is_finite: bool[B], whether all logits were.
      cache: all but the newest tokens; for an encoder-decoder, its prompts, too.
    """

    step: jax.Array
    answers: jax.Array
    done: jax.Array
    is_finite: jax.Array
    cache: KVCache | AnswerCache


def _draw(
    keys: jax.Array,
    logits: jax.Array,
    temperature: jax.Array | float,
    top_p: jax.Array | float,
) -> jax.Array:
    """One token for each key [B, k] from logits f32[B, k, V]."""

    def sample() -> jax.Array:
        scaled = logits / temperature
        kept = jax.lax.cond(top_p < 1, lambda: _nucleus(scaled, top_p), lambda: scaled)
        return jax.vmap(jax.vmap(jax.random.categorical))(keys, kept)

    greedy = temperature == 0
    return jax.lax.cond(greedy, lambda: logits.argmax(axis=-1), sample).astype(jnp.int32)


def _nucleus(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Logits [..., V] with -inf outside the nucleus; tokens as likely as its last one are in it.

    The least probability in the nucleus is found by bisection, which needs no sorting. Positive
    floats are ordered as their bits are, so that 30 halvings find it exactly.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        mass = jnp.where(bits >= middle, probabilities, 0.0).sum(axis=-1, keepdims=True)
        enough = mass >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # Everything is enough, and above the bits of 1.0 there is nothing.
    low = jnp.zeros((*logits.shape[:-1], 1), jnp.int32)
    above_one = jnp.float32(1.0).view(jnp.int32) + 1
    low, _ = jax.lax.fori_loop(0, 30, halve, (low, jnp.full_like(low, above_one)))
    return jnp.where(bits >= low, logits, -jnp.inf)


def _tokenize(lm: LanguageModel, prompts: Sequence[str], max_new_tokens: int) -> list[np.ndarray]:
    """The tokens of each prompt, i32[length]; refuses what cannot be continued."""
    if isinstance(prompts, str):
        raise TypeError("prompts must be a list of strings, not one string; put it in a list")
    for b, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompt {b} must be a string, not {type(prompt).__name__}")
    context = lm.config.max_position_embeddings
    if isinstance(lm.config, EncoderDecoderConfig):
        # Prompt and answer are texts of their own; so that the answer has room, too.
        read = encode_whole(lm.tokenizer, prompts)
    else:
        read = encode_from_start(lm.tokenizer, prompts)
    texts = [np.asarray(ids, np.int32) for ids in read]
    for b, text in enumerate(texts):
        if len(text) == 0:
            raise ValueError(f"prompt {b} makes no token; begin it with some text")
        if len(text) + max_new_tokens > context:
            raise ValueError(
                f"prompt {b} has {len(text)} tokens and max_new_tokens is {max_new_tokens}, but "
                f"the language model's context is {context}; shorten "
                "the prompt, e.g. its history, or lower max_new_tokens"
            )
        if text.max() >= lm.config.vocab_size:
            raise ValueError(
                f"prompt {b} has token {text.max()}, and the language model knows "
                f"{lm.config.vocab_size}; the tokenizer belongs to another model"
            )
    return texts


def _passes(
    texts: Sequence[np.ndarray], key_data: np.ndarray, num_samples: int
) -> Iterator[tuple[_Batch, np.ndarray]]:
    """Distributes prompts over passes of few shapes, each with the places of its prompts."""
    order = sorted(range(len(texts)), key=lambda b: len(texts[b]))
    while order:
        # The longest first: it says how many rows fit.
        length = max(_SHORTEST_ROW, bucket(len(texts[order[-1]]), steps=2))
        room = max(1, min(_ANSWERS_PER_PASS // num_samples, _TOKENS_PER_PASS // length))
        fitting = [rows for rows in _ROWS_PER_PASS if rows <= room]
        rows = next((rows for rows in fitting if rows >= len(order)), fitting[-1])
        place, order = order[-rows:], order[:-rows]
        tokens, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
        for row, b in enumerate(place):
            tokens[row, : len(texts[b])] = texts[b]
            lengths[row] = len(texts[b])
        batch = _Batch(tokens, lengths, key_data[np.resize(place, rows)])
        yield batch, np.asarray(place)


@functools.lru_cache(maxsize=8)
def _end_tokens(tokenizer: Any, vocab_size: int, stop: tuple[str, ...]) -> np.ndarray:
    """bool[V]: tokens with a stop string in them, and special ones."""
    ids = np.arange(min(len(tokenizer), vocab_size))
    ends = np.zeros(vocab_size, bool)
    texts = _decode(tokenizer, ids[:, None])
    ends[ids] = [any(string in text for string in stop) for text in texts]
    ends[[i for i in _special_tokens(tokenizer) if i < vocab_size]] = True
    return ends


def _special_tokens(tokenizer: Any) -> set[int]:
    """Tokens that no text has, such as its end or the turn of another speaker."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # What stands for unknown text is text, except where the end of it serves for both (Qwen).
    return (special - {tokenizer.unk_token_id} | {tokenizer.eos_token_id}) - {None}


def _decode(tokenizer: Any, answers: Iterable[Iterable[int]]) -> list[str]:
    ids = [[int(i) for i in answer] for answer in answers]
    return tokenizer.backend_tokenizer.decode_batch(ids, skip_special_tokens=False)


def _complete(
    tokenizer: Any,
    last: int,
    answers: Sequence[Sequence[int]],
    ends: np.ndarray,
    stop: tuple[str, ...],
) -> list[Completion]:
    """Answers as texts, after the last token of their prompt."""
    special = _special_tokens(tokenizer)
    # Some tokenizers drop a space at the beginning of what they decode, so it begins with a token
    # of the prompt.
    before, *texts = _decode(
        tokenizer,
        [[last], *([last, *(i for i in answer if i not in special)] for answer in answers)],
    )
    completions = []
    for answer, text in zip(answers, texts, strict=True):
        text = text[len(before) :]
        cut = min((at for at in map(text.find, stop) if at >= 0), default=None)
        completions.append(Completion(text[:cut], cut is not None or bool(ends[answer[-1]])))
    return completions
