"""The language model against transformers' PyTorch models, on checkpoints that they write."""

import dataclasses
import functools
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from llmprior_jax import models
from llmprior_jax.models import (
    CheckpointError,
    Decoder,
    DecoderConfig,
    RotaryConfig,
    checkpoint,
)
from llmprior_jax.models.formats import hf_directory, places

V, L = 96, 14
SHAPE = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # With heads of 8 dimensions the wavelengths are 6, 63, 628 and 6283: one is kept, one is
    # interpolated, two are stretched.
    "original_max_position_embeddings": 100,
}
# Windows are shorter than the texts, so that they are felt.
VARIANTS = {
    "qwen2": ("Qwen2", {}),
    "qwen2_mha_tied": ("Qwen2", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen2_window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "llama": ("Llama", {}),
    "llama_mqa_tied": ("Llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_head_dim": ("Llama", {"head_dim": 12}),
    "llama_linear_rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "llama_llama3_rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "mistral": ("Mistral", {"sliding_window": 4}),
    "mistral_no_window": ("Mistral", {"sliding_window": None}),
    "qwen3": ("Qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen3_window": (
        "Qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 4,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3Text",
        {
            "num_hidden_layers": 3,
            "head_dim": 16,
            "sliding_window": 4,
            "query_pre_attn_scalar": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}


def torch_model(variant: str) -> torch.nn.Module:
    """A random model of which no parameter has a special value, such as a bias of zero."""
    family, changes = VARIANTS[variant]
    config = getattr(transformers, f"{family}Config")(**SHAPE | changes)
    name = "Gemma3ForCausalLM" if family == "Gemma3Text" else f"{family}ForCausalLM"
    model = getattr(transformers, name)._from_config(config, attn_implementation="eager")
    randomize(model)
    return model.eval()


def randomize(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(0.2 * noise + (1.0 if parameter.ndim == 1 else 0.0))


def write_tokenizer(directory: Path) -> None:
    words = ["<unknown>", "<end>", *(f"w{i}" for i in range(2, V))]
    model = WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unknown>", eos_token="<end>"
    ).save_pretrained(directory)


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    """Writes each variant once: name -> (directory, PyTorch model)."""

    @functools.cache
    def write(variant: str) -> tuple[Path, torch.nn.Module]:
        directory = tmp_path_factory.mktemp(variant)
        model = torch_model(variant)
        model.save_pretrained(directory)
        write_tokenizer(directory)
        return directory, model

    return write


@pytest.fixture(scope="session")
def qwen2(write):
    return models.load(write("qwen2")[0])


@pytest.fixture
def damaged(write, tmp_path):
    """A copy of a good checkpoint, to be damaged."""
    directory = tmp_path / "damaged"
    shutil.copytree(write("qwen2")[0], directory)
    return directory


TOKENS = np.random.default_rng(0).integers(0, V, (2, L))
POSITIONS = np.tile(np.arange(L), (2, 1))
CAUSAL = np.tile(np.tri(L, dtype=bool), (2, 1, 1))


@functools.partial(jax.jit, static_argnums=0)
def run(graphdef, params, tokens, positions, mask):
    """Hidden states and log-probs."""
    decoder = nnx.merge(graphdef, params)
    hidden = decoder(tokens, positions, mask)
    return hidden, jax.nn.log_softmax(decoder.logits(hidden))


def log_probs(lm, tokens=TOKENS, positions=POSITIONS, mask=CAUSAL):
    return np.asarray(run(lm.graphdef, lm.params, tokens, positions, mask)[1])


def hidden_states(lm, tokens=TOKENS, positions=POSITIONS, mask=CAUSAL):
    return np.asarray(run(lm.graphdef, lm.params, tokens, positions, mask)[0])


def reference_log_probs(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.float().log_softmax(-1).numpy()


# Agreement with transformers.


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probs_agree_with_transformers(write, variant):
    directory, model = write(variant)
    expected = reference_log_probs(model)
    assert np.ptp(expected) > 1.0  # The comparison means something.
    np.testing.assert_allclose(log_probs(models.load(directory)), expected, atol=1e-4, rtol=0)


def test_shards_hold_the_same_parameters(write, qwen2, tmp_path):
    _, model = write("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    write_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    sharded = models.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, sharded.params, qwen2.params)
    assert sharded.graphdef == qwen2.graphdef  # So that both run the same compiled code.


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_close(write, qwen2, dtype):
    lm = models.load(write("qwen2")[0], dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {jnp.dtype(dtype)}
    wide, narrow = log_probs(qwen2), log_probs(lm)
    assert narrow.dtype == np.float32
    assert np.abs(wide - narrow).mean() < 0.1 * wide.std()


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", "float32"), ("gpu", "bfloat16")])
def test_the_default_dtype_is_what_the_platform_is_made_for(write, monkeypatch, backend, dtype):
    directory = write("qwen2")[0]
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    lm = models.load(directory)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(lm.params)} == {dtype}
    assert lm.fingerprint == models.fingerprint(directory)
    assert lm.fingerprint == models.fingerprint(directory, dtype)


def test_bfloat16_files_are_read_exactly(tmp_path):
    torch_model("qwen2").to(torch.bfloat16).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    model = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    lm = models.load(tmp_path)
    np.testing.assert_allclose(log_probs(lm), reference_log_probs(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["llama_biases", "gemma3"])
def test_to_hf_gives_back_the_file(write, variant):
    directory, _ = write(variant)
    lm = models.load(directory)
    tensors = checkpoint.to_hf(lm.config, lm.params)
    original = load_file(directory / hf_directory.WEIGHTS)
    assert tensors.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


def test_the_tokenizer_is_the_checkpoints_own(qwen2):
    assert qwen2.tokenizer("w3 w95 w12 unheard w7<end>").input_ids == [3, 95, 12, 0, 7, 1]
    assert qwen2.tokenizer.eos_token_id == 1


# Config files.


def test_both_spellings_of_rotary_embeddings_mean_the_same(write):
    fields = json.loads((write("llama_llama3_rope")[0] / "config.json").read_text())
    assert fields["rope_parameters"]["rope_type"] == "llama3"
    old = dict(fields)
    scaling = old.pop("rope_parameters")
    old["rope_theta"] = scaling.pop("rope_theta")
    old["rope_scaling"] = scaling
    assert DecoderConfig.from_hf(old) == DecoderConfig.from_hf(fields)


def test_the_old_spelling_of_the_scaling_type_is_read():
    fields = SHAPE | {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}}
    rope = DecoderConfig.from_hf(fields).rope
    assert (rope.rope_type, rope.factor, rope.rope_theta) == ("linear", 2.0, 10_000.0)


def test_the_old_spelling_of_gemma3_is_read():
    fields = SHAPE | {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "rope_theta": 5e5,
        "rope_local_base_freq": 2e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 2,
        "sliding_window": 512,
    }
    config = DecoderConfig.from_hf(fields)
    assert (config.rope.rope_theta, config.rope.factor) == (5e5, 8.0)
    assert config.sliding_rope is not None
    assert (config.sliding_rope.rope_theta, config.sliding_rope.rope_type) == (2e4, "default")
    assert config.layer_types == ("sliding_attention", "full_attention") * 2


def test_fields_left_out_take_the_defaults_of_transformers():
    config = DecoderConfig.from_hf({**SHAPE, "num_key_value_heads": None, "model_type": "llama"})
    assert (config.num_key_value_heads, config.head_dim, config.rms_norm_eps) == (4, 8, 1e-6)


def test_a_config_of_the_first_llama_is_read():
    fields = {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_sequence_length": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "pad_token_id": -1,
        "rms_norm_eps": 1e-6,
        "vocab_size": 32000,
    }
    config = DecoderConfig.from_hf(fields)
    assert (config.max_position_embeddings, config.num_key_value_heads) == (2048, 32)
    assert (config.rope, config.tie_word_embeddings) == (RotaryConfig(), False)


def test_a_sparse_config_of_a_gemma3_that_reads_images_is_read():
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = DecoderConfig.from_hf({"model_type": "gemma3", "text_config": text})
    expected = transformers.Gemma3TextConfig(**text)
    for name in ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        assert getattr(config, name) == getattr(expected, name), name
    assert list(config.layer_types or ()) == expected.layer_types
    assert (config.rope.factor, config.sliding_window) == (8.0, 1024)


@pytest.fixture(scope="module")
def gemma3_with_images(tmp_path_factory):
    """A Gemma 3 that reads images too: its directory and its model."""
    directory = tmp_path_factory.mktemp("gemma3_with_images")
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.Gemma3Config(
        text_config=SHAPE | VARIANTS["gemma3"][1], vision_config=vision, mm_tokens_per_image=4
    )
    model = transformers.Gemma3ForConditionalGeneration._from_config(
        config, attn_implementation="eager"
    ).eval()
    randomize(model)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return directory, model


def test_the_text_model_of_a_gemma3_that_reads_images_agrees(gemma3_with_images):
    directory, model = gemma3_with_images
    lm = models.load(directory)
    np.testing.assert_allclose(log_probs(lm), reference_log_probs(model), atol=1e-4, rtol=0)


def test_both_places_of_that_text_model_are_read(gemma3_with_images, tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(gemma3_with_images[0], directory)
    tensors = load_file(directory / hf_directory.WEIGHTS)
    places = ("language_model.model.", "model.language_model.")
    before, after = places if any(n.startswith(places[0]) for n in tensors) else places[::-1]
    renamed = {
        after + name.removeprefix(before) if name.startswith(before) else name: tensor
        for name, tensor in tensors.items()
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, directory / hf_directory.WEIGHTS)
    expected = models.load(gemma3_with_images[0]).params
    jax.tree.map(np.testing.assert_array_equal, models.load(directory).params, expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "qwen3_moe"}, ["model_type is 'qwen3_moe'"]),
        ({"num_local_experts": 8}, ["num_local_experts is 8"]),
        ({"rope_scaling": {"rope_type": "dynamic"}}, ["rope_scaling.rope_type is 'dynamic'"]),
        (
            {"model_type": "gemma3", "text_config": {"hidden_size": 0, "num_experts": 8}},
            ["text_config.hidden_size is 0", "text_config.num_experts is 8"],
        ),
        ({"model_type": "gpt2"}, ["model_type is 'gpt2'", "'llama', 'qwen2'"]),
        ({"model_type": None}, ["model_type is missing"]),
        ({"hidden_act": "relu"}, ["hidden_act is 'relu'", "'silu'"]),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            ["rope_scaling.type is 'yarn'", "'default', 'linear', 'llama3'"],
        ),
        (
            {"rope_parameters": {"rope_type": "longrope"}},
            ["rope_parameters.rope_type is 'longrope'"],
        ),
        (
            {"rope_parameters": {"rope_type": "linear"}},
            ["rope_parameters.factor is missing", "positive number"],
        ),
        (
            {"rope_scaling": LLAMA3_ROPE | {"low_freq_factor": 4.0}},
            ["rope_scaling.low_freq_factor is 4.0", "less than high_freq_factor"],
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            ["rope_parameters.partial_rotary_factor is 0.5"],
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            ["rope_parameters.full_attention", "one rotary embedding for all layers"],
        ),
        ({"quantization_config": {"bits": 4}}, ["quantization_config", "unquantized"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention is True"]),
        ({"hidden_size": "32"}, ["hidden_size is '32'", "integer"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0", "at least 1"]),
        (
            {"model_type": "mistral", "num_hidden_layers": 10**12},
            ["num_hidden_layers is 1000000000000: it must be at most 10000"],
        ),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps is nan", "positive number"]),
        ({"vocab_size": None}, ["vocab_size is missing"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings is 'yes'", "true or false"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads (4)", "num_key_value_heads (3)"]),
        ({"head_dim": 7}, ["head_dim (7) must be even"]),
        (
            {"use_sliding_window": True, "layer_types": ["full_attention"]},
            ["layer_types names 1 layers", "num_hidden_layers is 2"],
        ),
        (
            {"use_sliding_window": True, "layer_types": ["full_attention", "linear_attention"]},
            ["layer_types has 'linear_attention'", "'sliding_attention'"],
        ),
        (  # Several at once are all named.
            {"hidden_act": "relu", "rope_scaling": {"type": "yarn"}, "hidden_size": None},
            ["hidden_act", "rope_scaling.type", "hidden_size is missing"],
        ),
    ],
)
def test_a_config_that_is_not_supported_is_refused_by_name(changes, said):
    with pytest.raises(CheckpointError) as error:
        DecoderConfig.from_hf(SHAPE | {"model_type": "qwen2"} | changes)
    for words in said:
        assert words in str(error.value)


# Masks and positions.


def test_only_differences_of_positions_matter(qwen2):
    shifted = hidden_states(qwen2, positions=POSITIONS + 37)
    np.testing.assert_allclose(shifted, hidden_states(qwen2), atol=2e-5)


def test_differences_of_positions_do_matter(qwen2):
    spread = hidden_states(qwen2, positions=2 * POSITIONS)
    assert np.abs(spread - hidden_states(qwen2)).max() > 0.1


def test_padding_changes_nothing(qwen2):
    pad = 3
    tokens, positions = TOKENS.copy(), POSITIONS.copy()
    mask = np.zeros_like(CAUSAL)
    tokens[:, pad:], tokens[:, :pad] = TOKENS[:, :-pad], 5
    positions[:, pad:], positions[:, :pad] = POSITIONS[:, :-pad], 0
    mask[:, pad:, pad:] = CAUSAL[:, :-pad, :-pad]
    padded = hidden_states(qwen2, tokens, positions, mask)
    np.testing.assert_allclose(padded[:, pad:], hidden_states(qwen2)[:, :-pad], atol=2e-5)
    assert np.isfinite(padded).all()  # Also where a token may attend to nothing at all.


def test_packed_branches_equal_separate_texts(qwen2):
    """One prompt, two branches that do not see one another."""
    prompt, ends = 6, (10, L)
    mask, positions = CAUSAL.copy(), POSITIONS.copy()
    mask[:, ends[0] :, prompt : ends[0]] = False
    positions[:, ends[0] :] -= ends[0] - prompt
    packed = hidden_states(qwen2, positions=positions, mask=mask)
    alone = TOKENS.copy()
    alone[:, prompt : prompt + L - ends[0]] = TOKENS[:, ends[0] :]
    first, second = hidden_states(qwen2), hidden_states(qwen2, alone)
    np.testing.assert_allclose(packed[:, : ends[0]], first[:, : ends[0]], atol=2e-5)
    np.testing.assert_allclose(
        packed[:, ends[0] :], second[:, prompt : prompt + L - ends[0]], atol=2e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_token_knows_only_what_it_can_reach(qwen2, seed):
    rng = np.random.default_rng(seed)
    mask = CAUSAL & (rng.random(CAUSAL.shape) < 0.3) | np.eye(L, dtype=bool)
    changed = rng.random((2, L)) < 0.3
    # Two layers carry news over two steps of the mask.
    reached = np.einsum("bij,bjk,bk->bi", mask, mask, changed) > 0
    before = hidden_states(qwen2, mask=mask)
    after = hidden_states(qwen2, np.where(changed, (TOKENS + 1) % V, TOKENS), mask=mask)
    moved = np.abs(after - before).max(-1) > 1e-5
    np.testing.assert_array_equal(moved, reached)


def test_windows_count_positions_not_places(write):
    """Tokens of a packed branch that are far in the row but near in position are in the window."""
    lm = models.load(write("mistral")[0])
    window = lm.config.sliding_window
    positions, mask = POSITIONS.copy(), CAUSAL.copy()
    # The branch: the last two tokens follow the third one.
    positions[:, -2:], mask[:, -2:, 3:-2] = [3, 4], False
    packed = hidden_states(lm, positions=positions, mask=mask)
    alone = TOKENS.copy()
    alone[:, 3:5] = TOKENS[:, -2:]
    assert window < L - 2
    np.testing.assert_allclose(packed[:, -2:], hidden_states(lm, alone)[:, 3:5], atol=2e-5)


# The cache of keys and values.


@functools.partial(jax.jit, static_argnums=0)
def extend(graphdef, params, tokens, positions, mask, cache, start):
    return nnx.merge(graphdef, params).extend(tokens, positions, mask, cache, start)


@pytest.mark.parametrize("variant", VARIANTS)
def test_going_on_from_a_cache_equals_reading_the_whole_text(write, variant):
    lm = models.load(write(variant)[0])
    cache = nnx.merge(lm.graphdef, lm.params).new_cache(2, L)
    parts = []
    for start, end in ((0, 8), (8, 11), (11, L)):
        place = slice(start, end)
        hidden, cache = extend(
            lm.graphdef,
            lm.params,
            TOKENS[:, place],
            POSITIONS[:, place],
            CAUSAL[:, place],
            cache,
            start,
        )
        parts.append(hidden)
    np.testing.assert_allclose(np.concatenate(parts, 1), hidden_states(lm), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(cache.positions, POSITIONS)


@pytest.mark.parametrize("variant", ["qwen2", "gemma3"])
def test_branches_share_the_cache_of_their_beginning(write, variant):
    """Two branches take turns to write a token each; neither sees the other or unused slots."""
    lm = models.load(write(variant)[0])
    run_on = functools.partial(extend, lm.graphdef, lm.params)
    prompt, steps = 8, 3
    beginning = np.s_[:, :prompt]
    cache = nnx.merge(lm.graphdef, lm.params).new_cache(2, prompt)
    mask = CAUSAL[:, :prompt, :prompt]
    _, cache = run_on(TOKENS[beginning], POSITIONS[beginning], mask, cache, 0)
    cache = cache.enlarged(prompt + 2 * steps + 5)
    branches = TOKENS[:, prompt : prompt + 2 * steps].reshape(2, steps, 2)  # [row, step, branch]
    for step in range(steps):
        mask = np.zeros((2, 2, prompt + 2 * steps + 5), bool)
        mask[..., :prompt] = True
        for branch in range(2):
            mask[:, branch, prompt + branch : prompt + 2 * step + 2 : 2] = True
        hidden, cache = run_on(
            branches[:, step], np.full((2, 2), prompt + step), mask, cache, prompt + 2 * step
        )
    alone = TOKENS.copy()
    for branch in range(2):
        alone[:, prompt : prompt + steps] = branches[:, :, branch]
        expected = hidden_states(lm, alone)[:, prompt + steps - 1]
        np.testing.assert_allclose(hidden[:, branch], expected, atol=1e-5, rtol=0)


def test_gradients_are_finite_where_a_token_attends_to_nothing(qwen2):
    config = dataclasses.replace(qwen2.config, num_hidden_layers=1)
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    mask = CAUSAL.copy()
    mask[:, :4] = False

    def loss(params):
        return jnp.square(nnx.merge(graphdef, params)(TOKENS, POSITIONS, mask)).sum()

    for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
        assert np.isfinite(gradient).all()


def test_a_token_outside_the_vocabulary_gives_nan(qwen2):
    tokens = TOKENS.copy()
    tokens[0, 3] = V
    assert np.isnan(hidden_states(qwen2, tokens)[0, 3:]).all()
    assert np.isfinite(hidden_states(qwen2, tokens)[1]).all()


def test_a_new_decoder_is_the_same_for_the_same_seed(qwen2):
    config = dataclasses.replace(qwen2.config, num_hidden_layers=1)
    first, again, other = (nnx.state(Decoder(config, rngs=nnx.Rngs(seed))) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.embed[...], other.embed[...])


# Loading.


def test_the_fingerprint_tells_models_apart(write, qwen2, tmp_path):
    source = write("qwen2")[0]
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    prints = [qwen2.fingerprint, models.load(copy).fingerprint]
    assert prints[0] == prints[1]

    prints.append(models.load(copy, jnp.bfloat16).fingerprint)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"w3": 4, "w4": 3}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    prints.append(models.load(copy).fingerprint)
    edit_json(copy / "config.json", rms_norm_eps=1e-5)
    prints.append(models.load(copy).fingerprint)
    edit_tensor(copy, "model.norm.weight", lambda x: x + np.eye(1, x.size, dtype=x.dtype)[0] * 1e-3)
    prints.append(models.load(copy).fingerprint)
    assert len(set(prints)) == 5


def test_tensors_are_read_one_piece_at_a_time(write, monkeypatch):
    alive: list[weakref.ref] = []
    most = 0

    def read_rows(self, start, stop, read=hf_directory._Tensor.read_rows):
        nonlocal most
        rows, piece = read(self, start, stop)
        alive.append(weakref.ref(piece))
        most = max(most, sum(ref() is not None for ref in alive))
        return rows, piece

    monkeypatch.setattr(hf_directory._Tensor, "read_rows", read_rows)
    monkeypatch.setattr(checkpoint, "_PIECE", 256)
    directory, model = write("qwen2")
    models.load(directory, jnp.bfloat16)  # A dtype in which every tensor is converted.
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert len(alive) >= sum(-(-size // 256) for size in sizes)
    assert most <= 2  # The last one lives until the next is read.


def test_a_spare_copy_of_a_tied_head_is_ignored(write, tmp_path):
    source, model = write("qwen2_mha_tied")
    directory = tmp_path / "copy"
    shutil.copytree(source, directory)
    tensors = load_file(directory / hf_directory.WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, directory / hf_directory.WEIGHTS)
    lm = models.load(directory)
    np.testing.assert_allclose(log_probs(lm), reference_log_probs(model), atol=1e-4, rtol=0)


@pytest.fixture
def tied(write, tmp_path):
    """A copy of a checkpoint whose config ties embedding and head."""
    return shutil.copytree(write("qwen2_mha_tied")[0], tmp_path / "tied")


HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def test_another_head_in_the_file_of_a_tied_model_is_used(tied):
    head = np.random.default_rng(1).normal(size=(V, 32)).astype(np.float32)
    edit_tensor(tied, HEAD, lambda _: head)
    lm = models.load(tied)
    assert not lm.config.tie_word_embeddings
    np.testing.assert_array_equal(lm.params["lm_head"]["kernel"][...], head.T)
    model = transformers.Qwen2ForCausalLM.from_pretrained(tied, dtype=torch.float32)
    np.testing.assert_allclose(log_probs(lm), reference_log_probs(model), atol=1e-4, rtol=0)


def test_an_equal_head_in_the_file_of_a_tied_model_stays_tied(tied):
    tensors = load_file(tied / hf_directory.WEIGHTS)
    edit_tensor(tied, HEAD, lambda _: tensors[EMBED])
    assert models.load(tied).config.tie_word_embeddings


def test_the_head_of_a_tied_model_stands_for_its_embedding(tied):
    expected = models.load(tied).params
    tensors = load_file(tied / hf_directory.WEIGHTS)
    tensors[HEAD] = tensors.pop(EMBED)
    save_file(tensors, tied / hf_directory.WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, models.load(tied).params, expected)


def test_a_head_of_another_shape_is_named(tied):
    edit_tensor(tied, HEAD, lambda _: np.zeros((V, 16), np.float32))
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight is \[96, 16\] instead of \[96, 32\]"
    ):
        models.load(tied)


def test_tiny_is_a_name_for_the_embedded_directory(write, qwen2, monkeypatch):
    monkeypatch.setitem(places._EMBEDDED, "tiny", write("qwen2")[0])
    assert models.load("tiny").fingerprint == qwen2.fingerprint


def test_a_hub_id_is_downloaded_without_code_or_pickles(write, qwen2, monkeypatch):
    import huggingface_hub

    def snapshot_download(hub_id, allow_patterns):
        assert hub_id == "somebody/some-model"
        data = (".json", ".safetensors", ".jinja")
        assert all(name.endswith(data) for name in allow_patterns)
        return str(write("qwen2")[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert models.load("somebody/some-model").fingerprint == qwen2.fingerprint


def test_shards_of_any_name_are_fetched_from_the_hub(damaged, qwen2, monkeypatch):
    import huggingface_hub

    names = load_file(damaged / hf_directory.WEIGHTS)
    (damaged / hf_directory.WEIGHTS).rename(damaged / "weights[1].safetensors")
    index = {"weight_map": dict.fromkeys(names, "weights[1].safetensors")}
    (damaged / hf_directory.INDEX).write_text(json.dumps(index))
    asked = []

    def snapshot_download(hub_id, allow_patterns):
        asked.append(allow_patterns)
        return str(damaged)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert models.load("somebody/some-model").config == qwen2.config
    assert asked == [list(hf_directory.FILES), ["weights[[]1].safetensors"]]


def test_a_tokenizer_is_fetched_from_the_hub_without_weights(write, monkeypatch):
    import huggingface_hub

    def snapshot_download(hub_id, allow_patterns):
        assert not any("safetensors" in name for name in allow_patterns)
        return str(write("qwen2")[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert models.load_tokenizer("somebody/some-model")("w3").input_ids == [3]


def test_importing_the_package_needs_neither_torch_nor_transformers():
    code = "import sys, llmprior_jax.models; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


# Bad checkpoints.


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensor(directory: Path, name: str, change) -> None:
    """Changes one tensor; `change` returns its new value, or None to remove it."""
    tensors = load_file(directory / hf_directory.WEIGHTS)
    new = change(tensors.pop(name, None))
    save_file(tensors | ({} if new is None else {name: new}), directory / hf_directory.WEIGHTS)


def add_words(path: Path, count: int) -> None:
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] |= {f"more{i}": V + i for i in range(count)}
    path.write_text(json.dumps(tokenizer))


def shard(directory: Path, **weight_map: str) -> None:
    """Turns a single file into one shard with an index, of which entries are then changed."""
    names = load_file(directory / hf_directory.WEIGHTS)
    (directory / hf_directory.WEIGHTS).rename(directory / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    index["weight_map"] |= {name.replace("__", "."): file for name, file in weight_map.items()}
    (directory / hf_directory.INDEX).write_text(json.dumps(index))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def set_first(value):
    def change(tensor):
        tensor = tensor.copy()
        tensor.flat[0] = value
        return tensor

    return change


Q = "model.layers.1.self_attn.q_proj.weight"
DAMAGES = {
    "no config": (lambda d: (d / "config.json").unlink(), ["config.json is missing"]),
    "config is no JSON": (
        lambda d: (d / "config.json").write_text("{"),
        ["config.json cannot be read as JSON"],
    ),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), ["config.json holds"]),
    "config is too deep": (
        lambda d: (d / "config.json").write_text("[" * 100_000),
        ["config.json cannot be read as JSON"],
    ),
    "config is not supported": (
        lambda d: edit_json(d / "config.json", hidden_act="relu"),
        ["config.json: hidden_act is 'relu'"],
    ),
    "too many layers": (
        lambda d: edit_json(d / "config.json", num_hidden_layers=9_999),
        ["num_hidden_layers is 9999", "27 tensors"],
    ),
    "too wide": (
        lambda d: edit_json(d / "config.json", hidden_size=10**15, intermediate_size=10**16),
        ["hidden_size is 1000000000000000", "intermediate_size is 10000000000000000"],
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), ["tokenizer.json is missing"]),
    "broken tokenizer": (
        lambda d: (d / "tokenizer.json").write_text("{}"),
        ["tokenizer.json cannot be read"],
    ),
    "tokenizer of a larger model": (
        lambda d: add_words(d / "tokenizer.json", 3),
        ["tokenizer.json has 99 tokens, but the model embeds only 96"],
    ),
    "no weights": (
        lambda d: (d / hf_directory.WEIGHTS).unlink(),
        ["neither model.safetensors nor model.safetensors.index.json"],
    ),
    "only pickled weights": (
        lambda d: (d / hf_directory.WEIGHTS).rename(d / "pytorch_model.bin"),
        ["neither model.safetensors", "pickles"],
    ),
    "all at once": (
        lambda d: [path.unlink() for path in d.iterdir()],
        ["config.json is missing", "neither model.safetensors", "tokenizer.json is missing"],
    ),
    "truncated weights": (
        lambda d: cut(d / hf_directory.WEIGHTS, -100),
        ["model.safetensors is cut short"],
    ),
    "empty weights": (
        lambda d: cut(d / hf_directory.WEIGHTS, 0),
        ["model.safetensors is cut short"],
    ),
    "corrupt header": (
        lambda d: (d / hf_directory.WEIGHTS).write_bytes(b"\xff" * 1000),
        ["model.safetensors is cut short or is no safetensors file"],
    ),
    "missing tensor": (
        lambda d: edit_tensor(d, Q, lambda _: None),
        ["1 tensors are missing", Q],
    ),
    "unexpected tensor": (
        lambda d: edit_tensor(d, "score.weight", lambda _: np.zeros(3, np.float32)),
        ["1 tensors have no place in this architecture", "score.weight"],
    ),
    "wrong shape": (
        lambda d: edit_tensor(d, Q, lambda x: x[:-4]),
        ["1 tensors have the wrong shape", f"{Q} is [28, 32] instead of [32, 32]"],
    ),
    "many wrong shapes": (
        lambda d: edit_json(d / "config.json", intermediate_size=50),
        ["6 tensors have the wrong shape", "[48, 32] instead of [50, 32]"],
    ),
    "another architecture": (
        lambda d: edit_json(d / "config.json", model_type="llama"),
        ["6 tensors have no place", "self_attn.q_proj.bias"],
    ),
    "quantized tensor": (
        lambda d: edit_tensor(d, Q, lambda x: x.astype(np.int8)),
        ["not of a supported dtype", f"{Q} is I8"],
    ),
    "NaN": (
        lambda d: edit_tensor(d, Q, set_first(np.nan)),
        ["infinite or NaN as float32", f"{Q} in model.safetensors"],
    ),
    "infinity": (
        lambda d: edit_tensor(d, Q, set_first(np.inf)),
        ["infinite or NaN as float32", f"{Q} in model.safetensors"],
    ),
    "index without a map": (
        lambda d: [shard(d), (d / hf_directory.INDEX).write_text("{}")],
        ["model.safetensors.index.json has no table weight_map"],
    ),
    "missing shard": (
        lambda d: shard(d, lm_head__weight="model-00002-of-00002.safetensors"),
        [
            "1 files that model.safetensors.index.json names are missing: "
            "model-00002-of-00002.safetensors"
        ],
    ),
    "shard without its tensor": (
        lambda d: shard(d, model__extra="model-00001-of-00001.safetensors"),
        ["model-00001-of-00001.safetensors lacks tensors", "model.extra"],
    ),
    "shard outside": (
        lambda d: shard(d, lm_head__weight="../outside.safetensors"),
        ["names 1 files that are no safetensors files beside it: '../outside.safetensors'"],
    ),
    "shard at an absolute path": (
        lambda d: shard(d, lm_head__weight="/etc/outside.safetensors"),
        ["no safetensors files beside it: '/etc/outside.safetensors'"],
    ),
    "shard that is a pickle": (
        lambda d: shard(d, lm_head__weight="pytorch_model.bin"),
        ["no safetensors files beside it: 'pytorch_model.bin'"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_reason(damaged, damage):
    apply, said = DAMAGES[damage]
    apply(damaged)
    with pytest.raises(CheckpointError) as error:
        models.load(damaged)
    assert str(damaged) in str(error.value)
    for words in said:
        assert words in str(error.value)


def test_values_too_large_for_the_dtype_are_refused(damaged):
    edit_tensor(damaged, Q, set_first(1e6))
    models.load(damaged, jnp.bfloat16)
    with pytest.raises(CheckpointError, match=f"infinite or NaN as float16: {Q}"):
        models.load(damaged, jnp.float16)


def test_other_dtypes_are_refused(write):
    with pytest.raises(ValueError, match=r"int8.*float32, bfloat16, float16"):
        models.load(write("qwen2")[0], jnp.int8)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="it is no directory"):
        models.load(name)


def test_a_hub_that_does_not_answer_is_reported(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(hub_id, allow_patterns):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"somebody/some-model(.|\n)*no connection"):
        models.load("somebody/some-model")


def test_inconsistent_decoder_configs_are_refused(qwen2):
    with pytest.raises(CheckpointError, match="sliding_window is not given"):
        dataclasses.replace(qwen2.config, layer_types=("sliding_attention",) * 2)
