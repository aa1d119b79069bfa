"""GGUF files against the same models in safetensors, and SmolLM2's against transformers."""

import functools
import shutil
from pathlib import Path

import gguf
import gguf_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_models import V, log_probs, torch_model, write_tokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from llmprior_jax import models
from llmprior_jax.models import CheckpointError

FAMILIES = (
    *("llama", "llama_mqa_tied", "llama_biases", "llama_head_dim", "llama_linear_rope"),
    *("llama_llama3_rope", "mistral", "qwen2", "qwen2_mha_tied", "qwen2_window", "qwen3"),
    *("qwen3_window", "gemma2", "gemma3"),
)


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """Writes each variant once: name -> (directory with safetensors, GGUF file)."""

    @functools.cache
    def twins(variant: str) -> tuple[Path, Path]:
        directory = tmp_path_factory.mktemp(variant)
        model = torch_model(variant)
        if "gemma" in variant:  # What llama.cpp takes for all but the largest.
            model.config.query_pre_attn_scalar = model.config.head_dim
        model.save_pretrained(directory)
        write_tokenizer(directory)
        return directory, gguf_files.write(model, directory / "other" / "x.gguf")

    return twins


@pytest.fixture(scope="session")
def tiny(twins):
    """A good file."""
    return twins("qwen2")[1]


def refused(path: Path, *said: str) -> None:
    """Loading it fails, and says where and why."""
    with pytest.raises(CheckpointError) as error:
        models.load(path)
    for words in (str(path), *said):
        assert words in str(error.value)


# Models.


@pytest.mark.parametrize("variant", FAMILIES)
def test_a_file_holds_the_same_model_as_its_twin_in_safetensors(twins, variant):
    directory, path = twins(variant)
    expected, lm = models.load(directory), models.load(path)
    np.testing.assert_allclose(log_probs(lm), log_probs(expected), atol=1e-5, rtol=0)
    np.testing.assert_allclose(lm.config.rms_norm_eps, expected.config.rms_norm_eps, rtol=1e-6)
    same = ("tie_word_embeddings", "layer_types", "sliding_window", "max_position_embeddings")
    for name in same:
        assert getattr(lm.config, name) == getattr(expected.config, name), name


def test_only_what_is_adapted_to_the_format_is_rounded(twins):
    """Llama's rows are sorted, and Gemma's norms lose and gain one; all else is copied."""
    for variant in ("llama_biases", "gemma3"):
        directory, path = twins(variant)
        expected, params = (models.load(where).params for where in (directory, path))
        close = functools.partial(np.testing.assert_allclose, atol=2e-7, rtol=0)
        jax.tree.map(
            close if variant == "gemma3" else np.testing.assert_array_equal, params, expected
        )


@pytest.mark.parametrize("variant", ["gemma2", "gemma3"])
def test_the_largest_gemmas_divide_scores_by_something_else(variant, twins, tmp_path):
    model = torch_model(variant)
    layers = {"gemma2": 46, "gemma3": 62}[variant]
    path = gguf_files.write(model, tmp_path / "x.gguf", metadata={f"{variant}.block_count": layers})
    # Its tensors do not go with so many layers, but the config is read first.
    checkpoint = models.formats.places.open_checkpoint(path)
    fields = checkpoint.read_fields([])
    assert fields is not None
    assert fields["query_pre_attn_scalar"] == 32 // 4


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_weights_are_what_the_package_makes_of_them(kind, tmp_path):
    model = torch_model("qwen3")
    lm = models.load(gguf_files.write(model, tmp_path / "x.gguf", kind))
    weight = model.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    number = gguf.GGMLQuantizationType[kind]
    expected = gguf.dequantize(gguf.quantize(weight, number), number)
    kernel = lm.params["blocks"][1]["mlp"]["up_proj"]["kernel"][...]
    np.testing.assert_array_equal(kernel, expected.T)


def test_the_dtype_is_the_one_asked_for(tiny):
    lm, narrow = models.load(tiny), models.load(tiny, jnp.bfloat16)
    same = jax.tree.map(
        lambda a, b: np.array_equal(a.astype(jnp.bfloat16), b), lm.params, narrow.params
    )
    assert all(jax.tree.leaves(same))


def test_weights_in_eight_bits_are_made_of_a_file(tiny):
    lm = models.load(tiny, quantize="int8")
    assert np.abs(log_probs(lm) - log_probs(models.load(tiny))).mean() < 0.2


# Places.


def test_a_directory_with_one_file_stands_for_it(tiny):
    print_ = models.fingerprint(tiny)
    assert models.fingerprint(tiny.parent) == models.load(tiny).fingerprint == print_


def test_the_fingerprint_goes_by_content_and_not_by_name(tiny, tmp_path):
    shutil.copy(tiny, tmp_path / "another.gguf")
    assert models.fingerprint(tmp_path) == models.fingerprint(tiny)
    data = bytearray((tmp_path / "another.gguf").read_bytes())
    data[-5] ^= 1
    (tmp_path / "another.gguf").write_bytes(data)
    assert models.fingerprint(tmp_path) != models.fingerprint(tiny)


def test_a_directory_with_several_models_lists_them(tiny, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny, tmp_path / name)
    refused(tmp_path, "it holds 2 GGUF models; name one of them: a.gguf, b.gguf")


@pytest.fixture
def split(tmp_path):
    """A file in three parts."""
    return gguf_files.write(torch_model("qwen2"), tmp_path / "x.gguf", split=10)


def test_any_part_of_a_split_file_stands_for_all(split, tiny):
    parts = sorted(split.parent.iterdir())
    assert len(parts) == 3
    expected = models.load(tiny)
    for path in (*parts, split.parent):
        lm = models.load(path)
        jax.tree.map(np.testing.assert_array_equal, lm.params, expected.params)
    assert models.load_tokenizer(parts[2])("ab").input_ids == expected.tokenizer("ab").input_ids


def test_a_missing_part_is_named(split):
    first, second, _ = sorted(split.parent.iterdir())
    second.unlink()
    refused(first, "1 of its 3 parts are missing", second.name)
    refused(split.parent, second.name)


def test_parts_in_another_order_are_refused(split):
    first, second, third = sorted(split.parent.iterdir())
    spare = first.with_name("spare")
    second.rename(spare)
    third.rename(second)
    spare.rename(third)
    refused(first, f"{second.name} is named as a part, but says split.no 2")


def test_parts_of_different_models_are_refused(split, tmp_path):
    other = gguf_files.write(torch_model("llama"), tmp_path / "other" / "x.gguf", split=8)
    others = sorted(other.parent.iterdir())
    shutil.copy(others[1], sorted(split.parent.glob("*.gguf"))[1])
    refused(split, "parts are of different models")


def test_a_part_alone_is_refused(split, tmp_path):
    shutil.copy(split, tmp_path / "alone.gguf")
    refused(tmp_path / "alone.gguf", "named as a whole file, but says split.no 0", "split.count 3")


def test_a_file_on_the_hub_is_named_after_its_repository(tiny, split, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns))
        return str(split.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    whole = models.fingerprint(split)
    assert models.fingerprint(f"somebody/some-model/{split.name}") == whole
    assert asked == [("somebody/some-model", ["x-?????-of-00003.gguf"])]


def test_a_repository_of_files_asks_for_one_of_them(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"say which: somebody/files/file\.gguf"):
        models.load("somebody/files")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "x.gguf", "there is no such file", "owner/name/file.gguf")


# Tokenizers and chat templates.


def written(tmp_path: Path, **metadata) -> Path:
    keys = {name.replace("__", "."): value for name, value in metadata.items()}
    return gguf_files.write(torch_model("qwen2"), tmp_path / "x.gguf", metadata=keys)


def test_special_tokens_and_ends_are_the_files(tiny, tmp_path):
    tokenizer = models.load_tokenizer(tiny)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")
    assert tokenizer("ab<|end|>").input_ids == [V - 3, V - 1]
    ends = models.load_tokenizer(
        written(tmp_path, tokenizer__ggml__add_bos_token=True, tokenizer__ggml__add_eos_token=True)
    )
    assert ends("ab").input_ids == [V - 2, V - 3, V - 1]
    assert ends("ab", add_special_tokens=False).input_ids == [V - 3]


def test_the_chat_template_is_the_files(tiny, tmp_path):
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    path = written(tmp_path, tokenizer__chat_template=template)
    tokenizer = models.load_tokenizer(path)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], tokenize=False)
    assert chat == "<user>go"
    assert models.load(path).tokenizer.chat_template == template
    assert models.load_tokenizer(tiny).chat_template is None


def test_a_directorys_chat_template_is_read_from_its_own_file(twins, tmp_path):
    directory = shutil.copytree(twins("qwen2")[0], tmp_path / "copy")
    (directory / "model.safetensors").unlink()  # Not needed.
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    tokenizer = models.load_tokenizer(directory)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "go"}], tokenize=False)
    assert chat == "go!"


# Text as environments have it, and as they do not.
PIECES = st.sampled_from(
    [
        *"ab yz0159.,!?'_-",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "don't",
        " the",
        "You",
        "12 345",
        "é",
        "ß",
    ]
    + [
        "你好",
        "🙂",
        "👍🏽",
        "e\u0301",
        "\u200b",
        "\u00a0",
        "▁",
        "<|im_end|>",
        "<|im_start|>",
        "Ω",
        "١٢",
    ]
)
TEXTS = st.one_of(st.lists(PIECES, max_size=20).map("".join), st.text(max_size=30))


@pytest.fixture(scope="module")
def published(smollm2_path):
    """Transformers' reading of SmolLM2's tokenizer, cut as the one that was published cuts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name
    )
    cut = tokenizers.pre_tokenizers
    tokenizer.backend_tokenizer.pre_tokenizer = cut.Sequence(
        [cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


@pytest.mark.usefixtures("smollm2_path")
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="  1\n 2 3\n\n4")
def test_smollm2s_tokens_are_those_that_were_published(smollm2, published, text):
    tokens = smollm2.tokenizer(text).input_ids
    assert tokens == published(text).input_ids
    assert smollm2.tokenizer.decode(tokens) == published.decode(tokens)


class Pieces:
    """SentencePiece's BPE by hand: the best pair first, the leftmost of equals."""

    def __init__(self, scores: dict[str, float]):
        self.scores = scores

    def __call__(self, text: str) -> list[str]:
        parts = list("▁" + text.replace(" ", "▁"))
        while True:
            pairs = [
                (-self.scores[a + b], i)
                for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
                if a + b in self.scores
            ]
            if not pairs:
                return parts
            i = min(pairs)[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]


WORDS = (
    "▁a",
    "▁b",
    "ab",
    "▁ab",
    "ba",
    "bab",
    "▁ba",
    "aa",
    "▁bab",
    "▁▁",
    "abab",
    "▁aa",
    "bb",
    "abb",
)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory):
    """A tokenizer of the other kind: pieces with scores, bytes, and tokens of users."""
    single = ["▁", "a", "b"]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *WORDS, *single, "[X]"]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(WORDS) + 3), 4]
    scores = [0.0] * 259 + [-float(i) for i in range(len(WORDS) + 3)] + [-1000.0]
    changes = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    path = tmp_path_factory.mktemp("sentencepiece") / "x.gguf"
    return models.load_tokenizer(gguf_files.write(torch_model("llama"), path, metadata=changes))


@settings(max_examples=200, deadline=None)
@given(text=st.text("ab ", max_size=12))
def test_pieces_are_merged_as_sentencepiece_merges_them(sentencepiece, text):
    scores = {word: -float(i) for i, word in enumerate(WORDS)}
    tokens = sentencepiece.tokenize(text)
    assert tokens == (Pieces(scores)(text) if text else [])
    assert sentencepiece.decode(sentencepiece(text).input_ids, skip_special_tokens=True) == text


def test_bytes_stand_for_what_is_no_piece(sentencepiece):
    assert sentencepiece.tokenize("é") == ["▁", "<0xC3>", "<0xA9>"]
    assert sentencepiece.tokenize("a\n[X]b") == ["▁a", "<0x0A>", "[X]", "▁b"]
    assert sentencepiece("a").input_ids[0] == sentencepiece.bos_token_id == 1
    assert sentencepiece.decode(sentencepiece("é🙂").input_ids, skip_special_tokens=True) == "é🙂"


# SmolLM2.


@pytest.fixture(scope="module")
def reference(smollm2_path):
    """Transformers' own reading of SmolLM2."""
    config = transformers.AutoConfig.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    tensors = load_gguf_checkpoint(str(smollm2_path), return_tensors=True, model_to_load=model)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    model.load_state_dict(tensors["tensors"], strict=False)
    model.tie_weights()
    return model.eval()


def test_smollm2_agrees_with_transformers(smollm2, reference):
    text = (
        "Task: wash the cup. You are in the kitchen; you see a sink (dirty) and 2 towels.\nDo: go"
    )
    tokens = np.array([smollm2.tokenizer(text).input_ids])
    length = tokens.shape[1]
    positions, mask = np.arange(length)[None], np.tri(length, dtype=bool)[None]
    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits.log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probs(smollm2, tokens, positions, mask), expected, atol=1e-4)
