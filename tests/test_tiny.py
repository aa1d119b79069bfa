"""The embedded checkpoint: what it weighs, what it knows, and that others can read it."""

import hashlib
import pathlib

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import llmprior_jax
from launch.pretraining import corpus, packing, training
from llmprior_jax import models, priors
from llmprior_jax.priors import prompts
from llmprior_jax.types import TextState

_FOLDER = pathlib.Path(llmprior_jax.__file__).parent / "models" / "tiny"
# Nats per token. The data sheet has the figures on more documents: 0.664 and 0.595.
_HELD_OUT_BOUND, _DECISION_BOUND = 0.71, 0.66


@pytest.fixture(scope="module")
def lm() -> models.LanguageModel:
    return models.load("tiny")


def test_it_is_small(lm):
    assert sum(leaf.size for leaf in jax.tree.leaves(lm.params)) < 1.5e6
    assert sum(file.stat().st_size for file in _FOLDER.iterdir()) < 5e6


def test_its_corpus_can_be_made_again():
    """The data sheet has the digest of the corpus's beginning: no other corpus made this model."""
    texts = "\0".join(document.text for document in corpus.documents(0, "train", 1000))
    digest = hashlib.sha256(texts.encode()).hexdigest()
    assert digest in (_FOLDER / "DATASHEET.md").read_text(encoding="utf-8")


def test_it_predicts_text_it_was_not_trained_on(lm):
    documents = list(corpus.documents(0, "heldout", 150))
    rows = packing.pack(packing.encode(lm.tokenizer, documents), packing.ROW_TOKENS)
    every, decision = training.held_out_loss(nnx.merge(lm.graphdef, lm.params), rows)
    assert every < _HELD_OUT_BOUND
    assert decision < _DECISION_BOUND


# Situations in words of our own; in each the first action makes sense and the others do not.
_KITCHEN = [
    (
        "Cook a carrot soup.",
        "A whole carrot lies on the first cutting board. You stand there with free hands.",
        ("chop the carrot", "chop nothing", "serve nothing"),
    ),
    (
        "Make a salad of cucumber and pepper.",
        "A cucumber and a pepper are on the table. Your hands are free.",
        ("get the cucumber", "serve nothing", "chop nothing"),
    ),
    (
        "Make a salad of cucumber and pepper.",
        "You carry a whole cucumber. The second cutting board is free.",
        ("place the cucumber on the second cutting board", "chop nothing", "get the onion"),
    ),
    (
        "Make a leek and potato stew.",
        "You carry a bowl with chopped leek and potato.",
        ("serve the food", "serve nothing", "chop nothing"),
    ),
]


@pytest.mark.parametrize(("task", "observation", "actions"), _KITCHEN)
def test_it_prefers_what_makes_sense(lm, task, observation, actions):
    prompt = prompts.plain(TextState(task, observation, actions=actions))
    [log_probs] = priors.score_actions(lm, [prompt.text], [prompt.actions])
    assert int(np.argmax(log_probs)) == 0, dict(zip(actions, np.exp(log_probs), strict=True))


def test_its_features_tell_states_apart(lm):
    """The same action in two situations: a Q head on the features must be able to differ."""
    seen = [
        prompts.plain(TextState(task, observation, actions=("serve the food",)))
        for task, observation, _ in _KITCHEN[1:]
    ]
    features = priors.score(lm, [p.text for p in seen], [p.actions for p in seen]).features[:, 0]
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    size = np.linalg.norm(features, axis=-1).mean()
    assert (distances[~np.eye(len(seen), dtype=bool)] > 0.1 * size).all()


def test_an_action_begins_at_a_token(lm):
    """Prompt and action, tokenized apart, are the joined text's tokens."""
    for task, observation, actions in _KITCHEN:
        prompt = prompts.plain(TextState(task, observation, actions=actions))
        before = lm.tokenizer(prompt.text)["input_ids"]
        for action in prompt.actions:
            joined = lm.tokenizer(prompt.text + action)["input_ids"]
            assert joined == before + lm.tokenizer(action)["input_ids"]


def test_transformers_reads_it_and_agrees(lm):
    tokenizer = transformers.AutoTokenizer.from_pretrained(_FOLDER)
    reference = transformers.Qwen2ForCausalLM.from_pretrained(_FOLDER, dtype=torch.float32)
    text = prompts.plain(TextState(*_KITCHEN[0][:2])).text + " chop the carrot"
    tokens = tokenizer(text)["input_ids"]
    assert tokens == lm.tokenizer(text)["input_ids"]
    with torch.no_grad():
        expected = reference(torch.tensor([tokens])).logits.log_softmax(-1)[0].numpy()

    length = len(tokens)
    decoder = nnx.merge(lm.graphdef, lm.params)
    hidden = decoder(
        np.array([tokens]), np.arange(length)[None], np.tril(np.ones((1, length, length), bool))
    )
    logits = np.asarray(decoder.logits(hidden)[0], np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected, atol=1e-4)
