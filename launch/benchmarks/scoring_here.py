"""Our side of the scoring benchmark, run in a process of its own."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from launch.benchmarks import memory
from llmprior_jax import models, priors
from llmprior_jax.models import Decoder, DecoderConfig, LanguageModel
from llmprior_jax.priors.scoring import packing, sizes
from llmprior_jax.priors.scoring.score import score_packed
from llmprior_jax.priors.scoring.tokenizing import tokenize

_model: LanguageModel
_held_before: int


def load(fields: dict[str, Any], dtype: str) -> int:
    """Makes a model of random weights.

    Args:
      fields: what its `config.json` would say.
      dtype: of its weights.

    Returns:
      The bytes of its weights.
    """
    global _model, _held_before
    # So that the time of compiling is that of compiling.
    jax.config.update("jax_enable_compilation_cache", False)
    tokenizer = models.load("tiny").tokenizer
    _held_before = _held()
    config = DecoderConfig.from_hf(fields)
    rng = np.random.default_rng(0)

    def draw(key: Any, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(0.02), dtype)

    decoder = Decoder(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), init=draw)
    graphdef, params = nnx.split(decoder)
    _model = LanguageModel(config, graphdef, params, tokenizer, fingerprint="random")
    return _weights()


def platform() -> str:
    """What JAX computes on."""
    return jax.default_backend()


def load_file(path: str) -> None:
    """Loads a model, instead of one of random weights."""
    global _model
    _model = models.load(path)


def token_ids(prompt: str, actions: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """What is read and scored of a prompt and its actions."""
    (state,) = tokenize(_model, [prompt], [actions])
    return state.head.tolist(), [
        state.tails.tokens[state.tails.path(a)].tolist() for a in range(len(actions))
    ]


def log_probs(prompt: str, actions: Sequence[str]) -> np.ndarray:
    """The summed log-probability [A] of each action."""
    return priors.score_texts(_model, [prompt], [actions], with_features=False).log_probs[0]


def seconds(texts: Sequence[tuple[str, list[str]]]) -> float:
    """Time of scoring states, given as prompts and actions; `peak_memory` is that of this call."""
    prompts, actions = zip(*texts, strict=True)
    if jax.default_backend() == "cpu":
        memory.reset_peak()
    start = time.perf_counter()
    jax.block_until_ready(priors.score_actions(_model, prompts, actions))
    return time.perf_counter() - start


def host_seconds(texts: Sequence[tuple[str, list[str]]]) -> float:
    """Time of the host's part in scoring states: it makes tokens and packed rows of texts."""
    start = time.perf_counter()
    _pack(texts, sizes.choose(_model))
    return time.perf_counter() - start


def device_seconds(texts: Sequence[tuple[str, list[str]]]) -> float:
    """Time of the device's part in scoring states: log-probabilities of packed rows."""
    of_model = sizes.choose(_model)
    passes = _pack(texts, of_model)
    start = time.perf_counter()
    for each, _ in passes:
        scores = score_packed(_model.graphdef, _model.params, each, projection=of_model.projection)
        jax.block_until_ready(scores)
    return time.perf_counter() - start


def _pack(texts: Sequence[tuple[str, list[str]]], of_model: sizes.Sizes) -> list[packing.Pass]:
    prompts, actions = zip(*texts, strict=True)
    return list(packing.passes(tokenize(_model, prompts, actions), of_model))


def generate_seconds(texts: Sequence[str], num_samples: int, new_tokens: int) -> float:
    """Time of writing so many answers of so many tokens to each prompt; one is greedy."""
    sampling = priors.Sampling(new_tokens, temperature=float(num_samples > 1), stop=())
    keys = priors.prompt_keys(jax.random.key(0), texts)
    start = time.perf_counter()
    priors.generate(_model, texts, keys, num_samples, sampling)
    return time.perf_counter() - start


def matmul_rate() -> float:
    """Floating-point operations per second of the fastest plain product of matrices."""
    config, (weight, *_) = _model.config, jax.tree.leaves(_model.params)
    dtype = weight.dtype
    wide = config.intermediate_size
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    product = jax.jit(functools.partial(jnp.dot, precision=precision))
    rates = []
    for rows, inner, outer in (
        (256, config.hidden_size, wide),
        (1024, config.hidden_size, wide),
        (1024, wide, config.hidden_size),
        (2048, 2048, 2048),
    ):
        a, b = jnp.ones((rows, inner), dtype), jnp.ones((inner, outer), dtype)
        jax.block_until_ready(product(a, b))
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(product(a, b))
            rates.append(2 * rows * inner * outer / (time.perf_counter() - start))
    return max(rates)


def peak_memory() -> float:
    """The most memory held since the last `seconds` began, as a multiple of the weights."""
    return (_held(peak=True) - _held_before) / _weights()


def _held(peak: bool = False) -> int:
    device = jax.devices()[0]
    if device.platform == "cpu":
        return memory.resident_bytes(peak)
    statistics = device.memory_stats() or {}
    return statistics["peak_bytes_in_use" if peak else "bytes_in_use"]


def _weights() -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_model.params))
