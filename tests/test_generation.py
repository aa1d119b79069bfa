"""Generation against transformers' `generate`, its distributions against exact ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from test_models import V, torch_model, write_tokenizer

from llmprior_jax import models
from llmprior_jax.priors import Sampling, generate, prompt_keys
from llmprior_jax.priors.sampling.generation import sample_tokens

PROMPTS = ["w3 w4 w5 w9 w23 w7 w80", "w17", "w5 w60 w61 w62 w9 w11 w12 w13 w14 w15 w33"]
END = 1  # The id of the tokenizer's "<end>".
EVERY_TOKEN = Sampling(max_new_tokens=12, stop=())
GREEDY = EVERY_TOKEN._replace(temperature=0.0)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Writes each variant once: name -> (language model, PyTorch model)."""

    @functools.cache
    def write(variant: str) -> tuple[models.LanguageModel, torch.nn.Module]:
        directory = tmp_path_factory.mktemp(variant)
        model = torch_model(variant)
        model.save_pretrained(directory)
        write_tokenizer(directory)
        return models.load(directory), model

    return write


@pytest.fixture(scope="module")
def lm(write):
    return write("qwen2")[0]


def ids(text: str) -> list[int]:
    special = {"<unknown>": 0, "<end>": END}
    return [special[word] if word in special else int(word[1:]) for word in text.split()]


def complete(lm, prompts, num_samples=1, sampling=EVERY_TOKEN, key=KEY):
    return generate(lm, prompts, prompt_keys(key, prompts), num_samples, sampling)


def sample_ids(lm, ends, temperature=1.0, top_p=1.0, **sizes):
    """`sample_tokens` of the first prompt."""
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, :7] = ids(PROMPTS[0])
    arguments = (tokens, np.array([7], np.int32), KEY[None], ends, temperature, top_p)
    return sample_tokens(lm.graphdef, lm.params, *arguments, **sizes)


N = 2000


def sampled_pairs(lm, temperature=1.0, top_p=1.0):
    """Answers of two tokens to the first prompt, i32[N, 2]."""
    sizes = {"num_samples": N, "max_new_tokens": 2}
    return np.asarray(sample_ids(lm, np.zeros(V, bool), temperature, top_p, **sizes).tokens[0])


def assert_frequencies(tokens, probabilities):
    """Four standard deviations of a count, for each of 96 tokens."""
    counts = np.bincount(tokens, minlength=V)
    expected = len(tokens) * np.asarray(probabilities)
    np.testing.assert_array_equal(counts[expected == 0], 0)
    assert np.all(np.abs(counts - expected) < 4 * np.sqrt(expected) + 1)


@torch.no_grad()
def reference_logits(model, tokens: list[int]) -> torch.Tensor:
    return model(torch.tensor([tokens])).logits[0, -1]


# Greedy.


@pytest.mark.parametrize("variant", ["qwen3", "llama_llama3_rope", "mistral", "gemma3"])
def test_greedy_tokens_are_those_of_transformers(write, variant):
    lm, model = write(variant)
    for prompt, (answer,) in zip(PROMPTS, complete(lm, PROMPTS, sampling=GREEDY), strict=True):
        expected = model.generate(
            torch.tensor([ids(prompt)]),
            do_sample=False,
            max_new_tokens=GREEDY.max_new_tokens,
            eos_token_id=END,
            pad_token_id=0,
        )[0, len(ids(prompt)) :].tolist()
        assert answer.finished == (expected[-1] == END)
        assert ids(answer.text) == [token for token in expected if token != END]


# Distributions.


def test_tokens_come_as_often_as_they_are_likely(write):
    lm, model = write("qwen2")
    logits = reference_logits(model, ids(PROMPTS[0]))
    assert_frequencies(sampled_pairs(lm, 2.0)[:, 0], (logits / 2.0).softmax(-1))


def test_later_tokens_follow_from_their_own_answer(write):
    """Second tokens against PyTorch's conditional on the first: answers share a cache."""
    lm, model = write("qwen2")
    pairs = sampled_pairs(lm, 0.5)
    first, count = np.unique(pairs[:, 0], return_counts=True)
    token = first[count.argmax()]
    assert count.max() > 200
    logits = reference_logits(model, [*ids(PROMPTS[0]), int(token)])
    assert_frequencies(pairs[pairs[:, 0] == token, 1], (logits / 0.5).softmax(-1))


def test_the_nucleus_is_that_of_transformers(write):
    lm, model = write("qwen2")
    logits = reference_logits(model, ids(PROMPTS[0]))[None]
    nucleus = transformers.generation.logits_process.TopPLogitsWarper(0.6)(None, logits)[0]
    assert 2 <= np.isfinite(nucleus).sum() < 30
    assert_frequencies(sampled_pairs(lm, top_p=0.6)[:, 0], nucleus.softmax(-1))


def test_a_tiny_nucleus_is_greedy(lm):
    narrow = EVERY_TOKEN._replace(top_p=1e-6)
    assert complete(lm, PROMPTS, sampling=narrow) == complete(lm, PROMPTS, sampling=GREEDY)


# What an answer depends on.


@pytest.mark.long
def test_an_answer_depends_on_its_prompt_and_key_only(lm):
    together = complete(lm, [*PROMPTS, PROMPTS[0]], 3)
    assert together[0] == together[3]  # The same prompt again.
    assert complete(lm, PROMPTS[::-1], 3) == together[2::-1]
    for prompt, answers in zip(PROMPTS, together, strict=False):
        assert complete(lm, [prompt], 3) == [answers]
    longest = [*PROMPTS, " ".join(["w8"] * 40)]
    assert complete(lm, longest, 3)[:3] == together[:3]


def test_more_samples_begin_with_fewer(lm):
    assert complete(lm, PROMPTS[:1], 5)[0][:3] == complete(lm, PROMPTS[:1], 3)[0]


def test_samples_prompts_and_keys_differ(lm):
    answers = complete(lm, PROMPTS, 3) + complete(lm, PROMPTS, 3, key=jax.random.key(1))
    assert len({answer.text for group in answers for answer in group}) == 18


# Ends.


def test_a_stop_string_may_spread_over_tokens(lm):
    (whole,) = complete(lm, PROMPTS[:1])[0]
    words = whole.text.split()
    assert not whole.finished
    assert len(words) == 12
    stop = f"{words[4][-1]} {words[5]} {words[6][:2]}"
    (cut,) = complete(lm, PROMPTS[:1], sampling=EVERY_TOKEN._replace(stop=("never", stop)))[0]
    assert cut.finished
    assert cut.text == whole.text.split(stop)[0]
    assert cut.text.split()[:4] == words[:4]


def test_the_first_of_several_stop_strings_counts(lm):
    (whole,) = complete(lm, PROMPTS[:1])[0]
    words = whole.text.split()
    stop = (words[7], words[2], words[9])
    (cut,) = complete(lm, PROMPTS[:1], sampling=EVERY_TOKEN._replace(stop=stop))[0]
    assert cut.text.split() == words[: min(map(words.index, stop))]


def test_an_answer_that_does_not_stop_is_bounded_and_says_so(lm):
    for length in (1, 12):
        ((answer,),) = complete(lm, PROMPTS[:1], 1, EVERY_TOKEN._replace(max_new_tokens=length))
        assert not answer.finished
        assert len(answer.text.split()) == length


def test_a_special_token_ends_an_answer_and_is_not_its_text(lm):
    uniform = jax.tree.map(jnp.copy, lm.params)
    uniform["lm_head"]["kernel"] = jax.tree.map(jnp.zeros_like, uniform["lm_head"]["kernel"])
    answers = complete(dataclasses.replace(lm, params=uniform), PROMPTS[:1], 400)[0]
    assert {answer.finished for answer in answers} == {True, False}
    assert "<end>" not in "".join(answer.text for answer in answers)
    # Uniform over 96 tokens, 12 of them: 1 - (95 / 96) ** 12 = 0.118 of the answers end.
    assert abs(np.mean([answer.finished for answer in answers]) - 0.118) < 0.05


def test_the_decoder_runs_no_longer_than_an_answer_goes_on(lm):
    sizes = {"num_samples": 3, "max_new_tokens": 12}
    assert sample_ids(lm, np.zeros(V, bool), **sizes).num_steps == 11
    assert sample_ids(lm, np.ones(V, bool), **sizes).num_steps == 0
    ends = np.arange(V) < V // 3
    sampled = sample_ids(lm, ends, **sizes)
    lengths = (np.asarray(sampled.tokens[0]) >= 0).sum(-1)
    assert 1 < lengths.max() < 12
    assert sampled.num_steps == lengths.max() - 1
    for answer, n in zip(np.asarray(sampled.tokens[0]), lengths, strict=True):
        assert ends[answer[n - 1]]
        assert not ends[answer[: n - 1]].any()


def test_no_prompts_give_no_answers(lm):
    assert complete(lm, []) == []


# What is refused.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ("",)}, "stop is"),
        ({"stop": "\n"}, "stop is"),
        ({"max_new_tokens": 60}, "prompt 0 has 7 tokens .* 60, .* context is 64"),
    ],
)
def test_options_out_of_range_are_refused(lm, changes, said):
    with pytest.raises(ValueError, match=said):
        complete(lm, PROMPTS, sampling=EVERY_TOKEN._replace(**changes))


def test_prompts_that_cannot_be_continued_are_refused(lm):
    with pytest.raises(TypeError, match="put it in a list"):
        generate(lm, PROMPTS[0], KEY[None])
    with pytest.raises(TypeError, match="prompt 1 must be a string, not int"):
        generate(lm, ["w3", 3], jax.random.split(KEY))  # pyright: ignore
    with pytest.raises(ValueError, match="prompt 1 makes no token"):
        complete(lm, ["w3", " "])
    with pytest.raises(ValueError, match="2 prompts and 1 keys"):
        generate(lm, PROMPTS[:2], KEY[None])
    with pytest.raises(ValueError, match="num_samples is 0"):
        complete(lm, PROMPTS, 0)


def test_a_model_that_gives_nan_is_reported(lm):
    broken = dataclasses.replace(lm, params=jax.tree.map(lambda x: x * jnp.nan, lm.params))
    with pytest.raises(ValueError, match="no finite logits after prompt 0"):
        complete(broken, PROMPTS[:1])
