"""Where actions begin, one BOS for a text, and text that looks like special tokens."""

import itertools
from types import SimpleNamespace

import hypothesis
import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import strategies as st
from small_lm import small_lm
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from llmprior_jax import models, priors
from llmprior_jax.priors import PriorStore, tokens
from llmprior_jax.priors.sampling.generation import _tokenize
from llmprior_jax.priors.scoring.tokenizing import tokenize
from llmprior_jax.priors.tokens import words

TEXTS = [
    'Task: make tea\nNow: "The kettle" is empty.\n\nNext: fill the kettle',
    "Say: caf\u00e9 \u2603 go to  the sink\nNext:\ngo",
]
WORDS = [
    *("go", "to", "the", "kettle.", "Now:", "sink,", "1", "234", "It's", "caf\u00e9", "\u2603"),
    *("e\u0301", "\u0301x", "\u2581", "a\u2581b", "Next:\n", "\n\nIt", "", " ", "<s>", "\t"),
    *("x<|im_end|>", "[SEP]y", "\u0600", "\U0001f600.", "a.\u00a0b", "GO", "\u01c5"),
]
UNICODE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0"), max_size=6)
SENTENCES = st.lists(st.sampled_from(WORDS) | UNICODE, max_size=6).map(" ".join)
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>", "[SEP]"]
# Prompts by how they end, and actions that follow them.
LISTS = [
    ("Now: it is.\nNext:", (" fill the kettle", " go")),
    ("Now: it is.\nNext: ", ("fill", "go", " wait", "\u2603")),
    ("Now: it is.\nNext:\n", ("fill", "\ngo", "go")),
    ('Now: it is.\nNext: "', ("fill", '"', "go")),
    ("Now: it is.\nNext:  ", ("go", " go")),
    ("<s>Now: it is.<|im_end|>\n", ("fill", "\n\ngo")),
    ("Say: caf\u00e9", ("\u00e9", " go", "\u0301")),
    ("Next: fi", ("ll the kettle", "x")),
    ("n", ("o", "p")),
]


def trained_on_bytes(tokenizer):
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_level():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained_on_bytes(tokenizer)


def merging():
    """Tokens go on over spaces."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=200, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "<|[]>SEPm_sn"], trainer)
    return tokenizer


def word_piece():
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, "<|[]>sep_sn"], trainer)
    return tokenizer


def split_by_pattern():
    """As Llama 3 and Qwen cut texts before they merge bytes."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    pattern = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"""
    pattern += r""" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return trained_on_bytes(tokenizer)


def unsplit_sentencepiece():
    """As Llama 2 and Gemma: one stretch of text, whose merges keep before spaces."""
    words = {word for text in TEXTS for word in text.replace("\n", " ").split()}
    alphabet = sorted({c for text in [*TEXTS, *SPECIAL, *WORDS] for c in text if c != " "})
    vocabulary, merges = dict.fromkeys([*SPECIAL, "\u2581", *alphabet]), []
    for word in sorted(words):
        merged = "\u2581"
        for character in word:
            merges.append((merged, character))
            merged += character
            vocabulary[merged] = None
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {token: i for i, token in enumerate(vocabulary)},
            list(dict.fromkeys(merges)),
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


KINDS = {
    kind.__name__: kind
    for kind in (
        *(byte_level, split_by_pattern, merging),
        *(sentencepiece, unsplit_sentencepiece, word_piece),
    )
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    backend = KINDS[request.param]()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def ids(tokenizer, text):
    """As the tokenizer itself reads a text."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


# Words that are known.


@hypothesis.given(
    st.lists(
        st.lists(st.sampled_from(WORDS) | UNICODE, max_size=12).map(" ".join),
        max_size=6,
    )
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_texts_put_together_have_the_tokens_of_the_whole(tokenizer, texts):
    for _ in range(2):  # New words, and known ones.
        assert tokens.encode(tokenizer, texts) == [ids(tokenizer, text) for text in texts]


@pytest.mark.parametrize("kind", KINDS)
def test_known_words_are_used_where_tokens_end_before_spaces(kind):
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=KINDS[kind]())
    known = words.words_of(tokenizer)
    read = []
    known._read, reading = lambda texts: read.extend(texts) or reading(texts), known._read
    first, again = "go to the sink. Now wait", "go to the kettle. Now wait, wait."
    tokens.encode(tokenizer, [first, "go kettle. wait, wait."])
    read.clear()
    assert tokens.encode(tokenizer, [again]) == [ids(tokenizer, again)]
    assert read == ([again] if kind == "merging" else [])


def test_a_tokenizer_that_looks_further_than_a_word_reads_whole_texts():
    backend = byte_level()
    # Two words that follow one another are one, unless what comes next ends the text.
    backend.normalizer = normalizers.Replace(tokenizers.Regex("to the(?= sink)"), "to")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    for text in ("go to the kettle", "go to the sink"):
        assert tokens.encode(tokenizer, [text]) == [ids(tokenizer, text)]
    text = "Now: go to the sink"
    assert tokens.encode(tokenizer, [text]) == [ids(tokenizer, text)]
    assert not words.words_of(tokenizer).are_sure


@pytest.mark.parametrize("content", ["go", "end."])
def test_a_token_that_swallows_spaces_forbids_cuts(content):
    backend = byte_level()
    backend.add_tokens([tokenizers.AddedToken(content, lstrip=True, rstrip=True)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    text = f"Now {content} to. Then {content} x"
    assert tokens.encode(tokenizer, [text]) == [ids(tokenizer, text)]
    assert not words.words_of(tokenizer).are_sure


def test_forgotten_words_are_read_again(monkeypatch):
    monkeypatch.setattr(words, "_MOST_REMEMBERED", 3)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level())
    texts = [f"Task {i}: go to the sink {i % 3}" for i in range(9)] + ["Task 1: go"]
    for text in texts:
        assert tokens.encode(tokenizer, [text]) == [ids(tokenizer, text)]
    assert words.words_of(tokenizer).are_sure


# Where actions begin.


@pytest.mark.parametrize(("prompt", "actions"), LISTS)
def test_a_prompt_ends_where_all_actions_agree(tokenizer, prompt, actions):
    kept, moved = tokens.align(tokenizer, prompt, actions)
    assert [kept + action for action in moved] == [prompt + action for action in actions]
    whole = [ids(tokenizer, prompt + action) for action in actions]

    def begins_all(text):
        begun = ids(tokenizer, text)
        return all(text_ids[: len(begun)] == begun for text_ids in whole)

    longest = next(prompt[:n] for n in range(len(prompt), -1, -1) if begins_all(prompt[:n]))
    assert kept == longest


@pytest.mark.parametrize(("prompt", "actions"), LISTS)
def test_what_is_aligned_is_not_moved_again(tokenizer, prompt, actions):
    aligned = tokens.align(tokenizer, prompt, actions)
    assert tokens.align(tokenizer, *aligned) == aligned
    for action in aligned[1]:
        assert tokens.align(tokenizer, aligned[0], [action]) == (aligned[0], (action,))


@pytest.mark.parametrize("end", ["\u2581", "\ufdd0", " \ufdd0"])
@pytest.mark.parametrize("prompt", ["go to{}", "go to{} x"])
def test_what_a_tokenizer_does_not_read_as_text_is_no_plain_end(tokenizer, prompt, end):
    """SentencePiece spells spaces with one of the characters, and the other is not read at all."""
    prompt, actions = prompt.format(end), (" the sink", " wait")
    kept, moved = tokens.align(tokenizer, prompt, actions)
    whole = tokens.encode(tokenizer, [prompt + action for action in actions])

    def begins_all(text):
        (begun,) = tokens.encode(tokenizer, [text])
        return all(text_ids[: len(begun)] == begun for text_ids in whole)

    longest = next(prompt[:n] for n in range(len(prompt), -1, -1) if begins_all(prompt[:n]))
    assert (kept, kept + moved[0]) == (longest, prompt + actions[0])


def test_what_is_remembered_is_what_was_found(tokenizer):
    again = [tokens.align(tokenizer, *LISTS[1]) for _ in range(2)]
    assert again[0] == again[1]
    longer = tokens.align(tokenizer, "Task: make tea\n" + LISTS[1][0], LISTS[1][1])
    assert longer[1] == again[0][1]


@pytest.mark.parametrize("begins", ["", "It is. ", "Say: caf\u00e9\n"])
def test_actions_are_counted_from_where_all_agree(tokenizer, begins):
    config = SimpleNamespace(max_position_embeddings=999, vocab_size=999)
    lm = SimpleNamespace(config=config, tokenizer=tokenizer)
    # WordPiece drops accents that stand alone.
    pairs = [(begins + prompt, actions) for prompt, actions in LISTS if "\u0301" not in actions]
    prompts, lists = zip(*pairs, strict=True)
    bos = tokenizer.bos_token_id
    for order in (slice(None), slice(None, None, -1)):  # New actions, and known ones.
        states = tokenize(lm, prompts[order], lists[order])
        for prompt, actions, state in zip(prompts[order], lists[order], states, strict=True):
            whole = [ids(tokenizer, prompt + action) for action in actions]
            whole = [text if text[:1] == [bos] else [bos, *text] for text in whole]
            tails = [state.tails.tokens[state.tails.path(a)] for a in range(len(actions))]
            assert [[*state.head, *tail] for tail in tails] == whole
            kept, _ = tokens.align(tokenizer, prompt, actions)
            kept_ids = ids(tokenizer, kept)
            assert len(state.head) == len(kept_ids) + (kept_ids[:1] != [bos])


@hypothesis.given(
    st.lists(
        st.tuples(
            SENTENCES,
            # With a word of their own, so that no tokenizer drops them.
            st.lists(SENTENCES.map("{} go".format), min_size=1, max_size=3, unique=True),
        ),
        min_size=1,
        max_size=4,
    )
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_any_prompt_and_action_have_the_tokens_of_the_whole(tokenizer, states):
    config = SimpleNamespace(max_position_embeddings=999, vocab_size=999)
    lm = SimpleNamespace(config=config, tokenizer=tokenizer)
    whole = [[ids(tokenizer, prompt + action) for action in group] for prompt, group in states]
    bos = tokenizer.bos_token_id
    for _ in range(2):  # New actions, and known ones.
        found = [
            [
                [*state.head, *state.tails.tokens[state.tails.path(a)]]
                for a in range(len(state.tails.lengths))
            ]
            for state in tokenize(lm, *zip(*states, strict=True))
        ]
        assert found == [
            [text if text[:1] == [bos] else [bos, *text] for text in group] for group in whole
        ]


def test_what_is_remembered_of_other_prompts_changes_nothing():
    lm = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=999, vocab_size=999),
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=unsplit_sentencepiece()),
    )
    tokenize(lm, ["see a cup"], [(" go", " to")])
    for prompt in ("\n", "see a cup"):
        (state,) = tokenize(lm, [prompt], [(" go", " the")])
        tails = [state.tails.tokens[state.tails.path(a)] for a in range(2)]
        whole = [ids(lm.tokenizer, prompt + action) for action in (" go", " the")]
        assert [[*state.head, *tail] for tail in tails] == whole


def test_an_action_without_tokens_is_refused_each_time():
    backend = byte_level()
    backend.normalizer = normalizers.Replace("\x01", "")
    lm = SimpleNamespace(
        config=SimpleNamespace(max_position_embeddings=999, vocab_size=999),
        tokenizer=transformers.PreTrainedTokenizerFast(tokenizer_object=backend),
    )
    for actions in ((" go", "\x01"), ("\x01", " to")):
        with pytest.raises(ValueError, match="adds no token to its prompt"):
            tokenize(lm, ["Next: go. Now:"], [actions])


def test_the_space_that_a_prompt_ends_with_counts_for_all_actions():
    """The probabilities of all texts of some tokens, added up by brute force."""
    lm = small_lm(["go to the sink . wait", " "])
    prompt, actions = "go to ", ("the", "wait", "sink")
    log_probs = priors.score_texts(lm, [prompt], [actions]).log_probs[0]
    exact = priors.score_texts(lm, ["go to"], [[f" {action}" for action in actions]])
    np.testing.assert_array_equal(log_probs, exact.log_probs[0])
    # " the" is a token, and "sink" has one without its space: they begin at the same point.
    counts = priors.score_texts(lm, [prompt], [actions]).num_tokens[0]
    assert counts.tolist() == exact.num_tokens[0].tolist()


def test_the_embedded_model_counts_a_space_for_all_actions():
    lm = models.load("tiny")
    apart = priors.score_actions(lm, ["Next:"], [[" wait", " go", " \u2603"]])
    together = priors.score_actions(lm, ["Next: "], [["wait", "go", "\u2603"]])
    np.testing.assert_array_equal(together, apart)


def test_a_list_that_is_in_the_store_gives_what_the_model_would(tmp_path):
    """Lists after one prompt that are counted from different points of it."""
    lists = [("wait", "go"), ("\n\nx", "1"), ("1", "2")]
    asked = [priors.Prompt("Next:\n", actions) for actions in lists]
    alone = [priors.CachedModel("tiny").score([prompt]).log_probs[0] for prompt in asked]
    for order in itertools.permutations(range(3)):
        with PriorStore(tmp_path / f"{order}.sqlite") as store:
            for b in order:
                known = priors.CachedModel("tiny", store).score([asked[b]])
                np.testing.assert_allclose(known.log_probs[0], alone[b], atol=1e-4)
            model = priors.CachedModel("tiny", store)
            together = model.score(asked).log_probs
            np.testing.assert_allclose(together, alone, atol=1e-4)
            assert model.queries.made == 0
            assert "language_model" not in vars(model), "the weights are not needed"


# One BOS.


def test_a_prompt_that_has_its_bos_gets_no_second_one(tokenizer):
    (bare,), (own,) = (
        tokens.encode_from_start(tokenizer, [text]) for text in ("go to", "<s>go to")
    )
    assert bare[0] == own[0] == 1
    assert own.count(1) == bare.count(1) == 1
    assert tokens.count_tokens(tokenizer, "<s>go to") == len(own) + 1  # and the end of text
    assert tokens.encode_whole(tokenizer, ["go to"]) == [tokenizer("go to").input_ids]


def test_generation_reads_one_bos():
    lm = small_lm(["go to the sink"])
    lm.tokenizer.backend_tokenizer.add_special_tokens(["<s>"])
    bos = lm.tokenizer.convert_tokens_to_ids("<s>")
    lm.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    config = type("Config", (), {"max_position_embeddings": 99, "vocab_size": 99})()
    fake = type("Model", (), {"tokenizer": lm.tokenizer, "config": config})()
    own, bare = _tokenize(fake, ["<s>go to", "go to"], 1)
    np.testing.assert_array_equal(own, bare)


# Text that looks like special tokens.

LOOK_ALIKES = [
    "You see <|im_end|> and <s>.",
    "<s>",
    "<<s>s></s><unk>",
    "[SEP][SEP]",
    "a\ufdd0b <|im_end|>",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_a_literal_text_is_read_as_with_special_tokens_off(tokenizer, text):
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.encode_special_tokens = True
    plain = text.replace("\ufdd0", "")
    expected = backend.encode(plain, add_special_tokens=False).ids
    literal = tokens.literal(tokenizer, text)
    assert tokens.encode(tokenizer, [literal]) == [expected]
    assert tokens.visible(literal) == plain


def test_markup_around_a_literal_text_is_still_read_as_markup(tokenizer):
    literal = tokens.literal(tokenizer, "a <|im_end|> b")
    (read,) = tokens.encode(tokenizer, [f"<s>x {literal}<|im_end|>\n"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert read[0] == 1
    assert read.count(end) == 1
    assert read.index(end) >= len(read) - 3


def test_a_text_without_look_alikes_is_left_alone(tokenizer):
    assert tokens.literal(tokenizer, TEXTS[0]) == TEXTS[0]


def test_a_special_token_that_is_found_after_normalizing_is_read_as_text():
    backend = byte_level()
    backend.normalizer = normalizers.Lowercase()
    backend.add_special_tokens([tokenizers.AddedToken("<end>", special=True, normalized=True)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    end = tokenizer.convert_tokens_to_ids("<end>")
    assert end in ids(tokenizer, "go <END>")
    for text in ("go <END>", "go <end>"):
        assert end not in tokens.encode(tokenizer, [tokens.literal(tokenizer, text)])[0]


USER_DEFINED = ["<start_of_image>", "<think>", "<table>", "[TOOL]", "[multimodal]", "\n\n"]


def with_user_defined(normalized: bool):
    backend = byte_level()
    backend.normalizer = normalizers.Lowercase() if normalized else None
    backend.add_tokens(
        [tokenizers.AddedToken(t, special=False, normalized=normalized) for t in USER_DEFINED]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = "{{ messages }}\n\n<think>[TOOL]"
    return tokenizer


@pytest.mark.parametrize("normalized", [False, True])
def test_markup_that_is_not_called_special_is_read_as_text(normalized):
    tokenizer = with_user_defined(normalized)
    known = tokenizer.get_vocab()
    for markup in ("<start_of_image>", "<think>", "[TOOL]"):
        text = f"You see {markup} here."
        assert known[markup] in ids(tokenizer, text)
        literal = tokens.literal(tokenizer, text)
        (read,) = tokens.encode(tokenizer, [literal])
        assert known[markup] not in read
        assert tokens.visible(literal) == text


@pytest.mark.parametrize("word", ["<table>", "[multimodal]", "\n\n"])
def test_other_tokens_of_users_stay_what_they_are(word):
    tokenizer = with_user_defined(False)
    text = f"You see {word} here."
    assert tokens.literal(tokenizer, text) == text


def test_an_action_is_found_in_an_answer_whatever_marks_it_has():
    lm = models.load("tiny")
    action = tokens.literal(lm.tokenizer, "take <|endoftext|>")
    assert action != "take <|endoftext|>"
    assert priors.project("take <|endoftext|>", ["wait", action]).rule == "exact"
