"""The host's part in scoring: texts to tokens to packed rows, and scores out of a store.

    python -m launch.benchmark scoring --host_only [--prompt_tokens=128,512] [--actions=8,50]
        [--repeats=3] [--json]

States of a kitchen as in `launch.benchmark scoring`, with the tokenizer of the embedded model, a
byte-level BPE. Prompts and lists of actions are new in each timing; their words and most of their
actions are not, as in a run. Beside it the same is done the plain way: each prompt + action as one
text, all of them in one `encode_batch`, and nothing is packed. Both have one core, and its seconds
are counted, not those of the clock. The store holds states of 8 actions, 20 of which share a list
of them, as in the kitchen, with what is kept of hidden states of width 896, those of a model of
half a billion parameters.
"""

import collections
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np

from launch.benchmarks import scoring, timing
from llmprior_jax import models, priors
from llmprior_jax.priors.features import rotation, shorten
from llmprior_jax.priors.scoring import packing
from llmprior_jax.priors.scoring.tokenizing import tokenize

_STATES = 64
_STORED, _STORED_ACTIONS, _WIDTH = 1024, 8, 896
_STATES_OF_A_LIST = 20  # 806 states of the kitchen have 39 lists of actions.
_PACKED_AT_ONCE = 32
_READ_AT_ONCE = 128  # as `priors.CachedModel` reads them


def measure(prompt_tokens: Sequence[int], actions: Sequence[int], repeats: int) -> timing.Result:
    """Tokenizes and packs every workload, and reads scores back.

    Args:
      prompt_tokens: lengths of prompts, about.
      actions: numbers of actions of a state.
      repeats: timings of each way.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cases = [(tokens, num_actions) for num_actions in actions for tokens in prompt_tokens]
    rows = [_measure_case(*case, repeats) for case in cases]
    reading, kept = _measure_store(repeats)
    summary = {
        "host_states_per_second": rows[0]["states_per_s"],
        "host_ratio_vs_whole_text": rows[0]["ratio"],
        "store_states_per_second": round(_STORED / reading),
        "store_bytes_per_state": round(kept),
    }
    return timing.Result(rows, summary)


def _measure_case(prompt_tokens: int, num_actions: int, repeats: int) -> dict[str, Any]:
    lm: Any = SimpleNamespace(
        tokenizer=models.load("tiny").tokenizer,
        config=SimpleNamespace(max_position_embeddings=1 << 20, vocab_size=1 << 20),
    )
    seconds: dict[str, list[float]] = {"whole": [], "tokenizing": [], "packing": []}
    for repeat in range(repeats + 1):
        drawn = scoring.workload(prompt_tokens, num_actions, False, seed=repeat, states=_STATES)
        prompts = [state.prompt for state in drawn]
        lists = [state.actions for state in drawn]
        texts = [state.prompt + action for state in drawn for action in state.actions]
        began = time.process_time()
        lm.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        whole = time.process_time()
        states = tokenize(lm, prompts, lists)
        tokenized = time.process_time()
        for start in range(0, _STATES, _PACKED_AT_ONCE):
            collections.deque(packing.passes(states[start : start + _PACKED_AT_ONCE]), maxlen=0)
        packed = time.process_time()
        if repeat:  # In the first, words are new.
            seconds["whole"].append(whole - began)
            seconds["tokenizing"].append(tokenized - whole)
            seconds["packing"].append(packed - tokenized)
    of_state = {part: statistics.median(taken) / _STATES for part, taken in seconds.items()}
    ours = of_state["tokenizing"] + of_state["packing"]
    return {
        "prompt": prompt_tokens,
        "actions": num_actions,
        "states_per_s": round(1 / ours),
        "whole_text_states_per_s": round(1 / of_state["whole"]),
        "ratio": round(of_state["whole"] / ours, 1),
        "tokenizing_ms": round(1e3 * of_state["tokenizing"], 3),
        "packing_ms": round(1e3 * of_state["packing"], 3),
    }


def _measure_store(repeats: int) -> tuple[float, float]:
    """Median time of reading all scores of a store, and the bytes that each of them takes."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((_STORED, _STORED_ACTIONS, _WIDTH), np.float32)
    features = np.asarray(shorten(jnp.asarray(hidden), jnp.asarray(rotation(_WIDTH))))
    log_probs = np.full(_STORED_ACTIONS, -2.0, np.float32)
    lengths = np.full(_STORED_ACTIONS, 4, np.int32)

    def scores(repeat: int, state: int) -> priors.StoredScores:
        number = state // _STATES_OF_A_LIST
        actions = tuple(f" go to place {repeat} {number} {a}" for a in range(_STORED_ACTIONS))
        return priors.StoredScores(actions, log_probs, lengths, features[state])

    seconds = []
    with (
        tempfile.TemporaryDirectory() as directory,
        priors.PriorStore(Path(directory) / "store.sqlite") as store,
    ):
        for repeat in range(repeats):
            prompts = [f"State {repeat} {state}. Next:" for state in range(_STORED)]
            said = {prompt: scores(repeat, state) for state, prompt in enumerate(prompts)}
            store.put_scores("model", "model", said)
            began = time.process_time()
            for start in range(0, _STORED, _READ_AT_ONCE):
                store.get_scores("model", prompts[start : start + _READ_AT_ONCE])
            seconds.append(time.process_time() - began)
        kept = store.usage()[0].bytes_per_prompt
    return statistics.median(seconds), kept
