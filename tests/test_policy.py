"""A language model as a policy: before learning the prior itself, with and without factors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lm import small_lm

from llmprior_jax.models import lora
from llmprior_jax.priors import language_policy, score
from llmprior_jax.priors.scoring import sizes

PROMPTS = [
    "Task: make a tomato salad\nNow: You see a tomato.\nNext:",
    "Task: make a salad\nNow: The lettuce is chopped and there is a tomato on the plate.\nNext:",
    "Now:",
]
ACTIONS = [
    [" get the tomato", " get the plate", " chop"],
    [" get the plate", " chop the lettuce and the tomato", " chop the lettuce", " chop"],
    [" get the tomato"],
]
NUM_ACTIONS = 5


TEXTS = [*PROMPTS, *(text for texts in ACTIONS for text in texts)]


@pytest.fixture(scope="module")
def lm():
    return small_lm(TEXTS)


@pytest.fixture(scope="module")
def encoder_decoder():
    return small_lm(TEXTS, encoder_decoder=True)


def policy_of(lm, prompts=PROMPTS, actions=ACTIONS, params=None, **kwargs):
    """log pi and hidden states of some states, and the policy itself."""
    model = language_policy.language_policy(lm, NUM_ACTIONS, **kwargs)
    params = model.init(jax.random.key(0)) if params is None else params
    return *model.apply(params, model.frozen, model.read(prompts, actions)), model


def kernel(lm):
    return lm.params["blocks"][0]["attention"]["q_proj"]["kernel"][...]


# --- The policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["sum", "token", "word"])
@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("model", ["lm", "encoder_decoder"])
def test_before_learning_the_policy_is_the_prior(model, normalization, lora_rank, request):
    lm = request.getfixturevalue(model)
    prior = score(lm, PROMPTS, ACTIONS, normalization, 0.7)
    log_probs, _, _ = policy_of(
        lm, normalization=normalization, temperature=0.7, lora_rank=lora_rank
    )
    np.testing.assert_allclose(log_probs[:, :4], prior.log_probs, atol=1e-5)
    assert (log_probs[:, 4:] == -jnp.inf).all(), "a slot without an action got a probability"


def test_the_hidden_state_is_that_of_the_end_of_the_prompt(lm):
    """It is the state of an action's last token where the prompt is read up to that token."""
    _, hidden, _ = policy_of(lm, PROMPTS[:2], ACTIONS[:2])
    begun = [prompt.removesuffix("Next:") for prompt in PROMPTS[:2]]
    ends = score(lm, begun, [["Next:"], ["Next:"]]).features[:, 0]
    np.testing.assert_allclose(hidden, ends, atol=1e-5)


@pytest.mark.parametrize("model", ["lm", "encoder_decoder"])
def test_states_read_together_and_with_padding_have_the_same_policy(model, request):
    lm = request.getfixturevalue(model)
    together, hidden, reader = policy_of(lm)
    rows = None
    for i, capacity in enumerate((1, 2, 4)):
        rows = language_policy.put(
            rows, np.array([i]), reader.read(PROMPTS[i : i + 1], ACTIONS[i : i + 1]), capacity
        )
    log_probs, padded_hidden = reader.apply(lm.params, (), rows)
    np.testing.assert_allclose(log_probs[:3], together, atol=1e-5)
    np.testing.assert_allclose(padded_hidden[:3], hidden, atol=1e-5)
    assert np.isfinite(padded_hidden).all()


@pytest.mark.long
def test_few_logits_at_once_give_the_same_policy_and_gradient(lm, monkeypatch):
    model = language_policy.language_policy(lm, NUM_ACTIONS)
    rows = model.read(PROMPTS, ACTIONS)

    def likelihood(params):
        return model.apply(params, (), rows)[0][:, 0].sum()

    value, gradient = jax.value_and_grad(likelihood)(lm.params)
    monkeypatch.setattr(language_policy, "_LOGITS_AT_ONCE", 1)
    few_value, few_gradient = jax.value_and_grad(likelihood)(lm.params)
    np.testing.assert_allclose(few_value, value, rtol=1e-5)
    for few, all_at_once in zip(*map(jax.tree.leaves, (few_gradient, gradient)), strict=True):
        np.testing.assert_allclose(few, all_at_once, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("model", ["lm", "encoder_decoder"])
def test_rows_of_a_large_model_are_read_one_by_one_with_the_same_gradient(
    model, request, monkeypatch
):
    lm = request.getfixturevalue(model)
    reader = language_policy.language_policy(lm, NUM_ACTIONS)
    rows = reader.read(PROMPTS * 16, ACTIONS * 16)

    def compiled():
        def likelihood(params):
            log_probs, hidden = reader.apply(params, (), rows)
            return log_probs[:, 0].sum() + 1e-2 * hidden.sum()

        return jax.jit(jax.value_and_grad(likelihood)).lower(lm.params).compile()

    together = compiled()
    monkeypatch.setattr(language_policy, "_ACTIVATIONS_AT_ONCE", 0)
    alone = compiled()
    for ours, theirs in zip(
        *map(jax.tree.leaves, (alone(lm.params), together(lm.params))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-3)
    held = [program.memory_analysis().temp_size_in_bytes for program in (alone, together)]
    assert held[0] < held[1] / 2, f"{held[0]:,} bytes instead of {held[1]:,}"


@pytest.mark.long
def test_parts_of_states_have_the_gradient_of_the_whole_without_the_memory(monkeypatch):
    """Rows of several lengths, each with something of its own."""
    texts = [" ".join(["Now: You see a tomato."] * count) for count in (9, 60, 100)] * 3
    lm = small_lm([*TEXTS, *texts], context=1024)
    model = language_policy.language_policy(lm, NUM_ACTIONS, lora_rank=2)
    rows = model.read(texts, [ACTIONS[0]] * len(texts))
    weights = jnp.arange(1.0, 1 + len(texts))
    params = jax.tree.map(lambda leaf: leaf + 0.05, model.init(jax.random.key(0)))

    def likelihood(params, rows, weights):
        log_probs, hidden = model.apply(params, model.frozen, rows)
        value = jnp.sum(weights * (log_probs[:, 1] + 1e-2 * hidden.sum(axis=1)))
        return value, {"states": jnp.sum(weights > 2)}

    def gradients(params):
        descend = functools.partial(jax.grad(likelihood, has_aux=True), params)
        return model.in_parts(descend, rows, weights)

    in_parts = jax.jit(gradients).lower(params).compile()
    monkeypatch.setattr(sizes, "ROW_TOKENS", rows.tokens.shape[1])
    whole = jax.jit(lambda params: gradients(params)).lower(params).compile()
    (ours, counts), (theirs, expected) = in_parts(params), whole(params)
    assert counts["states"] == expected["states"] == 7
    for part, one in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-3, atol=1e-3)
    held = [program.memory_analysis().temp_size_in_bytes for program in (in_parts, whole)]
    assert held[0] < held[1] / 2, f"{held[0]:,} bytes instead of {held[1]:,}"


def test_the_gradient_is_that_of_the_likelihood(lm):
    model = language_policy.language_policy(lm, NUM_ACTIONS)
    rows = model.read(PROMPTS, ACTIONS)
    direction = jax.tree.map(
        lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), lm.params
    )

    def likelihood(step):
        params = jax.tree.map(lambda leaf, along: leaf + step * along, lm.params, direction)
        return model.apply(params, (), rows)[0][:2, 1].sum()

    step = 1e-3
    difference = (likelihood(step) - likelihood(-step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(likelihood)(0.0), difference, rtol=1e-2)


@pytest.mark.long
def test_long_rows_are_read_at_their_length_as_in_a_batch(monkeypatch):
    texts = [" ".join(["Now: You see a tomato."] * count) for count in (9, 60, 100)]
    lm = small_lm([*TEXTS, *texts], context=1024)
    reader = language_policy.language_policy(lm, NUM_ACTIONS)
    rows = language_policy.put(None, np.arange(3), reader.read(texts, [ACTIONS[0]] * len(texts)), 4)
    lengths = np.asarray(rows.ends[:, 0])
    assert lengths[0] <= rows.tokens.shape[1] // 4
    assert lengths[2] > sizes.ROW_TOKENS

    def likelihood(params):
        log_probs, hidden = reader.apply(params, (), rows)
        return log_probs[:3, 1].sum() + 1e-2 * hidden[:3].sum()

    value, gradient = jax.jit(jax.value_and_grad(likelihood))(lm.params)
    monkeypatch.setattr(sizes, "ROW_TOKENS", rows.tokens.shape[1])
    in_a_batch = jax.jit(jax.value_and_grad(lambda params: likelihood(params)))(lm.params)
    np.testing.assert_allclose(value, in_a_batch[0], rtol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (gradient, in_a_batch[1])), strict=True):
        assert np.isfinite(ours).all(), "of a row of padding"
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


# --- Low-rank adaptation --------------------------------------------------------------------------


def test_low_rank_factors_are_merged_as_by_hand(lm):
    factors = lora.init(jax.random.key(0), lm.params, 2, pattern="q_proj")
    (path,) = factors
    assert path == "blocks/0/attention/q_proj/kernel"
    b = jax.random.normal(jax.random.key(1), factors[path].b.shape)
    merged = lora.merge(lm.params, {path: factors[path]._replace(b=b)}, scale=0.5)
    by_hand = np.asarray(kernel(lm)) + 0.5 * np.asarray(factors[path].a) @ np.asarray(b)
    merged_kernel = merged["blocks"][0]["attention"]["q_proj"]["kernel"][...]
    np.testing.assert_allclose(merged_kernel, by_hand, atol=1e-6)
    changed = [
        not np.array_equal(new, old)
        for new, old in zip(*map(jax.tree.leaves, (merged, lm.params)), strict=True)
    ]
    assert sum(changed) == 1, "another parameter changed"


def test_by_default_every_linear_layer_is_adapted_and_the_embedding_is_not(lm):
    factors = lora.init(jax.random.key(0), lm.params, 3)
    block = ("attention/q_proj", "attention/k_proj", "attention/v_proj", "attention/o_proj")
    block += ("mlp/gate_proj", "mlp/up_proj", "mlp/down_proj")
    assert set(factors) == {f"blocks/0/{name}/kernel" for name in block}
    assert all(pair.a.shape[1] == pair.b.shape[0] == 3 for pair in factors.values())


def test_a_model_with_factors_is_the_model_with_their_product(lm):
    factors = lora.init(jax.random.key(0), lm.params, 2)
    factors = {
        path: pair._replace(b=jax.random.normal(jax.random.key(1), pair.b.shape))
        for path, pair in factors.items()
    }
    adapted, _, _ = policy_of(lm, lora_rank=2, params=factors)
    full, _, _ = policy_of(lm, params=lora.merge(lm.params, factors))
    np.testing.assert_allclose(adapted, full, atol=1e-5)
    unchanged, _, _ = policy_of(lm)
    assert np.abs(adapted - unchanged)[0, 0] > 0.01


def test_every_factor_learns(lm):
    """The first factors have no gradient as long as the second ones are zero."""
    model = language_policy.language_policy(lm, NUM_ACTIONS, lora_rank=2)
    rows = model.read(PROMPTS, ACTIONS)

    def likelihood(params):
        return model.apply(params, model.frozen, rows)[0][:2, 1].sum()

    params = model.init(jax.random.key(0))
    params = jax.tree.map(jnp.add, params, jax.grad(likelihood)(params))
    for path, pair in jax.grad(likelihood)(params).items():
        assert np.any(np.asarray(pair.a)), path
        assert np.any(np.asarray(pair.b)), path


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"rank": 0}, "rank is 0"), ({"rank": 1, "pattern": "convolution"}, "no matrix has")],
)
def test_factors_that_cannot_be_are_refused(lm, kwargs, message):
    with pytest.raises(ValueError, match=message):
        lora.init(jax.random.key(0), lm.params, **kwargs)


def test_a_negative_rank_is_refused(lm):
    with pytest.raises(ValueError, match="lora_rank is -1"):
        language_policy.language_policy(lm, NUM_ACTIONS, lora_rank=-1)


def test_more_actions_than_slots_are_refused(lm):
    model = language_policy.language_policy(lm, 3)
    with pytest.raises(ValueError, match="a state has 4 actions, and the policy has 3 slots"):
        model.read(PROMPTS, ACTIONS)
