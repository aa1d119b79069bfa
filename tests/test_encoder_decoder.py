"""T5 against transformers' PyTorch model: hidden states, scores and features, and bad checkpoints.

The reference scores one pair at a time from the definition: the encoder reads the prompt, the
decoder the start token and the action, and the log-probabilities of the action's tokens add up.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file
from transformers.models.t5.modeling_t5 import T5Attention

from llmprior_jax import models
from llmprior_jax.models import CheckpointError, EncoderDecoderConfig, checkpoint
from llmprior_jax.models.encoder_decoder import distance_buckets
from llmprior_jax.models.formats import hf_directory
from llmprior_jax.priors import Sampling, generate, inspect, propose, score, score_actions
from llmprior_jax.priors.prompts import Prompt
from llmprior_jax.priors.sampling.generation import sample_tokens
from llmprior_jax.priors.scoring import packing
from llmprior_jax.priors.scoring.score import score_packed

TEXTS = [
    "Task: make a tomato salad. Now: You see a tomato on the counter. Next: pick up the tomato",
    "Seen: The lettuce is chopped. Done: go to the cutting board Next: go to the plate",
]
# More words than there are buckets of distances.
PROMPTS = [
    "Task: make a tomato salad. Now: You see a tomato on the counter. Next:",
    "Task: make a tomato salad. Now: The lettuce is chopped. The plate is on the counter. Seen: "
    "You see a tomato. You see the board. You pick up the tomato. You chop the tomato. Next:",
    "Next:",
    "Done: go to the plate Next:",
    "",
]
ACTIONS = [
    ["pick up the tomato", "go to the cutting board", "go to the plate", "go to the counter"],
    ["go to", "go to the plate", "go to the plate", "chop!"],
    ["pick up the plate"],
    ["pick up the tomato", "stop", "see the tomato and go to the plate and go to the board"],
    ["go", "stop"],
]
SHAPE = {
    "vocab_size": 200,
    "d_model": 32,
    "d_kv": 12,  # Heads need not make up the model's width.
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "decoder_start_token_id": 0,
}
VARIANTS = {
    "t5": {},
    "flan": {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": 3,
    },
}


def make_tokenizer():
    """BPE over words with a mark before each, as SentencePiece has it, that ends texts as T5's."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


class Reference:
    """One checkpoint, as transformers sees it."""

    def __init__(self, directory, variant):
        config = transformers.T5Config(**SHAPE | VARIANTS[variant])
        model = transformers.T5ForConditionalGeneration(config).eval()
        if variant == "flan":  # transformers ties the two, whatever the config says.
            model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(0.2 * noise + (1.0 if parameter.ndim == 1 else 0.0))
        model.save_pretrained(directory)
        self.tokenizer = make_tokenizer()
        self.tokenizer.save_pretrained(directory)
        self.directory, self.model = directory, model

    @torch.no_grad()
    def pair(self, prompt, action):
        """Summed log-probability, number of tokens, and the last hidden state."""
        read = torch.tensor([self.tokenizer(prompt).input_ids])
        answer = self.tokenizer(action, add_special_tokens=False).input_ids
        written = torch.tensor([[0, *answer]])
        logits = self.model(input_ids=read, decoder_input_ids=written).logits[0].double()
        total = sum(logits.log_softmax(-1)[i, token].item() for i, token in enumerate(answer))
        encoded = self.model.encoder(read).last_hidden_state
        decoder = self.model.decoder(input_ids=written, encoder_hidden_states=encoded)
        return total, len(answer), decoder.last_hidden_state[0, -1].numpy()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=[] if name == "flan" else [pytest.mark.long]) for name in VARIANTS
    ],
)
def reference(request, tmp_path_factory):
    return Reference(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def lm(reference):
    return models.load(reference.directory)


@pytest.fixture(scope="module")
def flan(tmp_path_factory):
    return Reference(tmp_path_factory.mktemp("flan"), "flan")


@pytest.fixture
def copy(flan, tmp_path):
    """A copy of a good checkpoint, to be changed."""
    return shutil.copytree(flan.directory, tmp_path / "copy")


def edit_config(directory, **changes):
    path = directory / "config.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


# Agreement with transformers.


@pytest.mark.parametrize("normalization", ["sum", "token"])
def test_scores_agree_with_transformers(reference, lm, normalization):
    prior = score(lm, PROMPTS, ACTIONS, normalization)
    for b, (prompt, group) in enumerate(zip(PROMPTS, ACTIONS, strict=True)):
        pairs = [reference.pair(prompt, action) for action in group]
        scores = np.array([total / (n if normalization == "token" else 1) for total, n, _ in pairs])
        assert np.ptp(scores) > 0.05 or len(group) == 1  # The comparison means something.
        expected = scores - np.log(np.exp(scores).sum())
        np.testing.assert_allclose(prior.log_probs[b, : len(group)], expected, atol=1e-4)
        assert np.isneginf(prior.log_probs[b, len(group) :]).all()
        features = np.array([hidden for *_, hidden in pairs])
        np.testing.assert_allclose(prior.features[b, : len(group)], features, atol=1e-4)


def test_score_actions_gives_the_same_log_probs(lm):
    log_probs = score(lm, PROMPTS, ACTIONS).log_probs
    np.testing.assert_array_equal(score_actions(lm, PROMPTS, ACTIONS), log_probs)


def test_a_score_does_not_depend_on_the_rest_of_the_batch(lm):
    together = score(lm, PROMPTS, ACTIONS)
    backwards = score(lm, PROMPTS[::-1], ACTIONS[::-1])
    np.testing.assert_allclose(backwards.log_probs[::-1], together.log_probs, atol=1e-5)
    np.testing.assert_allclose(backwards.features[::-1], together.features, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (64, 512)])
def test_distances_are_numbered_as_in_transformers(bidirectional, buckets, furthest):
    config = EncoderDecoderConfig(
        *[8] * 7, relative_attention_num_buckets=buckets, relative_attention_max_distance=furthest
    )
    distance = torch.arange(-furthest, furthest + 1)
    expected = T5Attention._relative_position_bucket(distance, bidirectional, buckets, furthest)
    np.testing.assert_array_equal(distance_buckets(config, bidirectional), expected.numpy())


def test_actions_share_their_common_beginnings(lm):
    tails = packing.lay_out([[5, 6, 7], [5, 6, 8]])
    state = packing.Sequences(np.array([0]), tails, np.array([3, 1]))
    ((packed, _),) = packing.passes([state])
    assert packed.tokens[0, :5].tolist() == [0, 5, 6, 7, 8]
    assert packed.prompts is not None
    assert packed.prompts[0, :2].tolist() == [3, 1]
    assert packed.prompt_lengths == [2]


def test_a_run_compiles_a_handful_of_shapes(lm):
    score(lm, PROMPTS, ACTIONS)
    before = score_packed._cache_size()
    score(lm, PROMPTS[::-1], ACTIONS[::-1], "token", 2.0)
    assert score_packed._cache_size() == before


@pytest.mark.long
def test_bfloat16_is_close(flan):
    lm, narrow = models.load(flan.directory), models.load(flan.directory, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow.params)} == {jnp.dtype(jnp.bfloat16)}
    wide, rough = (np.exp(score_actions(m, PROMPTS, ACTIONS)) for m in (lm, narrow))
    assert np.abs(wide - rough).max() < 0.2


@pytest.mark.long
def test_gradients_are_finite(flan):
    lm = models.load(flan.directory)
    state = packing.Sequences(np.array([0]), packing.lay_out([[5, 6], [7]]), np.array([3, 1]))
    ((packed, places),) = packing.passes([state])

    def loss(params):
        return score_packed(lm.graphdef, params, packed)[0][places[:, 2]].sum()

    gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(lm.params))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


# Checkpoints.


def test_to_hf_gives_back_the_file(reference, lm):
    tensors = checkpoint.to_hf(lm.config, lm.params)
    original = load_file(reference.directory / hf_directory.WEIGHTS)
    assert tensors.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)


def test_the_old_spelling_of_an_untied_config_means_the_same(flan, copy):
    # As transformers 4 wrote it: the flag alone says that there is a matrix, and no scaling.
    edit_config(copy, scale_decoder_outputs=..., tie_word_embeddings=False)
    assert models.load(copy).config == models.load(flan.directory).config
    assert not models.load(copy).config.tie_word_embeddings
    assert not models.load(copy).config.scale_outputs


def test_a_tied_config_scales_the_outputs():
    fields = {"model_type": "t5", "feed_forward_proj": "relu"}
    config = EncoderDecoderConfig.from_hf(fields)
    assert config.tie_word_embeddings
    assert config.scale_outputs


def test_spare_copies_are_ignored(flan, copy):
    tensors = load_file(copy / hf_directory.WEIGHTS)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        tensors[name] = tensors["shared.weight"]
    early = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[early] = np.ones((8, 4), np.float32)
    save_file(tensors, copy / hf_directory.WEIGHTS)
    loaded = models.load(copy)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, models.load(flan.directory).params)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feed_forward_proj": "gated-silu"}, ["feed_forward_proj is 'gated-silu'", "'relu'"]),
        ({"d_model": 0}, ["d_model is 0", "at least 1"]),
        ({"d_model": 10**15}, ["hidden_size is 1000000000000000", "hold no more than"]),
        ({"num_decoder_layers": 10**9}, ["num_decoder_layers is 1000000000"]),
        ({"num_decoder_layers": 2}, ["tensors have no place", "decoder.block.2.layer"]),
        ({"num_decoder_layers": 4}, ["tensors are missing", "decoder.block.3.layer"]),
        ({"relative_attention_num_buckets": 10}, ["multiple of 4"]),
        ({"relative_attention_max_distance": 10**9}, ["at most 65536"]),
        ({"relative_attention_num_buckets": 16}, ["[8, 4] instead of [16, 4]"]),
        ({"decoder_start_token_id": 200}, ["decoder_start_token_id is 200", "has 200 tokens"]),
        ({"is_encoder_decoder": False}, ["is_encoder_decoder is False"]),
        ({"quantization_config": {"bits": 8}}, ["quantization_config", "unquantized"]),
        ({"model_type": "mt5"}, ["model_type is 'mt5'", "'t5'"]),
        ({"model_type": ["t5"]}, ["model_type is ['t5']"]),
    ],
)
def test_what_is_not_supported_is_refused_by_name(copy, changes, said):
    edit_config(copy, **changes)
    with pytest.raises(CheckpointError) as error:
        models.load(copy)
    for words in said:
        assert words in str(error.value)


def test_a_missing_matrix_of_an_untied_config_is_named(copy):
    edit_config(copy, scale_decoder_outputs=..., tie_word_embeddings=False)
    tensors = load_file(copy / hf_directory.WEIGHTS)
    del tensors["lm_head.weight"]
    save_file(tensors, copy / hf_directory.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"1 tensors are missing: lm_head\.weight"):
        models.load(copy)


# Bad input.


def test_texts_that_are_too_long_are_refused(lm):
    short = dataclasses.replace(
        lm, config=dataclasses.replace(lm.config, max_position_embeddings=9)
    )
    with pytest.raises(ValueError, match=r"prompt 1 makes \d+ tokens, .* encoder was trained"):
        score_actions(short, ["Next:", PROMPTS[1]], [["go"], ["go"]])
    with pytest.raises(ValueError, match=r"action 1 of prompt 0 .* decoder was trained with 9"):
        score_actions(short, ["Next:"], [["go", ACTIONS[3][2]]])


def test_an_action_that_the_tokenizer_drops_is_refused(lm):
    backend = make_tokenizer().backend_tokenizer
    backend.normalizer = tokenizers.normalizers.Replace("!", "")
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    with pytest.raises(ValueError, match=r"action 1 of prompt 0 \('!'\) makes no token"):
        score_actions(dataclasses.replace(lm, tokenizer=tokenizer), ["Next:"], [["go", "!"]])


def test_a_tokenizer_of_another_model_is_refused(lm):
    other = dataclasses.replace(lm, config=dataclasses.replace(lm.config, vocab_size=5))
    with pytest.raises(ValueError, match=r"prompt 0 has token .* the tokenizer belongs"):
        score_actions(other, ["Next:"], [["go"]])


def test_a_new_model_is_the_same_for_the_same_seed(lm):
    first, again = (nnx.state(models.EncoderDecoder(lm.config, rngs=nnx.Rngs(0))) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def greedy(model, read: list[int], max_new_tokens: int) -> list[int]:
    """The tokens that transformers answers with, up to the end of the text."""
    answer = model.generate(
        torch.tensor([read]),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=1,
        use_cache=False,  # transformers makes it for as many layers as the encoder has.
        pad_token_id=0,
    )
    return answer[0, 1:].tolist()


def test_greedy_tokens_are_those_of_transformers(reference, lm):
    read = [reference.tokenizer(prompt).input_ids for prompt in PROMPTS]
    lengths = np.array([len(tokens) for tokens in read], np.int32)
    padded = np.zeros((len(read), max(lengths)), np.int32)
    for row, tokens in zip(padded, read, strict=True):
        row[: len(tokens)] = tokens
    keys = jax.random.split(jax.random.key(0), len(read))
    ends = np.arange(SHAPE["vocab_size"]) == 1
    sizes = {"num_samples": 2, "max_new_tokens": 12}
    sampled = sample_tokens(lm.graphdef, lm.params, padded, lengths, keys, ends, 0.0, 1.0, **sizes)
    assert sampled.is_finite.all()
    for tokens, answers in zip(read, np.asarray(sampled.tokens), strict=True):
        expected = greedy(reference.model, tokens, sizes["max_new_tokens"])
        for answer in answers:
            assert answer[answer >= 0].tolist() == expected


@pytest.mark.long
def test_an_encoder_decoder_proposes(lm):
    sampling = Sampling(max_new_tokens=6, temperature=0.0, stop=())
    (proposed,) = propose(lm, [Prompt(PROMPTS[0], ())], jax.random.key(0), 3, sampling)
    assert proposed.counts == (3,), "greedy samples are the same"


def test_an_answer_that_has_no_room_is_refused(lm):
    with pytest.raises(ValueError, match="context is 512"):
        generate(lm, ["go " * 505], jax.random.split(jax.random.key(0), 1))


def test_only_decoders_are_inspected(lm):
    with pytest.raises(ValueError, match="this view of a prompt needs a language model"):
        inspect(lm, "Next:", ["go"])
