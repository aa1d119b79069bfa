"""Models that are not ours score through the documented call signature, by their own numbers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import transformers
from flax import nnx

from llmprior_jax.models import LanguageModel
from llmprior_jax.priors import score

WORDS = ["go", "to", "the", "plate", "and", "stop", "now", "Next:", "Task:", "Seen:"]
V, D = len(WORDS), 6
PROMPTS = ["Task: go to the plate Next:", "Seen: the plate Next:"]
ACTIONS = [[" go to the plate", " go to the plate and stop", " stop"], [" stop now"]]


class Mean(nnx.Module):
    """A token's state is the mean of what it may see, turned by where that stands."""

    def __init__(self, rngs):
        self.embed = nnx.Param(jax.random.normal(rngs.params(), (V, D)))
        self.head = nnx.Linear(D, V, rngs=rngs)

    def __call__(self, tokens, positions, mask):
        seen = self.embed[...][tokens] * jnp.cos(positions[..., None] + jnp.arange(D))
        weight = mask / mask.sum(axis=-1, keepdims=True)
        return jnp.einsum("bij,bjd->bid", weight, seen)

    def logits(self, hidden):
        return self.head(hidden)


class Cached(nnx.Module):
    """As models of other libraries are: a cache comes in, logits and the cache go out."""

    def __init__(self, rngs):
        self.inner = Mean(rngs)

    def __call__(self, tokens, positions, cache, attention_mask):
        return self.inner.logits(self.inner(tokens, positions, attention_mask)), cache


class Adapter(nnx.Module):
    """What it takes to let one of those take part."""

    def __init__(self, model):
        self.model = model

    def __call__(self, tokens, positions, mask):
        return self.model(tokens, positions, None, mask)[0]

    def logits(self, hidden):
        return hidden


@pytest.fixture(scope="module")
def tokenizer():
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="go")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


def language_model(module, tokenizer, hidden_size) -> LanguageModel:
    config = types.SimpleNamespace(
        vocab_size=V, hidden_size=hidden_size, max_position_embeddings=32
    )
    return LanguageModel(config, *nnx.split(module), tokenizer, fingerprint="by hand")


def alone(module: Mean, tokenizer, prompt: str, action: str):
    """Score and last hidden state of one text, in NumPy."""
    tokens = tokenizer(prompt + action)["input_ids"]
    embed = np.asarray(module.embed[...], np.float64)
    seen = embed[tokens] * np.cos(np.arange(len(tokens))[:, None] + np.arange(D))
    hidden = np.cumsum(seen, axis=0) / np.arange(1, len(tokens) + 1)[:, None]
    logits = hidden @ np.asarray(module.head.kernel[...]) + np.asarray(module.head.bias[...])
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    first = len(tokenizer(prompt)["input_ids"])
    return sum(log_probs[i - 1, tokens[i]] for i in range(first, len(tokens))), hidden[-1]


def test_a_module_of_ones_own_scores_like_each_text_alone(tokenizer):
    module = Mean(nnx.Rngs(0))
    prior = score(language_model(module, tokenizer, D), PROMPTS, ACTIONS)
    for b, (prompt, group) in enumerate(zip(PROMPTS, ACTIONS, strict=True)):
        scores, hidden = zip(*(alone(module, tokenizer, prompt, a) for a in group), strict=True)
        expected = np.array(scores) - np.log(np.exp(scores).sum())
        np.testing.assert_allclose(prior.log_probs[b, : len(group)], expected, atol=1e-5)
        np.testing.assert_allclose(prior.features[b, : len(group)], hidden, atol=1e-5)


def test_a_model_that_takes_a_cache_and_gives_logits_takes_part_through_an_adapter(tokenizer):
    cached = Cached(nnx.Rngs(0))
    adapted = score(language_model(Adapter(cached), tokenizer, V), PROMPTS, ACTIONS)
    expected = score(language_model(cached.inner, tokenizer, D), PROMPTS, ACTIONS)
    np.testing.assert_allclose(adapted.log_probs, expected.log_probs, atol=1e-5)


def test_its_context_is_respected(tokenizer):
    lm = language_model(Mean(nnx.Rngs(0)), tokenizer, D)
    lm.config.max_position_embeddings = 5
    with pytest.raises(ValueError, match=r"context is 5"):
        score(lm, PROMPTS[:1], ACTIONS[:1])
