"""The scoring benchmark: its ways agree, and its counts are those of a workload done by hand."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from launch import benchmark
from launch.benchmarks import scoring, scoring_host, scoring_torch
from llmprior_jax import models, priors
from llmprior_jax.models import DecoderConfig
from llmprior_jax.models.formats import places

FIELDS = scoring._COMMON | scoring.SHAPES["tiny"]


@pytest.fixture(scope="module")
def model():
    """The embedded model in transformers."""
    directory = places._EMBEDDED["tiny"]
    return transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def test_all_ways_score_alike(model):
    states = scoring.workload(prompt_tokens=40, num_actions=3, shared_prefix=True)
    prior = priors.score_actions(
        models.load("tiny"), [s.prompt for s in states], [s.actions for s in states]
    )
    ways = (
        scoring_torch.score_pairs,
        scoring_torch.score_padded_batch,
        scoring_torch.score_shared_cache,
    )
    for way in ways:
        totals = [way(model, state.prompt_ids, state.action_ids) for state in states]
        expected = torch.log_softmax(torch.stack(totals).double(), -1)
        np.testing.assert_allclose(prior, expected, atol=5e-5, err_msg=way.__name__)


@torch.no_grad()
def test_both_sides_write_the_same_answers(model):
    lm = models.load("tiny")
    states = scoring.workload(prompt_tokens=20, num_actions=1, shared_prefix=False)
    texts = [state.prompt for state in states]
    greedy = priors.Sampling(max_new_tokens=6, temperature=0.0, stop=())
    ours = priors.generate(lm, texts, priors.prompt_keys(jax.random.key(0), texts), 1, greedy)
    theirs = scoring_torch.generate(model, [state.prompt_ids for state in states], 1, 6)
    for (answer,), ids in zip(ours, theirs.tolist(), strict=True):
        written = lm.tokenizer.decode(ids)
        # Theirs goes on after the end of a text, so as to be as long as asked.
        assert written.startswith(answer.text)
        assert answer.finished or written == answer.text


def test_what_the_host_does_is_measured_alone(capsys, monkeypatch):
    monkeypatch.setattr(scoring_host, "_STATES", 3)
    monkeypatch.setattr(scoring_host, "_STORED", 4)
    flags = ["--host_only", "--json", "--prompt_tokens=16", "--actions=2,3", "--repeats=1"]
    benchmark.main(benchmark.FLAGS(["benchmark", "scoring", *flags]))
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    first, _ = told["rows"]
    assert (first["prompt"], first["actions"]) == (16, 2)
    assert told["host_states_per_second"] == first["states_per_s"] > 0
    assert told["host_ratio_vs_whole_text"] == first["ratio"] > 0
    assert told["store_states_per_second"] > 0


@pytest.mark.parametrize("shared_prefix", [False, True])
def test_a_workload_is_as_long_as_asked(shared_prefix):
    states = scoring.workload(prompt_tokens=128, num_actions=50, shared_prefix=shared_prefix)
    for state in states:
        assert 120 <= len(state.prompt_ids) <= 145
        assert len(set(state.actions)) == 50
        assert 6 <= np.mean([len(ids) for ids in state.action_ids]) <= 9
    heads = {tuple(state.prompt_ids[:60]) for state in states}
    assert len(heads) == (1 if shared_prefix else len(states))


def test_needed_flops_by_hand():
    config = DecoderConfig.from_hf(FIELDS)
    config = dataclasses.replace(
        config,
        hidden_size=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=2,
        intermediate_size=8,
        num_hidden_layers=3,
        vocab_size=10,
    )
    # Inputs: 7, 7 8, 7 8 1, of 1, 2 and 3 tokens. Queries: after 7 8, and after 7 8 1.
    state = scoring.State("", [], [7, 8], [[1, 2], [1, 3], [4]])
    projections = 4 * (4 + 2 + 2 + 4) + 3 * 4 * 8
    attention = 2 * 4 * (1 + 2 + 3)
    expected = 2 * (3 * (3 * projections + attention) + 2 * 10 * 4)
    assert scoring.needed_flops(config, [state, state]) == expected
