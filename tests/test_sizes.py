"""How much is scored at once: the rule, and that scores do not depend on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.benchmarks.scoring import _COMMON, SHAPES, workload
from llmprior_jax import models
from llmprior_jax.distributed import processes
from llmprior_jax.models import DecoderConfig
from llmprior_jax.priors import score_texts
from llmprior_jax.priors.scoring import packing, sizes
from llmprior_jax.priors.scoring.score import score_packed
from llmprior_jax.priors.scoring.sizes import Projection, Sizes

GIB = 1 << 30
CONFIGS = {name: DecoderConfig.from_hf(_COMMON | fields) for name, fields in SHAPES.items()}


def with_sizes(lm, chosen):
    lm = dataclasses.replace(lm)
    lm.kept["sizes"] = chosen
    return lm


@pytest.mark.parametrize(
    "chosen",
    [
        Sizes(rows=1, pass_tokens=1),
        Sizes(rows=16, pass_tokens=1 << 14, row_tokens=1024),
        Sizes(row_tokens=64, attention_tokens=1.0),
        Sizes(projection=Projection(7, 100)),
        Sizes(projection=Projection(256, 1024)),
    ],
)
def test_scores_are_the_same_at_all_sizes(chosen):
    lm = models.load("tiny")
    states = workload(40, 3, shared_prefix=False, states=6)
    texts = [state.prompt for state in states], [state.actions for state in states]
    expected = score_texts(with_sizes(lm, Sizes()), *texts)
    scores = score_texts(with_sizes(lm, chosen), *texts)
    np.testing.assert_allclose(scores.log_probs, expected.log_probs, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scores.features, expected.features, atol=1e-5)


def test_where_little_is_asked_rows_have_few_lengths():
    def lengths(count: int, chosen: Sizes) -> set[int]:
        """Of rows, for so many states at a time, of all numbers of tokens."""
        found = set()
        for tokens in range(129, 257):
            tails = packing.lay_out([[1]])
            heads = [np.full(tokens, head, np.int32) for head in range(count)]
            states = [packing.Sequences(head, tails) for head in heads]
            found |= {one.packed.tokens.shape[1] for one in packing.passes(states, chosen)}
        return found

    narrow = {"attention_tokens": 1.0}  # So that rows fit the longest state.
    assert lengths(1, Sizes(lengths_of_little=2, **narrow)) == {192, 256, 384}
    assert len(lengths(1, Sizes(**narrow))) > 6
    assert len(lengths(9, Sizes(lengths_of_little=2, **narrow))) > 6


@pytest.mark.parametrize(
    ("name", "platform", "lengths"),
    [("tiny", "cpu", 2), ("Qwen2.5-0.5B", "cpu", 8), ("Qwen2.5-7B", "gpu", 2)],
)
def test_a_row_that_takes_milliseconds_has_few_lengths(name, platform, lengths):
    chosen = sizes.rule(CONFIGS[name], platform, is_cut=False, free=100 * GIB)
    assert chosen.lengths_of_little == lengths


@pytest.mark.long
def test_gradients_are_the_same_by_parts_of_the_vocabulary():
    lm = models.load("tiny")
    tails = packing.lay_out([[5, 6], [5, 7, 1500], [0]])
    state = packing.Sequences(np.array([1, 2], np.int32), tails)
    ((packed, places),) = packing.passes([state])

    def total(params, projection):
        scores = score_packed(lm.graphdef, params, packed, projection=projection)[0]
        return jnp.sum(scores[places[:, 2]])

    gradient = jax.grad(total)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4),
        gradient(lm.params, Projection()),
        gradient(lm.params, Projection(2, 1000)),
    )


@given(st.integers(1, 200), st.integers(16, 2048), st.sampled_from([1, 4, 16, 64]))
@settings(max_examples=100, deadline=None)
def test_rows_are_cut_into_few_kinds_of_passes(rows, length, most):
    chosen = Sizes(rows=most, pass_tokens=8192)
    cuts = packing._cuts(rows, length, chosen)
    counts = np.diff(cuts).tolist()
    assert cuts[0] == 0
    assert cuts[-1] == rows
    assert set(counts) <= set(chosen.rows_per_pass(length))
    assert all(count * length <= 8192 for count in counts if count > 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_cpu_a_part_of_the_vocabulary_fits_into_its_cache(name):
    chosen = sizes.rule(CONFIGS[name], "cpu", is_cut=False, free=0)
    columns = chosen.projection.columns
    if columns is None:
        assert CONFIGS[name].vocab_size * CONFIGS[name].hidden_size <= 1 << 20
    else:
        assert 1 << 19 < columns * CONFIGS[name].hidden_size <= 1 << 20
    assert (chosen.rows, chosen.pass_tokens, chosen.row_tokens) == (4, 2048, 512)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("free", [2 * GIB, 16 * GIB, 100 * GIB])
def test_on_an_accelerator_what_is_held_fits_into_its_memory(name, platform, free):
    config = CONFIGS[name]
    chosen = sizes.rule(config, platform, is_cut=False, free=free)
    assert chosen.projection.columns is None
    assert chosen.projection.positions * config.vocab_size * 4 <= free / 16
    scores = 2 * config.num_attention_heads * chosen.row_tokens
    assert 4 * chosen.pass_tokens * (3 * config.intermediate_size + scores) <= free / 4
    assert chosen.pass_tokens <= 16_384


def test_a_larger_model_needs_fewer_tokens_to_fill_an_accelerator():
    tokens = {
        name: sizes.rule(config, "gpu", is_cut=False, free=100 * GIB).pass_tokens
        for name, config in CONFIGS.items()
    }
    assert tokens["Qwen2.5-0.5B"] == 16_384
    assert tokens["Qwen2.5-7B"] == 4_096


def test_a_model_cut_over_devices_projects_the_vocabulary_whole():
    chosen = sizes.rule(CONFIGS["Qwen2.5-0.5B"], "cpu", is_cut=True, free=0)
    assert chosen.projection.columns is None


def test_of_a_model_of_another_kind_nothing_is_taken_for_granted():
    assert sizes.rule(None, "gpu", is_cut=False, free=100 * GIB) == Sizes()


def test_the_memory_of_the_first_process_counts_for_all(monkeypatch):
    """Each has memory of its own, and shapes must not depend on which."""
    lm = models.load("tiny")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    lm = models.partition(lm, mesh)
    heard = []
    monkeypatch.setattr(processes, "from_first", lambda make: (77 * GIB).to_bytes(8))
    monkeypatch.setattr(sizes, "rule", lambda *arguments: heard.append(arguments) or Sizes())
    assert sizes.choose(lm) is sizes.choose(lm)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
    assert heard == [(lm.config, "cpu", False, 77 * GIB - weights)]


def test_a_part_of_the_logits_is_a_part_of_the_logits():
    lm = models.load("tiny")
    model = nnx.merge(lm.graphdef, lm.params)
    hidden = jax.random.normal(jax.random.key(0), (3, lm.config.hidden_size))
    some = model.some_logits(100, 50)(hidden)
    np.testing.assert_allclose(some, model.logits(hidden)[:, 100:150], atol=1e-5)
