"""Weights in 8 bits: what is stored, what it changes, and that scoring and sampling go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llmprior_jax import models, priors, training
from llmprior_jax.models import Decoder, DecoderConfig, quantization
from llmprior_jax.training import build

PROMPTS = ["Task: make a tomato salad\nNow: You see a tomato.\nNext:"]
ACTIONS = [[" pick up the tomato", " go to the counter", " wait"]]


@pytest.fixture(scope="module")
def exact():
    return models.load("tiny")


@pytest.fixture(scope="module")
def narrow():
    return models.load("tiny", quantize="int8")


def size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.long
def test_the_matrices_of_blocks_take_a_quarter_of_float32(exact, narrow):
    assert size(narrow.params["blocks"]) < 0.28 * size(exact.params["blocks"])
    np.testing.assert_array_equal(narrow.params["embed"][...], exact.params["embed"][...])


def test_weights_are_rounded_to_the_nearest_of_255_steps_of_their_column():
    config = DecoderConfig(16, 8, 12, 1, 2, 1, 4, 32)
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    stored = quantization.int8(graphdef, params)[1]["blocks"][0]["mlp"]["up_proj"]["kernel"][
        "array"
    ]
    kernel = np.asarray(params["blocks"][0]["mlp"]["up_proj"]["kernel"][...])
    steps, scale = np.asarray(stored["qvalue"][...]), np.asarray(stored["scale"][...])
    assert steps.dtype == np.int8
    np.testing.assert_allclose(scale[0], np.abs(kernel).max(axis=0) / 127.5, rtol=1e-2)
    # At most half a step, and at the ends of the scale what does not fit into 8 bits.
    assert (np.abs(steps * scale - kernel) <= 0.51 * scale).all()


@pytest.mark.long
def test_log_probs_move_a_little(exact, narrow):
    wide, rough = (priors.score(lm, PROMPTS, ACTIONS) for lm in (exact, narrow))
    moved = np.abs(wide.log_probs - rough.log_probs)
    assert 0 < moved.max() < 0.2
    assert exact.fingerprint != narrow.fingerprint


def test_sampling_goes_on_from_a_cache(narrow):
    keys = priors.prompt_keys(jax.random.key(0), PROMPTS)
    sampling = priors.Sampling(max_new_tokens=3, temperature=0.0)
    ((answer,),) = priors.generate(narrow, PROMPTS, keys, 1, sampling)
    # Greedy, so that the first token is the likeliest by the forward pass without a cache.
    tokens = np.array([narrow.tokenizer(PROMPTS[0])["input_ids"]])
    L = tokens.shape[1]
    decoder = nnx.merge(narrow.graphdef, narrow.params)
    hidden = decoder(tokens, np.arange(L)[None], np.tri(L, dtype=bool)[None])
    first = int(jnp.argmax(decoder.logits(hidden[0, -1])))
    assert answer.text.startswith(narrow.tokenizer.decode([first]))


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(ValueError, match="quantize is 'int4'; supported are 'int8'"):
        models.load("tiny", quantize="int4")


def test_a_run_knows_its_8_bits_from_other_weights():
    config = training.default_config()
    config.prior.store = ""
    as_they_are = build.make_model(training.to_settings(config)).fingerprint
    config.prior.quantize = "int8"
    model = build.make_model(training.to_settings(config))
    assert model.fingerprint != as_they_are
    assert model.fingerprint == model.language_model.fingerprint
    assert model.language_model.params["blocks"][0]["mlp"]["up_proj"]["kernel"]["array"]


def test_a_policy_that_begins_as_the_prior_is_loaded_once():
    known = priors.CachedModel("tiny")
    assert known.load_again("tiny", jnp.float32) is known.language_model
    assert known.load_again("tiny", jnp.bfloat16) is not known.language_model
    quantized = priors.CachedModel("tiny", quantize="int8")
    assert quantized.load_again("tiny", jnp.float32).fingerprint == known.fingerprint
