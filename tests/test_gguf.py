"""GGUF files against the same models in safetensors, and SmolLM2's against transformers."""

import functools
import itertools
import shutil
import struct
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["X.GGUF", "x-00001-of-00001.GGUF"])
def test_the_ending_of_a_file_may_be_in_capitals(tiny, tmp_path, name):
    shutil.copy(tiny, tmp_path / name)
    expected = models.fingerprint(tiny)
    assert models.fingerprint(tmp_path / name) == models.fingerprint(tmp_path) == expected


def test_all_parts_of_a_split_file_may_end_in_capitals(split):
    expected = models.fingerprint(split)
    for path in split.parent.iterdir():
        path.rename(path.with_suffix(".GGUF"))
    assert models.fingerprint(split.with_suffix(".GGUF")) == expected


def test_a_file_on_the_hub_may_end_in_capitals(tiny, tmp_path, monkeypatch):
    import huggingface_hub

    shutil.copy(tiny, tmp_path / "X.GGUF")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert models.fingerprint("somebody/some-model/X.GGUF") == models.fingerprint(tiny)


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
WORDS_AND_MARKS = (
    *("a", "b", " y", "0", "1", "59", " ", "  ", "   ", ".", ",", "!?", "'", "_-", "don't", " the"),
    *("\n", "\n\n", "\t", "\r\n", "You", "12 345", "é", "ß", "你好", "🙂", "👍🏽", "e\u0301"),
    *("\u200b", "\u00a0", "▁", "<|im_end|>", "Ω", "١٢"),
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(WORDS_AND_MARKS), max_size=20).map("".join), st.text(max_size=30)
)


@pytest.fixture(scope="module")
def converted(smollm2_path):
    """SmolLM2 as transformers reads it: its model, and the parts of its tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    read = load_gguf_checkpoint(str(smollm2_path), return_tensors=True, model_to_load=model)
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="eager")
    model.load_state_dict(read["tensors"], strict=False)
    model.tie_weights()
    return model.eval(), read["tokenizer"]


@pytest.fixture(scope="module")
def published(converted):
    """SmolLM2's tokenizer as the one that was published is made."""
    parts = converted[1]
    tokens = {token: i for i, token in enumerate(parts["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in parts["merges"]]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(tokens, merges))
    cut = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = cut.Sequence(
        [cut.Digits(individual_digits=True), cut.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(parts["tokens"][:17])
    return tokenizer


@pytest.mark.long
@pytest.mark.usefixtures("smollm2_path")
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="  1\n 2 3\n\n4")
def test_smollm2s_tokens_are_those_that_were_published(smollm2, published, text):
    tokens = smollm2.tokenizer(text).input_ids
    assert tokens == published.encode(text).ids
    assert smollm2.tokenizer.decode(tokens) == published.decode(tokens, skip_special_tokens=False)


class Pieces:
    """SentencePiece's BPE by hand: the best pair first, the leftmost of equals."""

    def __init__(self, scores: dict[str, float]):
        self.scores = scores

    def __call__(self, text: str) -> list[str]:
        parts = list("▁" + text.replace(" ", "▁"))
        while True:
            pairs = [
                (-self.scores[a + b], i)
                for i, (a, b) in enumerate(itertools.pairwise(parts))
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


@pytest.mark.long
def test_smollm2_agrees_with_transformers(smollm2, converted):
    text = "Task: wash the cup. You are in the kitchen; you see a sink and 2 towels.\nDo: go"
    tokens = np.array([smollm2.tokenizer(text).input_ids])
    length = tokens.shape[1]
    positions, mask = np.arange(length)[None], np.tri(length, dtype=bool)[None]
    with torch.no_grad():
        expected = converted[0](torch.tensor(tokens)).logits.log_softmax(-1).numpy()
    np.testing.assert_allclose(log_probs(smollm2, tokens, positions, mask), expected, atol=1e-4)


# Bad files.


def test_a_header_that_cannot_be_is_refused(tiny, tmp_path):
    data = tiny.read_bytes()
    huge = struct.pack("<Q", 2**60)
    tokens = data.index(b"tokenizer.ggml.tokens") + len("tokenizer.ggml.tokens") + 8
    damages = {
        "no GGUF file": b"GGML" + data[4:],
        "version is 1": data[:4] + struct.pack("<I", 1) + data[8:],
        "big-endian order": data[:4] + struct.pack(">I", 3) + data[8:],
        f"{2**60:,} tensors should follow": data[:8] + huge + data[16:],
        f"{2**60:,} keys should follow": data[:16] + huge + data[24:],
        f"{2**60:,} strings should follow": data[:tokens] + huge + data[tokens + 8 :],
        "the metadata, at byte": data[:24] + huge + data[32:],
        "it is no text in UTF-8": data.replace(b"qwen2.context_length", b"qwen2.context_lengt\xff"),
        "it is damaged or cut short": data[:-100],
        "cannot be read": b"",
    }
    for i, (said, damaged) in enumerate(damages.items()):
        path = tmp_path / f"{i}.gguf"
        path.write_bytes(damaged)
        refused(path, said)


def test_a_file_cut_short_says_so_once_with_the_first_tensors(tiny, tmp_path):
    data = tiny.read_bytes()
    listing = gguf.GGUFReader(tiny).tensors
    size = min(tensor.data_offset for tensor in listing) + 1
    (tmp_path / "x.gguf").write_bytes(data[:size])
    with pytest.raises(CheckpointError) as error:
        models.load(tmp_path / "x.gguf")
    (problem,) = error.value.problems
    first = ", ".join(tensor.name for tensor in listing[:10])
    assert problem == (
        f"{len(listing)} tensors end beyond the file's {size:,} bytes: {first} and "
        f"{len(listing) - 10} more; it is damaged or cut short"
    )


def test_tensors_of_one_name_are_listed_once(tiny, tmp_path):
    data = tiny.read_bytes().replace(b"ffn_gate.weight", b"ffn_down.weight")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        models.load(tmp_path / "x.gguf")
    (problem,) = error.value.problems
    assert problem == "2 tensors are there twice: blk.0.ffn_down.weight, blk.1.ffn_down.weight"


def test_rows_of_no_whole_blocks_are_listed_once(tiny, tmp_path):
    data = bytearray(tiny.read_bytes())
    for name in (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight"):
        at = data.index(name) + len(name) + 4 + 2 * 8
        data[at : at + 4] = struct.pack("<I", gguf.GGMLQuantizationType.Q4_K)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(CheckpointError) as error:
        models.load(tmp_path / "x.gguf")
    (problem,) = error.value.problems
    for said in ("2 tensors have rows", "blk.0.attn_k.weight has 32, and Q4_K takes 256"):
        assert said in problem


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_damaged_is_loaded_or_refused(tiny, tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = tiny.read_bytes()
    header = data.index(b"token_embd.weight") + 3000  # Where damage does most.
    path = tmp_path / "x.gguf"
    results = []
    for i in range(60):
        damaged = bytearray(data)
        if i % 3 == 0:
            del damaged[int(rng.integers(len(data))) :]
        for _ in range(int(rng.integers(1, 4))):
            if damaged:
                damaged[int(rng.integers(min(header, len(damaged))))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            models.load(path)
            results.append("loaded")
        except CheckpointError as error:
            results.append("refused" if str(path) in str(error) else "refused without a place")
    assert set(results) == {"loaded", "refused"}


def test_a_quantization_that_is_not_known_is_named(tiny, tmp_path):
    data = bytearray(tiny.read_bytes())
    name = b"blk.1.ffn_up.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    for number, said in ((39, "blk.1.ffn_up.weight is MXFP4"), (99, "of the unknown kind 99")):
        data[at : at + 4] = struct.pack("<I", number)
        (tmp_path / "x.gguf").write_bytes(data)
        refused(tmp_path / "x.gguf", "a quantization that is not supported", said, "Q4_K, Q5_K")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"general.architecture": "phi3"}, ["general.architecture is 'phi3'", "'llama', 'qwen2'"]),
        ({"qwen2.block_count": None}, ["qwen2.block_count is missing"]),
        ({"qwen2.attention.layer_norm_rms_epsilon": None}, ["rms_epsilon is missing"]),
        ({"qwen2.embedding_length": 0}, ["qwen2.embedding_length is 0", "above 0"]),
        ({"qwen2.block_count": 9_999}, ["num_hidden_layers is 9999", "27 tensors"]),
        ({"qwen2.block_count": 4}, ["24 tensors are missing: blk.2."]),
        ({"qwen2.feed_forward_length": 50}, ["blk.0.ffn_gate.weight is [48, 32] instead of [50"]),
        ({"qwen2.attention.head_count_kv": 3}, ["num_key_value_heads (3)"]),
        ({"qwen2.attention.head_count_kv": [2, 1]}, ["attention.head_count_kv is [2, 1]"]),
        ({"qwen2.rope.dimension_count": 4}, ["qwen2.rope.dimension_count is 4", "8 wide"]),
        ({"qwen2.rope.scaling.type": "yarn"}, ["rope_scaling.rope_type is 'yarn'"]),
        ({"qwen2.expert_count": 8}, ["num_experts is 8"]),
        ({"qwen2.attention.sliding_window": 4}, ["sliding_window_pattern does not say"]),
        ({gguf_files.TOKENS: None}, [f"{gguf_files.TOKENS} is missing: no tokenizer"]),
        ({gguf_files.TOKENS: ["a"] * 90}, ["its tokenizer has 90 tokens", "model embeds 96"]),
        ({gguf_files.TOKENS: ["a"] * V}, ["tokenizer.ggml.tokens has 'a' twice"]),
        ({"tokenizer.ggml.token_type": [1] * 9}, ["token_type has 9 values for 96 tokens"]),
        ({"tokenizer.ggml.model": "bert"}, ["tokenizer.ggml.model is 'bert'", "'gpt2'"]),
        ({"tokenizer.ggml.pre": "viking"}, ["tokenizer.ggml.pre is 'viking'", "'smollm'"]),
        ({"tokenizer.ggml.merges": ["a zz"]}, ["merges has 'a zz'"]),
        ({"tokenizer.ggml.merges": None}, ["tokenizer.ggml.merges is missing"]),
        ({"tokenizer.ggml.model": "llama"}, ["tokenizer.ggml.scores is missing"]),
        ({"tokenizer.ggml.bos_token_id": V}, [f"bos_token_id is {V}, and there are 96 tokens"]),
        ({"tokenizer.ggml.add_bos_token": 1}, ["add_bos_token is 1; it must be true or false"]),
        ({"tokenizer.chat_template": 7}, ["tokenizer.chat_template is no text"]),
    ],
    ids=str,
)
def test_metadata_that_does_not_fit_is_refused_by_name(metadata, said, tmp_path):
    refused(gguf_files.write(torch_model("qwen2"), tmp_path / "x.gguf", metadata=metadata), *said)


def test_values_that_are_not_finite_are_refused(tmp_path):
    model = torch_model("qwen2")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    path = gguf_files.write(model, tmp_path / "x.gguf")
    refused(path, "infinite or NaN as float32: blk.1.ffn_up.weight in x.gguf")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    refused(tmp_path / "model.bin", "it is a file that is no GGUF")


# Memory.

MEMORY = """
import sys
import jax
from launch.benchmarks import memory
from llmprior_jax import models

models.load({warm!r}, {dtype!r})  # What is imported and set up is not counted.
memory.reset_peak()
before = memory.resident_bytes()
lm = models.load({path!r}, {dtype!r})
weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lm.params))
assert "torch" not in sys.modules
print((memory.resident_bytes(peak=True) - before) / weights)
"""


@pytest.fixture(scope="module")
def mostly_embedding(tmp_path_factory):
    """Checkpoints of 38 million values, nearly all of them in one tensor, by their kind."""
    vocabulary, width = 50_000, 768
    config = transformers.Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=32,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = transformers.Qwen3ForCausalLM(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.zero_()
    directory = tmp_path_factory.mktemp("mostly_embedding")
    model.save_pretrained(directory)
    write_tokenizer(directory)
    tokens = {
        gguf_files.TOKENS: ["t", "0", *(f"t{i}" for i in range(vocabulary - 2))],
        "tokenizer.ggml.token_type": [1] * vocabulary,
        "tokenizer.ggml.merges": ["t 0"],
    }
    path = gguf_files.write(model, directory / "other" / "x.gguf", "F16", metadata=tokens)
    yield {"safetensors": directory, "gguf": path}
    shutil.rmtree(directory)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["safetensors", "gguf"])
def test_loading_takes_no_more_memory_than_the_weights(mostly_embedding, twins, kind, dtype):
    warm = twins("qwen3")[kind == "gguf"]
    script = MEMORY.format(path=str(mostly_embedding[kind]), warm=str(warm), dtype=dtype)
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert 1.0 <= float(shown.stdout) < 1.3
