"""Adapters on disk: PEFT's layout, the model that comes of one, and what is refused."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from small_lm import TINY, small_lm

from llmprior_jax import models, priors, training
from llmprior_jax.models import adapters, checkpoint, lora

RANK = 3
Q_PROJ = "blocks/0/attention/q_proj/kernel"
Q_PROJ_HF = "model.layers.0.self_attn.q_proj.weight"


def factors_of(lm: models.LanguageModel, seed: int = 0, rank: int = RANK):
    """Factors that change a model, other ones for each seed."""
    keys = jax.random.split(jax.random.key(seed))
    return {
        path: pair._replace(b=0.1 * jax.random.normal(keys[1], pair.b.shape))
        for path, pair in lora.init(keys[0], lm.params, rank).items()
    }


@pytest.fixture(scope="module")
def tiny() -> models.LanguageModel:
    return models.load("tiny")


@pytest.fixture
def adapter(tiny, tmp_path) -> pathlib.Path:
    adapters.write(tmp_path / "adapter", "tiny", tiny.config, factors_of(tiny))
    return tmp_path / "adapter"


def change(adapter: pathlib.Path, **fields) -> None:
    path = adapter / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_layout_is_that_of_peft(adapter, tiny):
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "tiny"
    assert (config["r"], config["lora_alpha"]) == (RANK, RANK)
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert config["target_modules"] == sorted(projections)
    tensors = safetensors.numpy.load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    assert tensors[f"{name}.lora_A.weight"].shape == (RANK, tiny.config.hidden_size)
    assert tensors[f"{name}.lora_B.weight"].shape[1] == RANK
    assert len(tensors) == 2 * 7 * tiny.config.num_hidden_layers


def test_the_names_of_an_encoder_decoder_are_its_checkpoints(tmp_path):
    lm = small_lm(["a b"], encoder_decoder=True)
    adapters.write(tmp_path, "t5", lm.config, factors_of(lm))
    assert json.loads((tmp_path / adapters.CONFIG).read_text())["task_type"] == "SEQ_2_SEQ_LM"
    modules = {
        name.split(".lora_")[0] for name in safetensors.numpy.load_file(tmp_path / adapters.WEIGHTS)
    }
    weights = {f"{module.removeprefix('base_model.model.')}.weight" for module in modules}
    assert weights <= set(checkpoint.to_hf(lm.config, lm.params))
    assert "decoder.block.0.layer.1.EncDecAttention.q.weight" in weights


@pytest.mark.parametrize(
    ("fields", "scale"),
    [({}, 1.0), ({"lora_alpha": 6}, 2.0), ({"lora_alpha": 6, "use_rslora": True}, 6 / RANK**0.5)],
)
def test_a_loaded_model_is_the_base_and_the_product_of_the_factors(adapter, fields, scale):
    change(adapter, **fields)
    tensors = safetensors.numpy.load_file(adapter / adapters.WEIGHTS)
    a, b = (
        tensors[f"base_model.model.{Q_PROJ_HF.removesuffix('.weight')}.lora_{letter}.weight"]
        for letter in "AB"
    )
    base = safetensors.numpy.load_file(pathlib.Path(TINY) / "model.safetensors")[Q_PROJ_HF]
    adapted = models.load(adapter)
    tensor = checkpoint.to_hf(adapted.config, adapted.params)[Q_PROJ_HF]
    np.testing.assert_allclose(tensor, base + scale * b @ a, atol=1e-6)


def test_factors_are_read_as_they_were_written(adapter, tiny):
    shapes = adapters.shapes_of(tiny.params)
    read = adapters.open_adapter(adapter).read(tiny.config, shapes)
    for path, pair in factors_of(tiny).items():
        np.testing.assert_array_equal(read[path].a, pair.a)
        np.testing.assert_array_equal(read[path].b, pair.b)


def test_a_fingerprint_is_of_the_content_wherever_it_lies(adapter, tiny, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    other = tmp_path / "other"
    adapters.write(other, "tiny", tiny.config, factors_of(tiny, seed=1))
    assert models.fingerprint(copy) == models.fingerprint(adapter) == models.load(copy).fingerprint
    change(copy, lora_alpha=2 * RANK)
    prints = [models.fingerprint(of) for of in ("tiny", adapter, other, copy)]
    assert len(set(prints)) == 4


def test_two_adapters_never_share_a_score(adapter, tiny, tmp_path):
    other = tmp_path / "other"
    adapters.write(other, "tiny", tiny.config, factors_of(tiny, seed=1))
    prompt = priors.Prompt("Task: wash the cup. Do:", (" go to the sink", " wait"))
    scores = {}
    for name in ("tiny", str(adapter), str(other)):
        for _ in range(2):
            model = priors.CachedModel(name, priors.PriorStore(tmp_path / "store.sqlite"))
            scores.setdefault(name, []).append(
                (model.score([prompt]).log_probs, model.queries.made)
            )
            model.close()
    for (asked, made), (kept, made_again) in scores.values():
        assert (made, made_again) == (1, 0)
        np.testing.assert_array_equal(asked, kept)
    first, second, third = (pair[0][0] for pair in scores.values())
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(second - third).max() > 1e-3


def test_an_adapter_of_the_embedded_model_is_asked_as_that_is(adapter):
    config = training.default_config()
    training.name_priors(config, str(adapter))
    prior = training.settled(config).prior
    assert (prior.normalization, prior.prompt, prior.uniform_share) == ("sum", "plain", 0.0)


def test_a_model_in_bfloat16_stays_so(adapter):
    lm = models.load(adapter, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(lm.params)} == {jnp.dtype("bfloat16")}


@pytest.mark.longest
def test_a_quantized_model_is_adapted_before(adapter):
    adapted, base = (models.load(name, quantize="int8") for name in (adapter, "tiny"))
    assert adapted.fingerprint != base.fingerprint
    leaves = zip(*(jax.tree.leaves(lm.params) for lm in (adapted, base)), strict=True)
    assert any(not np.array_equal(new, old) for new, old in leaves)


def tensors_changed(adapter: pathlib.Path, edit) -> None:
    tensors = safetensors.numpy.load_file(adapter / adapters.WEIGHTS)
    edit(tensors)
    safetensors.numpy.save_file(tensors, adapter / adapters.WEIGHTS)


def first_is_nan(tensors) -> None:
    next(iter(tensors.values()))[0, 0] = np.nan


def one_is_missing(tensors) -> None:
    del tensors[next(iter(tensors))]


def is_of_a_wider_model(tensors) -> None:
    for name, tensor in tensors.items():
        tensors[name] = np.concatenate([tensor, tensor], axis=1 if "lora_A" in name else 0)


def is_of_a_deeper_model(tensors) -> None:
    for name in list(tensors):
        tensors[name.replace("layers.0.", "layers.77.")] = tensors[name]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (first_is_nan, "infinite or NaN"),
        (one_is_missing, "1 tensors are missing"),
        (is_of_a_wider_model, "wrong shape for the model tiny .* name the model"),
        (is_of_a_deeper_model, "have no place in the model tiny"),
        (lambda tensors: tensors.clear(), "holds no factors"),
    ],
)
def test_factors_that_are_no_models_are_refused(adapter, edit, message):
    tensors_changed(adapter, edit)
    with pytest.raises(models.CheckpointError, match=message):
        models.load(adapter)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 2 * RANK}, f"wrong shape .* rank {2 * RANK}"),
        ({"r": 0}, "r is 0; use a whole number"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; supported is 'LORA'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "use_dora is True, and only plain factors"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is .pissa_niter_4."),
        ({"base_model_name_or_path": None}, "base_model_name_or_path names no model"),
        ({"base_model_name_or_path": "/nowhere"}, "the model that it adapts, /nowhere .*"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(adapter, fields, message):
    change(adapter, **fields)
    with pytest.raises(models.CheckpointError, match=message):
        models.load(adapter)


def test_an_adapter_of_an_adapter_is_refused(adapter, tiny, tmp_path):
    adapters.write(tmp_path / "second", str(adapter), tiny.config, factors_of(tiny))
    with pytest.raises(models.CheckpointError, match="is an adapter itself"):
        models.load(tmp_path / "second")


def test_a_pickle_is_never_read(adapter):
    (adapter / adapters.WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(models.CheckpointError, match=r"adapter_model.bin is a pickle"):
        models.load(adapter)


def test_a_file_that_is_cut_short_is_refused(adapter):
    content = (adapter / adapters.WEIGHTS).read_bytes()
    (adapter / adapters.WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(models.CheckpointError, match="cut short"):
        models.load(adapter)


def test_an_adapter_without_factors_is_not_written(tiny, tmp_path):
    with pytest.raises(ValueError, match="there are no factors to write"):
        adapters.write(tmp_path / "adapter", "tiny", tiny.config, {})
