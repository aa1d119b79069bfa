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

import statistics
from typing import Any

from absl import flags

from launch.benchmarks import scoring, scoring_here, scoring_torch, timing

_SAMPLES = flags.DEFINE_list("samples", ["1", "8"], "Answers to a prompt.")
_NEW_TOKENS = flags.DEFINE_integer("new_tokens", 16, "Tokens of an answer.", lower_bound=1)


def measure() -> timing.Result:
    """Generates for every workload in every way."""
    with scoring.both_sides() as (here, there, _):
        rows = [
            row
            for samples in scoring.whole_numbers("samples", _SAMPLES.value)
            for tokens in scoring.whole_numbers("prompt_tokens", scoring.PROMPT_TOKENS.value)
            for row in _measure_case(tokens, samples, here, there)
        ]
    summary = {
        "shape": scoring.SHAPE.value,
        "dtype": scoring.DTYPE.value,
        "new_tokens": _NEW_TOKENS.value,
    }
    return timing.Result(rows, summary)


def _measure_case(prompt_tokens: int, samples: int, here, there) -> list[dict[str, Any]]:
    """One row for each way; the first is ours."""
    states = scoring.workload(prompt_tokens, num_actions=1, common_head=False)
    texts, ids = [state.prompt for state in states], [state.prompt_ids for state in states]
    sizes = (samples, _NEW_TOKENS.value)
    compiling = here(scoring_here.generate_seconds, texts, *sizes)
    compiling -= here(scoring_here.generate_seconds, texts, *sizes)
    if there is not None:
        there(scoring_torch.generate_seconds, ids[:1], *sizes)  # Its first call is slower, too.
    seconds: dict[str, list[float]] = {}
    for _ in range(scoring.REPEATS.value):
        taken = here(scoring_here.generate_seconds, texts, *sizes)
        seconds.setdefault("ours", []).append(taken)
        if there is not None:
            taken = sum(there(scoring_torch.generate_seconds, [prompt], *sizes) for prompt in ids)
            seconds.setdefault("generate, one by one", []).append(taken)
            taken = there(scoring_torch.generate_seconds, ids, *sizes)
            seconds.setdefault("generate, batch", []).append(taken)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    return [
        {
            "prompt_tokens": round(statistics.mean(map(len, ids))),
            "samples": samples,
            "way": way,
            "tokens_per_s": round(len(ids) * samples * _NEW_TOKENS.value / taken, 1),
            "ours_is_faster": round(taken / medians["ours"], 2),
            "compile_s": round(compiling, 1) if way == "ours" else None,
        }
        for way, taken in medians.items()
    ]
