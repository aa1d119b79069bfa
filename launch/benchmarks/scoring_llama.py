"""The scoring benchmark's third side: llama.cpp, by its Python package, in a process of its own.

Its own best way of scoring continuations, that of the HellaSwag score of its `perplexity` tool: one
batch with the tokens of the prompt, which belong to the sequences of all actions and stand once in
the cache of keys and values, and the tokens of each action in a sequence of its own. Logits are
made where a next token is needed. Weights and products stay in the file's own number format.
"""

import ctypes
import importlib
import importlib.util
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

_model: Any
_silent: Any  # The callback has to outlive what calls it.


def is_here() -> bool:
    """Whether the package is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def _library() -> Any:
    """The package, which is no requirement of ours."""
    return importlib.import_module("llama_cpp")


def load(path: str) -> None:
    """Loads a GGUF file."""
    global _model, _silent
    llama_cpp = _library()

    _silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    _model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if _model is None:
        raise ValueError(f"llama.cpp cannot load {path}")


def seconds(states: Sequence[tuple[list[int], list[list[int]]]]) -> tuple[float, list[np.ndarray]]:
    """Time of scoring states, and the log-probabilities [A] of the actions of each.

    Args:
      states: the token ids of each prompt and of its actions; the room for them is made before.
    """
    llama_cpp = _library()

    sizes = [len(prompt) + sum(map(len, actions)) for prompt, actions in states]
    room = llama_cpp.llama_context_default_params()
    room.n_ctx = room.n_batch = max(sizes)
    room.n_seq_max = max(len(actions) for _, actions in states)
    room.n_threads = room.n_threads_batch = os.cpu_count() or 1
    room.kv_unified = True
    context = llama_cpp.llama_init_from_model(_model, room)
    if context is None:
        raise ValueError(f"llama.cpp has no room for {room.n_seq_max} sequences")
    batch = llama_cpp.llama_batch_init(max(sizes), 0, room.n_seq_max)
    try:
        start = time.perf_counter()
        log_probs = [_score(llama_cpp, context, batch, *state) for state in states]
        return time.perf_counter() - start, log_probs
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)


def _score(
    llama_cpp: Any, context: Any, batch: Any, prompt: list[int], actions: list[list[int]]
) -> np.ndarray:
    """Log-probabilities [A] of the actions of one state."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)
    batch.n_tokens = 0

    def add(token: int, position: int, sequences: Sequence[int], is_asked: bool) -> int:
        at = batch.n_tokens
        batch.token[at], batch.pos[at], batch.logits[at] = token, position, is_asked
        batch.n_seq_id[at] = len(sequences)
        for i, sequence in enumerate(sequences):
            batch.seq_id[at][i] = sequence
        batch.n_tokens += 1
        return at

    everyone = range(len(actions))
    *_, last = (
        add(token, position, everyone, position == len(prompt) - 1)
        for position, token in enumerate(prompt)
    )
    # The last token of an action is predicted, and predicts nothing.
    places = [
        [last, *(add(token, len(prompt) + i, [a], True) for i, token in enumerate(action[:-1]))]
        for a, action in enumerate(actions)
    ]
    if llama_cpp.llama_decode(context, batch):
        raise ValueError(f"llama.cpp cannot read {batch.n_tokens} tokens at once")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(_model))
    normalizers: dict[int, tuple[np.ndarray, float]] = {}

    def log_prob(place: int, token: int) -> float:
        if place not in normalizers:
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, place), (size,))
            most = logits.max()
            normalizers[place] = logits, most + np.log(np.exp(logits - most).sum())
        logits, normalizer = normalizers[place]
        return float(logits[token] - normalizer)

    return np.array(
        [sum(map(log_prob, where, action)) for where, action in zip(places, actions, strict=True)]
    )
