"""The scoring benchmark's other side: transformers and PyTorch, run in a process of its own.

This is the one module outside the tests that uses PyTorch, and it imports it only when called.
"""

import copy
import time
from collections.abc import Callable
from typing import Any

from launch.benchmarks import memory

_model: Any
_held_before: int


def has_accelerator() -> bool:
    """Whether there is another device than the CPU for `load`."""
    import torch

    return torch.cuda.is_available()


def load(fields: dict[str, Any], dtype: str) -> None:
    """Makes a model of random weights.

    Args:
      fields: what its `config.json` would say.
      dtype: of its weights.
    """
    global _model, _held_before
    import torch
    import transformers

    device = "cuda" if has_accelerator() else "cpu"
    torch.set_grad_enabled(False)
    _held_before = memory.resident_bytes()
    fields = dict(fields)
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    _model = model.eval().to(device)
    seconds("padded batch", [1, 2, 3], [[4, 5], [6]], 2)
    if device == "cpu":
        memory.reset_peak()


def seconds(way: str, prompt: list[int], actions: list[list[int]], num_pairs: int) -> float:
    """Time of scoring one state, or NaN where it would not fit into memory.

    Args:
      way: one of `WAYS`.
      prompt: its token ids.
      actions: the token ids of each action.
      num_pairs: so many "pairs" are timed, and all reckoned from them.
    """
    import torch

    part = actions[:num_pairs] if way == "pairs" else actions
    # Logits and their log-softmax in f32, both whole.
    longest = len(prompt) + max(map(len, actions))
    needed = 8 * _model.config.vocab_size * longest * len(actions)
    on_cpu = _model.device.type == "cpu"
    if way == "padded batch" and on_cpu and needed > 0.8 * memory.available_bytes():
        return float("nan")
    if on_cpu:
        memory.reset_peak()
    start = time.perf_counter()
    try:
        WAYS[way](_model, prompt, part).cpu()
    except torch.cuda.OutOfMemoryError:
        return float("nan")
    return (time.perf_counter() - start) * len(actions) / len(part)


def generate_seconds(prompts: list[list[int]], num_samples: int, new_tokens: int) -> float:
    """Time of writing so many answers of so many tokens to each prompt; one is greedy."""
    start = time.perf_counter()
    generate(_model, prompts, num_samples, new_tokens).cpu()
    return time.perf_counter() - start


def generate(model, prompts, num_samples, new_tokens):
    """Token ids [B * num_samples, new_tokens] of answers to a batch of prompts, none cut short."""
    ids, mask = _pad([prompt[::-1] for prompt in prompts], model.device)
    written = model.generate(
        ids.flip(1),  # Padding comes before the prompt.
        attention_mask=mask.flip(1),
        num_return_sequences=num_samples,
        do_sample=num_samples > 1,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        top_k=0 if num_samples > 1 else None,
        pad_token_id=0,
    )
    return written[:, ids.shape[1] :]


def score_pairs(model, prompt, actions):
    """Log-probabilities [A] of actions, one forward pass each."""
    import torch

    return torch.cat([score_padded_batch(model, prompt, [action]) for action in actions])


def score_padded_batch(model, prompt, actions):
    """Log-probabilities [A] of actions in one padded batch, with logits at every position."""
    import torch

    ids, mask = _pad([prompt + action for action in actions], model.device)
    logits = model(ids, attention_mask=mask).logits
    log_probs = torch.log_softmax(logits[:, :-1].float(), -1)
    own = log_probs.gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
    return own[:, len(prompt) - 1 :].sum(-1)


def score_shared_cache(model, prompt, actions):
    """Log-probabilities [A] of actions in one padded batch that goes on from the prompt's cache."""
    import torch

    read = model(torch.tensor([prompt], device=model.device), use_cache=True, logits_to_keep=1)
    cache = copy.deepcopy(read.past_key_values)
    cache.batch_repeat_interleave(len(actions))
    ids, mask = _pad(actions, model.device)
    seen = torch.ones(len(actions), len(prompt), dtype=mask.dtype, device=model.device)
    logits = model(
        ids, attention_mask=torch.cat([seen, mask], 1), past_key_values=cache, use_cache=True
    ).logits
    first = read.logits.expand(len(actions), -1, -1)
    log_probs = torch.log_softmax(torch.cat([first, logits[:, :-1]], 1).float(), -1)
    return (log_probs.gather(-1, ids[..., None])[..., 0] * mask).sum(-1)


# As the table of the benchmark names them.
WAYS: dict[str, Callable] = {
    "pairs": score_pairs,
    "padded batch": score_padded_batch,
    "shared cache": score_shared_cache,
}


def peak_memory() -> float:
    """The most memory that the last `seconds` took, as a multiple of the weights."""
    import torch

    weights = sum(p.numel() * p.element_size() for p in _model.parameters())
    if _model.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / weights
    return (memory.resident_bytes(peak=True) - _held_before) / weights


def _pad(rows, device):
    """Token ids [B, L] with zeros at the end, and i64[B, L], 1 where a token is."""
    import torch

    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids.to(device), mask.long().to(device)
