"""What a model said is known again as long as this package computes the same numbers from it."""

import hashlib

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from test_models import V, torch_model, write_tokenizer
from tokenizers import Tokenizer, processors

from llmprior_jax import models, priors
from llmprior_jax.play.row_files import RowFiles
from llmprior_jax.priors import PriorStore, Prompt, StoredScores
from llmprior_jax.priors.whitening import Whitening

PROMPT = Prompt("<end> w5 w6", (" w7", " w8 w9"))
BOS = 1  # of <end>


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model with all whose numbers once were others: a tied one with another head, and a BOS."""
    directory = tmp_path_factory.mktemp("model")
    torch_model("qwen2_mha_tied").save_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = np.random.default_rng(1).normal(size=(V, 32)).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<end> $A", special_tokens=[("<end>", BOS)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def fingerprint(directory, about: str) -> str:
    """The fingerprint that goes by the files and by what is said of how numbers come of them."""
    whole = hashlib.sha256(about.encode())
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    for name in names:
        content = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        whole.update(f"\n{name} {content}".encode())
    return whole.hexdigest()


def test_these_are_the_numbers_of_version_3(directory):
    """If they have to change, the version has to be raised, here and where it is."""
    assert models.fingerprint(directory) == fingerprint(directory, "numbers 3 float32")
    reference = transformers.Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    scores = priors.CachedModel(str(directory)).score([PROMPT])
    for a, action in enumerate([[7], [8, 9]]):
        read = torch.tensor([[BOS, 5, 6, *action]])
        with torch.no_grad():
            log_probs = reference(read).logits[0].log_softmax(-1)
        places = range(2, 2 + len(action))
        expected = sum(float(log_probs[i, read[0, i + 1]]) for i in places)
        np.testing.assert_allclose(scores.log_probs[0, a], expected, atol=1e-4)


def test_what_was_said_with_other_numbers_is_asked_anew(directory, tmp_path):
    before = fingerprint(directory, "float32")  # as of 0.1
    old = StoredScores(PROMPT.actions, np.zeros(2, np.float32), np.ones(2, np.int32), np.eye(2, 32))
    with PriorStore(tmp_path / "priors.sqlite") as store:
        store.put_scores(before, str(directory), {PROMPT.text: old})
        model = priors.CachedModel(str(directory), store)
        assert (model.score([PROMPT]).log_probs < 0).all()
        assert model.queries.made == 1
        # Both are shown, so that the former can be removed.
        assert [usage.fingerprint for usage in store.usage()] == [before, model.fingerprint]


def test_rows_with_other_numbers_are_refused_with_what_to_do(directory, tmp_path):
    rows = RowFiles(tmp_path / "rows")
    whitening = Whitening(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))
    rows.write_whitening(whitening, fingerprint(directory, "float32"))
    model = priors.CachedModel(str(directory))
    with pytest.raises(ValueError, match=r"another version of llmprior_jax.*provenance\.jsonl"):
        rows.read_whitening(lambda: model.identity)
