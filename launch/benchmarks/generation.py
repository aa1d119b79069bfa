"""Sampling answers to prompts: as here, and with the `generate` of transformers and PyTorch.

    python -m launch.benchmark generation [--shape=Qwen2.5-0.5B] [--prompt_tokens=128,512]
        [--samples=1,8] [--new_tokens=16] [--dtype=float32] [--repeats=3] [--json]

A model of the named shape with random weights writes so many answers of so many tokens to each of
four prompts, the same in every way; of random weights none ends early. One answer is greedy,
several are sampled. Ours are timed from text to text. transformers' `generate` gets token ids, one
prompt at a time ("generate, one by one") and all prompts in one batch ("generate, batch"); it
repeats the prompt's cache for every answer. Each side runs in a process of its own, and they take
turns.

Measured on 2 CPU cores, f32, Qwen2.5-0.5B's shape, prompts of 130 tokens: one greedy answer 12.4
tokens/s, 2.5 times `generate` one by one and 1.3 times in a batch; eight sampled answers 60.1
tokens/s, 4.8 and 3.5 times.
"""

import collections
import statistics
from collections.abc import Sequence
from typing import Any

from launch.benchmarks import scoring, scoring_here, scoring_torch, timing


def measure(
    shape: str,
    dtype: str,
    prompt_tokens: Sequence[int],
    samples: Sequence[int],
    new_tokens: int,
    repeats: int,
) -> timing.Result:
    """Generates for every workload in every way.

    Args:
      shape: of the language model, one of `scoring.SHAPES`.
      dtype: of its weights.
      prompt_tokens: lengths of prompts, about.
      samples: numbers of answers to a prompt.
      new_tokens: tokens of an answer.
      repeats: timings of each way.
    """
    with scoring.both_sides(shape, dtype) as (here, there, _):
        rows = [
            row
            for num_samples in samples
            for num_tokens in prompt_tokens
            for row in _measure_case(num_tokens, num_samples, new_tokens, repeats, here, there)
        ]
    return timing.Result(rows, {"shape": shape, "dtype": dtype, "new_tokens": new_tokens})


def _measure_case(
    prompt_tokens: int, samples: int, new_tokens: int, repeats: int, here, there
) -> list[dict[str, Any]]:
    """One row for each way; the first is ours."""
    states = scoring.workload(prompt_tokens, num_actions=1, shared_prefix=False)
    texts, ids = [state.prompt for state in states], [state.prompt_ids for state in states]
    sizes = (samples, new_tokens)
    compiling = here(scoring_here.generate_seconds, texts, *sizes)
    compiling -= here(scoring_here.generate_seconds, texts, *sizes)
    if there is not None:
        there(scoring_torch.generate_seconds, ids[:1], *sizes)  # Its first call is slower, too.
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for _ in range(repeats):
        seconds["ours"].append(here(scoring_here.generate_seconds, texts, *sizes))
        if there is not None:
            taken = sum(there(scoring_torch.generate_seconds, [prompt], *sizes) for prompt in ids)
            seconds["generate, one by one"].append(taken)
            seconds["generate, batch"].append(there(scoring_torch.generate_seconds, ids, *sizes))
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    return [
        {
            "prompt_tokens": round(statistics.mean(map(len, ids))),
            "samples": samples,
            "way": way,
            "tokens_per_s": round(len(ids) * samples * new_tokens / taken, 1),
            "ours_is_faster": round(taken / medians["ours"], 2),
            "compile_s": round(compiling, 1) if way == "ours" else None,
        }
        for way, taken in medians.items()
    ]
