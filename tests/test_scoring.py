"""Packed scoring against scoring each prompt + action alone with PyTorch.

The reference is written from the definition: tokenize the prompt and the joined texts, run each
joined text alone and unpadded through transformers' model, and add up the log-probabilities of the
tokens after those that the prompt and all of them share.
"""

import dataclasses
import functools
import itertools
import math
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from llmprior_jax.models import Decoder, load
from llmprior_jax.priors import score, score_actions
from llmprior_jax.priors.scoring import packing, shared_prefix, sizes
from llmprior_jax.priors.scoring.score import score_packed

TEXTS = [
    "Task: make a tomato salad\nNow: You see a tomato on the counter.\nNext: pick up the tomato",
    "Seen: The lettuce is chopped.\nDone: go to the cutting board\nNext: go to the plate",
    "go to the sink and go to the stove and pick up the plate",
]
PROMPTS = [
    "Task: make a tomato salad\nNow: You see a tomato on the counter.\nNext:",
    "Task: make a tomato salad\nNow: The lettuce is chopped.\nNext:",
    "Task: wash up\nSeen: a plate\nDone: go to the plate\nNow: You see the sink.\nNext:",
    "Next:",
]
ACTIONS = [
    [" pick up the tomato", " go to the cutting board", " go to the plate", " go to the sink"],
    [" go to", " go to the plate", " go to the plate", " chop!"],
    [" wash the plate"],
    [
        " pick up the tomato",
        " stop",
        "stop",
        " \u00e9t\u00e9 \u2603",
        " go to the stove and pick up the plate",
    ],
]

# Long texts that fill a row of 128 each: most tests score in this company, so that they share two
# compiled shapes. Every tokenizer here makes single letters of them.
CROWD = ["D" + "N" * 123, "S" + "N" * 123, "T" + "N" * 123]


def score_in_a_crowd(lm, prompts, actions, *args):
    """`score`, of NumPy arrays, with other states in the batch."""
    prior = score(lm, [*prompts, *CROWD], [*actions, *[[" go"]] * 3], *args)
    n, widest = len(prompts), max(map(len, actions))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n, :widest], prior)


def _bpe(pre_tokenizer, vocab_size):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    alphabet = sorted({c for text in TEXTS for c in text})
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=alphabet,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _fast(tokenizer):
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def plain_tokenizer():
    """Byte-level BPE whose words begin with their space, as Qwen's."""
    return _fast(_bpe(tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), 320))


@pytest.fixture(scope="module")
def bos_tokenizer():
    """The same with a token before every text, as Llama's, and one after it."""
    tokenizer = _bpe(tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), 320)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return _fast(tokenizer)


@pytest.fixture(scope="module")
def merging_tokenizer():
    """BPE without pre-tokenization: tokens hold spaces, colons and several words."""
    return _fast(_bpe(None, 100))


def _config(family, **kwargs):
    return getattr(transformers, f"{family}Config")(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        # Far from uniform predictions, so that a token in the wrong place shows.
        initializer_range=0.3,
        **kwargs,
    )


def _pair(family, tokenizer, directory, **kwargs):
    """One random checkpoint, read by transformers and by us."""
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(_config(family, **kwargs)).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model, load(directory)


@pytest.fixture(scope="module")
def qwen(plain_tokenizer, tmp_path_factory):
    return _pair("Qwen2", plain_tokenizer, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def lm(qwen):
    return qwen[1]


class Alone:
    """Scores and features of one prompt + action at a time."""

    def __init__(self, model, tokenizer, lead=()):
        self.model, self.tokenizer, self.lead = model, tokenizer, list(lead)
        self.pair = functools.cache(self._pair)

    def tokens(self, text):
        return (
            self.lead + self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        )

    def first(self, prompt, actions):
        prompt, *joint = self.tokens(prompt), *(self.tokens(prompt + a) for a in actions)
        columns = zip(prompt, *joint, strict=False)  # as far as the shortest
        return len(list(itertools.takewhile(lambda column: len(set(column)) == 1, columns)))

    @torch.no_grad()
    def _pair(self, prompt, action, first):
        joint = self.tokens(prompt + action)
        out = self.model(torch.tensor([joint]), output_hidden_states=True)
        log_probs = torch.log_softmax(out.logits[0].double(), -1)
        total = sum(log_probs[i - 1, joint[i]].item() for i in range(first, len(joint)))
        return total, len(joint) - first, out.hidden_states[-1][0, -1].numpy()

    def prior(self, prompt, actions, normalization="sum", temperature=1.0):
        first = self.first(prompt, actions)
        divisor = {
            "sum": lambda action: 1,
            "token": lambda action: self.pair(prompt, action, first)[1],
            "word": lambda action: len(action.split()),
        }[normalization]
        scores = [self.pair(prompt, action, first)[0] / divisor(action) for action in actions]
        weights = np.exp(np.array(scores) / temperature)
        return np.log(weights / weights.sum())

    def check(self, prior, prompts, actions):
        for b, (prompt, group) in enumerate(zip(prompts, actions, strict=True)):
            n = len(group)
            # Totals reach 82 nats, where neighbors in f32 are 8e-6 apart.
            np.testing.assert_allclose(prior.log_probs[b, :n], self.prior(prompt, group), atol=4e-5)
            first = self.first(prompt, group)
            features = [self.pair(prompt, action, first)[2] for action in group]
            # Two libraries round differently: a few parts in 10^5 of states of size 2.
            np.testing.assert_allclose(prior.features[b, :n], features, atol=4e-5)
            assert np.all(np.isneginf(prior.log_probs[b, n:]))
            assert np.all(prior.features[b, n:] == 0)


@pytest.fixture(scope="module")
def alone(qwen, plain_tokenizer):
    return Alone(qwen[0], plain_tokenizer)


# Values.


def test_log_probs_and_features_are_those_of_each_pair_alone(lm, alone):
    prior = score(lm, PROMPTS, ACTIONS)
    assert prior.log_probs.shape == (4, 5)
    assert prior.log_probs.dtype == prior.features.dtype == jnp.float32
    assert prior.features.shape == (4, 5, 32)
    alone.check(prior, PROMPTS, ACTIONS)


def test_score_actions_gives_the_log_probs_of_score(lm):
    np.testing.assert_array_equal(
        score_actions(lm, PROMPTS, ACTIONS), score(lm, PROMPTS, ACTIONS).log_probs
    )


@pytest.mark.parametrize("normalization", ["sum", "token", "word"])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_normalization_and_temperature(lm, alone, normalization, temperature):
    ours = score_in_a_crowd(lm, PROMPTS, ACTIONS, normalization, temperature).log_probs
    for b, group in enumerate(ACTIONS):
        expected = alone.prior(PROMPTS[b], group, normalization, temperature)
        np.testing.assert_allclose(ours[b, : len(group)], expected, atol=3e-5)


def test_the_default_is_the_probability_of_the_text(lm):
    np.testing.assert_array_equal(
        score_in_a_crowd(lm, PROMPTS, ACTIONS).log_probs,
        score_in_a_crowd(lm, PROMPTS, ACTIONS, "sum", 1.0).log_probs,
    )


def test_an_action_given_twice_gets_its_share_twice(lm):
    once = np.exp(score_in_a_crowd(lm, ["Next:"], [[" go", " stop"]]).log_probs[0])
    twice = np.exp(score_in_a_crowd(lm, ["Next:"], [[" go", " stop", " go"]]).log_probs[0])
    assert twice[0] == twice[2]
    np.testing.assert_allclose(twice, once[[0, 1, 0]] / (once[0] + once.sum()), rtol=1e-5)


def test_a_longer_action_may_begin_with_a_shorter_one(lm, alone):
    group = [" go to the plate", " go", " go to", " go to the plate and go"]
    alone.check(score_in_a_crowd(lm, PROMPTS[:1], [group]), PROMPTS[:1], [group])


def test_a_prompt_may_begin_with_another_prompt_and_its_action(lm, alone):
    prompts = ["Task: go", "Task: go to", "Task: go to the"]
    actions = [[" to the sink", " to the"], [" the sink", " the plate"], [" sink"]]
    alone.check(score_in_a_crowd(lm, prompts, actions), prompts, actions)


def test_no_prompts_give_an_empty_prior(lm):
    prior = score(lm, [], [])
    assert prior.log_probs.shape == (0, 0)
    assert prior.features.shape == (0, 0, 32)


# Invariance.


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_score_does_not_depend_on_the_rest_of_the_batch(lm, alone, data):
    order = data.draw(st.permutations(PROMPTS * 2))
    pool = sorted({action for group in ACTIONS for action in group})
    groups = [data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6)) for _ in order]
    alone.check(score_in_a_crowd(lm, order, groups), order, groups)


# The head that prompts have in common.

HEAD = "Seen: a plate\n" + "Next: go to the sink and go to the stove and pick up the plate\n" * 4
HEADED = [HEAD + prompt for prompt in ("Task: wash up\nNext:", "Now: go", "Next:")]


@pytest.mark.parametrize("head", [None, HEAD, HEAD[:9]], ids=["found", "given", "within a word"])
def test_a_head_read_apart_changes_no_score(lm, alone, head):
    lm = dataclasses.replace(lm)  # Nothing is kept with it yet.
    alone.check(score(lm, HEADED, ACTIONS[:3], head=head), HEADED, ACTIONS[:3])
    (tokens,) = (np.frombuffer(name, np.int32) for name in lm.kept["prefixes"])
    assert tokens.tolist() == alone.tokens(HEADED[0])[: len(tokens)]
    if head is None:
        assert 64 <= len(tokens) <= len(alone.tokens(HEAD))
    else:
        # The last token of a head that ends within a word is another one in the prompts.
        assert len(tokens) == len(alone.tokens(head)) - (head == HEAD[:9])


def test_a_head_is_read_once_for_all_calls(lm, monkeypatch):
    lm = dataclasses.replace(lm)
    monkeypatch.setattr(shared_prefix, "_read", mock.Mock(wraps=shared_prefix._read))
    first = score(lm, HEADED, ACTIONS[:3], head=HEAD)
    second = score(lm, HEADED, ACTIONS[:3], head=HEAD)
    assert shared_prefix._read.call_count == 1
    np.testing.assert_array_equal(first.features, second.features)


def test_only_the_last_heads_are_kept(lm):
    lm = dataclasses.replace(lm)
    for length in (4, 5, 4, 6, 7, 8, 4):
        shared_prefix.read(lm, np.arange(length, dtype=np.int32))
    assert [len(name) // 4 for name in lm.kept["prefixes"]] == [6, 7, 8, 4]


def test_a_head_may_be_no_longer_than_what_comes_before_the_actions(lm, alone):
    prompt = PROMPTS[0]
    alone.check(score(lm, [prompt], ACTIONS[:1], head=prompt), [prompt], ACTIONS[:1])


def test_windows_and_soft_caps_reach_over_the_head(plain_tokenizer, tmp_path):
    model, lm = _pair(
        "Gemma2",
        plain_tokenizer,
        tmp_path,
        head_dim=8,
        sliding_window=16,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
        attn_implementation="eager",
    )
    Alone(model, plain_tokenizer).check(score(lm, HEADED, ACTIONS[:3]), HEADED, ACTIONS[:3])
    assert lm.kept["prefixes"]


def test_a_prompt_without_the_head_is_named(lm):
    with pytest.raises(ValueError, match="prompt 1 does not begin with the head"):
        score_actions(lm, [HEADED[0], "Next:"], [[" go"]] * 2, head=HEAD)


# Tokens across the boundary, and around the text.


def test_a_token_across_the_boundary_belongs_to_every_action(qwen, merging_tokenizer):
    model, lm = qwen
    lm = dataclasses.replace(lm, tokenizer=merging_tokenizer)
    alone = Alone(model, merging_tokenizer)
    prompts = ["Seen: a plate\nNext: go to", "Task: make a tom", "Task: make a tomato salad\nNext:"]
    actions = [
        [" the plate", " the sink", "s", " \n"],
        ["ato", "ato salad", "e", "to"],
        [" pick up the tomato", " go to the plate", "go"],
    ]
    shared = [
        len(alone.tokens(prompt)) - alone.first(prompt, [action])
        for prompt, group in zip(prompts, actions, strict=True)
        for action in group
    ]
    assert len(set(shared)) >= 3, "the tokenizer merges too little for this test"
    alone.check(score_in_a_crowd(lm, prompts, actions), prompts, actions)


def test_leading_special_tokens_are_kept_and_trailing_ones_are_not(bos_tokenizer, tmp_path):
    model, lm = _pair("Llama", bos_tokenizer, tmp_path, tie_word_embeddings=True)
    alone = Alone(model, bos_tokenizer, lead=[bos_tokenizer.bos_token_id])
    prompts = [PROMPTS[0], ""]
    actions = [ACTIONS[0], ["go to the sink", " stop"]]
    alone.check(score_in_a_crowd(lm, prompts, actions), prompts, actions)


# One pass.


def test_common_beginnings_are_computed_once():
    (texts,) = packing.passes([sequences([7, 8], [[1, 2, 3], [1, 4], [5], [1, 2, 3]])])
    packed = texts.packed
    assert packed.tokens.tolist() == [[7, 8, 1, 2, 3, 4, 5, *[0] * 9]]
    assert packed.positions[0, :7].tolist() == [0, 1, 2, 3, 4, 3, 2]
    assert packed.ends[0, :7].tolist() == [7, 7, 6, 5, 5, 6, 7]
    # Needed after the prompt, after "1" and after "2"; nothing follows 3, 4 and 5.
    assert packed.queries[: packed.num_queries].tolist() == [1, 2, 3]
    assert packed.query[0, :7].tolist() == [-1, -1, 0, 1, 2, 1, 0]
    assert {(a, packed.last[slot]) for _, a, slot in texts.places} == {
        (0, 4),
        (1, 5),
        (2, 6),
        (3, 4),
    }


def sequences(head, tails):
    return packing.Sequences(np.array(head, np.int32), packing.lay_out(tails))


token_lists = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(
    st.lists(
        st.tuples(token_lists, st.lists(token_lists, min_size=1, max_size=5)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_every_text_can_be_read_back_from_its_slot(states):
    seen = []
    for packed, places in packing.passes([sequences(*state) for state in states]):
        L = packed.tokens.shape[1]
        queries = packed.queries[: packed.num_queries]
        assert len(set(queries.tolist())) == len(queries)
        for b, a, slot in places:
            prompt, actions = states[b]
            text, first = prompt + actions[a], len(prompt)
            row, last = divmod(packed.last[slot], L)
            path = [j for j in range(last + 1) if last < packed.ends[row, j]]
            assert packed.tokens[row, path].tolist() == text
            assert packed.positions[row, path].tolist() == list(range(len(text)))
            assert packed.first[slot] == first
            before = [row * L + j for j in path[first - 1 : -1]]
            assert queries[packed.query[row, path[first:]]].tolist() == before
            seen.append((b, a))
    assert sorted(seen) == [
        (b, a) for b, (_, actions) in enumerate(states) for a in range(len(actions))
    ]


def test_a_run_compiles_a_handful_of_shapes():
    rng = np.random.default_rng(0)

    def state():
        prompt = rng.integers(0, 1000, rng.integers(60, 100))
        actions = [rng.integers(0, 1000, rng.integers(3, 10)) for _ in range(rng.integers(2, 9))]
        return sequences(prompt, [action.tolist() for action in actions])

    shapes = {
        tuple(array.shape for array in jax.tree.leaves(texts.packed))
        for _ in range(30)
        for texts in packing.passes([state() for _ in range(rng.integers(1, 65))])
    }
    assert len(shapes) <= 10


def test_only_shapes_compile(lm):
    score_in_a_crowd(lm, PROMPTS, ACTIONS)
    before = score_packed._cache_size()
    score_in_a_crowd(lm, PROMPTS[::-1], ACTIONS, "token", 2.0)
    score_in_a_crowd(lm, ["Task: go", "Next:"], [[" go"], [" stop", " go to the sink"]])
    assert score_packed._cache_size() == before


def test_logits_are_never_whole(lm):
    """No array of the computation is larger than the weights that logits are made with."""
    config = dataclasses.replace(lm.config, vocab_size=200_003)
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    tokens = np.zeros((4, 512), np.int32)
    flat, slots = np.zeros(4 * 512, np.int32), np.zeros(512, np.int32)
    packed = packing.Packed(tokens, tokens, tokens, flat, np.int32(0), tokens, slots, slots)
    projection = sizes.rule(config, "cpu", is_cut=False, free=0).projection
    lowered = score_packed.lower(graphdef, params, packed, projection=projection).as_text()
    shapes = re.findall(r"tensor<(\d+(?:x\d+)*)xf32>", lowered)
    largest = max(math.prod(map(int, shape.split("x"))) for shape in shapes)
    assert largest == config.vocab_size * config.hidden_size


class Bigram(nnx.Module):
    """The least that `score_packed` takes for a decoder: the next token depends on the last one."""

    def __init__(self, table):
        self.table = nnx.Param(table)

    def __call__(self, tokens, positions, mask):
        return self.table[...][tokens]

    def logits(self, hidden):
        return hidden


def test_gradients_reach_the_parameters_of_any_model():
    states = [sequences([5], [[6, 7, 2], [8]]), sequences([5, 6], [[1]])]
    ((packed, places),) = packing.passes(states)
    places = places[np.lexsort((places[:, 1], places[:, 0]))]
    slots = places[:, 2]
    table = jax.random.normal(jax.random.key(0), (9, 9))
    graphdef, params = nnx.split(Bigram(table))

    def by_hand(table):
        log_probs = jax.nn.log_softmax(table)
        return jnp.stack(
            [log_probs[5, 6] + log_probs[6, 7] + log_probs[7, 2], log_probs[5, 8], log_probs[6, 1]]
        )

    def packed_scores(params):
        return score_packed(graphdef, params, packed)[0][slots]

    weights = jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(packed_scores(params), by_hand(table), rtol=1e-5)
    gradient = jax.grad(lambda params: weights @ packed_scores(params))(params)
    expected = jax.grad(lambda table: weights @ by_hand(table))(table)
    np.testing.assert_allclose(gradient["table"][...], expected, atol=1e-5)


def test_log_softmax_is_in_float32_whatever_the_dtype():
    table = jax.random.normal(jax.random.key(1), (9, 9)).astype(jnp.bfloat16)
    ((packed, places),) = packing.passes([sequences([5], [[6, 7]])])
    scores, features = score_packed(*nnx.split(Bigram(table)), packed)
    assert scores.dtype == features.dtype == jnp.float32
    wide = np.asarray(table, np.float64)
    expected = wide[5, 6] + wide[6, 7] - sum(np.log(np.exp(wide[t]).sum()) for t in (5, 6))
    np.testing.assert_allclose(scores[places[0, 2]], expected, rtol=1e-6)


# Bad input.


@pytest.mark.parametrize(
    ("prompts", "actions", "error", "message"),
    [
        (["a", "b"], [["x"], []], ValueError, "prompt 1 has no actions"),
        (["a", "b"], [["x"], ["y", ""]], ValueError, "action 1 of prompt 1 is empty"),
        (["a", "b"], [["x"]], ValueError, "2 prompts and 1 lists of actions"),
        ("ab", [["x"], ["y"]], TypeError, "not one string"),
        (["a"], ["xy"], TypeError, "actions of prompt 0 must be a list"),
        (["a", None], [["x"], ["y"]], TypeError, "prompt 1 must be a string, not NoneType"),
        (["a"], [["x", 3]], TypeError, "action 1 of prompt 0 must be a string, not int"),
        ([""], [["x"]], ValueError, r"action 0 of prompt 0 \('x'\) has no token before it"),
    ],
)
def test_malformed_input_is_named(lm, prompts, actions, error, message):
    with pytest.raises(error, match=message):
        score_actions(lm, prompts, actions)


def test_a_text_longer_than_the_context_is_refused(lm, alone):
    fits = "x" * 126 + "yz"
    assert len(alone.tokens(fits)) == 128
    alone.check(score_in_a_crowd(lm, [fits[:-1]], [["z"]]), [fits[:-1]], [["z"]])
    with pytest.raises(ValueError, match=r"action 1 of prompt 1 .* 129 tokens .* context is 128"):
        score_actions(lm, ["a", fits[:-1]], [["z"], ["z", "zz"]])


def test_an_action_that_the_tokenizer_drops_is_refused(lm, plain_tokenizer):
    backend = tokenizers.Tokenizer.from_str(plain_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = tokenizers.normalizers.Strip()
    lm = dataclasses.replace(lm, tokenizer=_fast(backend))
    with pytest.raises(ValueError, match=r"action 1 of prompt 0 \(' '\) adds no token"):
        score_actions(lm, ["Next:"], [[" go", " "]])


def test_a_tokenizer_of_another_model_is_refused(lm):
    lm = dataclasses.replace(lm, config=dataclasses.replace(lm.config, vocab_size=5))
    with pytest.raises(ValueError, match=r"prompt 0 has token .* the tokenizer belongs"):
        score_actions(lm, ["Next:"], [[" go"]])


def test_a_model_that_gives_nan_is_refused(lm):
    params = jax.tree.map(lambda x: x.at[..., :1].set(jnp.nan), lm.params)
    lm = dataclasses.replace(lm, params=params)
    with pytest.raises(ValueError, match=r"action 0 of prompt \d .* log-probability nan"):
        score_in_a_crowd(lm, ["Next:"], [[" go"]])


def test_an_unknown_normalization_gets_the_nearest_name(lm):
    with pytest.raises(ValueError, match=r"no normalization 'tokens'; did you mean 'token'"):
        score_actions(lm, ["Next:"], [[" go"]], normalization="tokens")


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-300, float("nan"), float("inf")])
def test_a_temperature_must_be_positive(lm, temperature):
    with pytest.raises(ValueError, match=r"temperature is .*; use a number from"):
        score_actions(lm, ["Next:"], [[" go"]], temperature=temperature)
