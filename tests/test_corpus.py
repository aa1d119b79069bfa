"""The generated corpus: the same from the same seed, sound, and free of what it is evaluated on."""

import itertools
import json
import random
import re
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.pretraining import corpus, household, kitchen, packing, training, walks
from launch.pretraining.phrases import Document, Piece
from launch.pretraining.tokenizer import train_tokenizer
from llmprior_jax import envs
from llmprior_jax.envs.alfworld.tasks import TASK_TYPES, is_held_out
from llmprior_jax.models import Decoder, DecoderConfig

_SAMPLE = 6000


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(corpus.documents(0, "train", _SAMPLE))


@pytest.fixture(scope="module")
def evaluation_texts() -> set[str]:
    """Every task and observation of every environment that can list them."""
    texts = set()
    for name in envs.NAMES:
        env, _ = envs.make(name)
        for observation in env.list_observations() if not name.startswith("BabyAI-") else ():
            state = env.text_state(observation)
            texts |= {state.task, state.observation}
    return texts


def _foods_in(text: str) -> frozenset[str]:
    words = set(re.findall(r"[a-z]+", text.lower()))
    return frozenset(words & set(kitchen.FOODS))


def test_a_document_depends_on_seed_split_and_number_only():
    texts = [corpus.document(7, "train", number).text for number in range(50)]
    assert texts == [document.text for document in corpus.documents(7, "train", 50)]
    assert texts[::-1] == [corpus.document(7, "train", n).text for n in reversed(range(50))]
    assert texts != [document.text for document in corpus.documents(8, "train", 50)]
    assert texts != [document.text for document in corpus.documents(7, "heldout", 50)]


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'train' or 'heldout'"):
        corpus.documents(0, "test", 1)


def test_the_evaluation_recipes_are_the_ones_left_out():
    cooked = set()
    for name in envs.NAMES:
        if name.startswith("Overcooked"):
            env, _ = envs.make(name)
            cooked.add(_foods_in(env.text_state(env.list_observations()[0]).task))
    assert cooked == set(kitchen.EVALUATION_RECIPES)


def test_no_task_is_an_evaluation_recipe(documents):
    tasks = [document.task for document in documents if document.kind == "kitchen"]
    recipes = {_foods_in(task) for task in tasks if task}
    assert len(recipes) > 300, "the sample should show many recipes"
    assert not recipes & set(kitchen.EVALUATION_RECIPES)


def test_no_recipe_drawn_is_an_evaluation_recipe():
    rng = random.Random(0)
    recipes = {frozenset(kitchen.sample_recipe(rng)) for _ in range(20_000)}
    assert not recipes & set(kitchen.EVALUATION_RECIPES)
    assert frozenset({"lettuce"}) in recipes
    assert frozenset({"tomato", "lettuce", "onion"}) in recipes


def test_no_evaluation_sentence_occurs(documents, evaluation_texts):
    """Sentences that name a thing; "Your hands are empty." is anybody's."""
    sentences = {
        sentence.strip().lower()
        for text in evaluation_texts
        for sentence in re.findall(r"[^.]+\.", text)
    } - {"your hands are empty."}
    assert len(sentences) > 30
    everything = "\n".join(document.text for document in documents).lower()
    assert [sentence for sentence in sentences if sentence in everything] == []


def test_no_errand_is_about_a_pair_that_only_unseen_games_ask_for():
    rng = random.Random(0)
    pairs = {
        (home.thing, home.target) for home in (household.sample_home(rng) for _ in range(5000))
    }
    assert len(pairs) > 200, "the sample should show many pairs"
    assert [pair for pair in pairs if is_held_out(*pair)] == []


def test_nothing_is_brought_where_only_unseen_games_want_it(documents):
    words = r"(?:move|put|place|set) (?:the )?(\w+) \d+ (?:to|in|on) (?:the )?(\w+) \d+"
    brought = {
        pair
        for document in documents
        for piece in document.pieces
        if document.kind == "household" and piece.decision
        for pair in re.findall(words, piece.text)
    }
    assert len(brought) > 200, "the sample should show many things that are brought somewhere"
    assert [pair for pair in brought if is_held_out(*pair)] == []


def test_no_household_sentence_of_alfworld_occurs(documents, alfworld_data):
    """Tasks as ALFWorld words them, and all that it tells in games that are played to their end."""
    goal_library = pytest.importorskip("alfworld.gen.goal_library")
    told, commands = set(), set()
    for path in sorted(alfworld_data.rglob("game.tw-pddl")):
        env, params = envs.make("ALFWorld", games=[path])
        observation, state = env.reset(jax.random.key(0), params)
        for command in json.loads(path.read_text())["walkthrough"]:
            text = env.text_state(observation)
            told |= {text.task, text.observation}
            commands |= set(text.actions)
            action = text.actions.index(command)
            observation, state, *_ = env.step(jax.random.key(0), state, action, params)
    sentences = {
        re.sub(r"\d+", "#", sentence.strip().lower())
        for text in told
        for sentence in re.findall(r"[^.\n]+\.", text)
    }
    assert len(sentences) > 15
    everything = "\n".join(d.text for d in documents if d.kind == "household").lower()
    numberless = re.sub(r"\d+", "#", everything)
    assert [sentence for sentence in sentences if sentence in numberless] == []
    goals = [
        template.format(obj=r"\w+", recep=r"\w+", toggle=r"\w+")
        for task_type in TASK_TYPES.values()
        for template in goal_library.gdict[task_type]["templates"]
    ]
    assert [goal for goal in goals if re.search(rf"\b{goal}\b", everything)] == []
    assert any(command in everything for command in commands), "commands are anybody's words"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 12))
def test_the_plan_serves_the_dish_after_any_mishaps(seed, mishaps):
    rng = random.Random(seed)
    state = kitchen.sample_kitchen(rng)
    for _ in range(mishaps):
        if state.do(rng.choice(state.actions())):
            return
    assert any(state.do(state.plan(rng)) for _ in range(60))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_every_errand_can_be_run(seed):
    rng = random.Random(seed)
    home = household.sample_home(rng)
    assert any(home.do(home.plan(rng)) for _ in range(60))


@pytest.mark.parametrize("writer", [kitchen.cooking, household.errand, walks.walk])
def test_decisions_are_marked_and_follow_their_observation(writer):
    for seed in range(100):
        document = writer(random.Random(seed))
        pieces = document.pieces
        if not document.task:
            continue  # general sentences, where there was no way to walk
        assert pieces[-1].decision
        assert not pieces[0].decision
        assert not any(one.decision and two.decision for one, two in itertools.pairwise(pieces))
        assert all(piece.text.startswith(" ") for piece in pieces if piece.decision)


@pytest.fixture(scope="module")
def tokenizer(documents):
    return train_tokenizer((document.text for document in documents[:1000]), 600, 512)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
def test_the_tokenizer_writes_any_text(tokenizer, text):
    tokens = tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokens) == unicodedata.normalize("NFC", text)


def test_weights_mark_decisions_and_spare_the_first_token(tokenizer):
    document = Document("kitchen", "t", (Piece("Task: eat\nNext:"), Piece(" chop it", True)))
    [(tokens, weights)] = packing.encode(tokenizer, [document])
    assert tokenizer.decode(tokens[:-1]) == document.text
    assert tokens[-1] == tokenizer.eos_token_id
    decision = len(tokenizer(" chop it")["input_ids"])
    before = len(tokens) - 1 - decision
    expected = [0.0] + [1.0] * (before - 1) + [packing.DECISION_WEIGHT] * decision + [1.0]
    assert weights == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_packing_keeps_every_document_that_fits_whole_and_once(sizes):
    encoded = [([number] * size, [1.0] * size) for number, size in enumerate(sizes, 1)]
    rows = packing.pack(encoded, 32)
    found = []
    for tokens, positions, segments in zip(rows.tokens, rows.positions, rows.segments, strict=True):
        for segment in range(1, segments.max(initial=0) + 1):
            span = segments == segment
            assert positions[span].tolist() == list(range(span.sum()))
            found.append(tokens[span].tolist())
    assert sorted(found) == sorted(tokens for tokens, _ in encoded if len(tokens) <= 32)


def test_packed_documents_do_not_see_one_another(tokenizer, documents):
    config = DecoderConfig(len(tokenizer), 32, 48, 2, 2, 1, 16, 512, tie_word_embeddings=True)
    decoder = Decoder(config, rngs=nnx.Rngs(0))
    encoded = packing.encode(tokenizer, documents[:8])
    length = max(len(tokens) for tokens, _ in encoded)
    together = packing.pack(encoded, length)
    alone = [packing.pack([one], length) for one in encoded]
    apart = packing.Rows(*(np.concatenate(fields) for fields in zip(*alone, strict=True)))
    losses = nnx.jit(training.token_losses)

    def total(rows):
        rows = jax.tree.map(jnp.asarray, rows)
        return np.sum(np.asarray(losses(decoder, rows)) * (rows.weights[:, 1:] > 0))

    assert len(together.tokens) < len(apart.tokens)
    np.testing.assert_allclose(total(together), total(apart), rtol=1e-5)
