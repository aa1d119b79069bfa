"""The next batch becomes tokens while the model is asked about one, and nothing else changes."""

import threading

import numpy as np
import pytest

from llmprior_jax.priors import CachedModel, PriorStore, Prompt
from llmprior_jax.priors.sources import cached

PROMPTS = [Prompt(f"You see cup {n}. Next:", (" take it", f" wait {n}")) for n in range(6)]
# No model has a context for this.
TOO_LONG = Prompt("a cup " * 5000 + "Next:", (" wait",))


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(cached, "_PROMPTS_PER_BATCH", 2)


def test_a_batch_is_begun_before_the_one_before_it_is_asked(monkeypatch, small_batches):
    events = []
    begin = cached.score_in_passes

    def observed(lm, texts, lists, **how):
        number = len([what for what, _ in events if what == "begun"])
        events.append(("begun", number))
        passes = begin(lm, texts, lists, **how)

        def ask():
            events.append(("asked", number))
            yield from passes

        return ask()

    monkeypatch.setattr(cached, "score_in_passes", observed)
    CachedModel("tiny").score(PROMPTS)
    expected = [("begun", 0), ("begun", 1), ("asked", 0), ("begun", 2), ("asked", 1), ("asked", 2)]
    assert events == expected


def test_batches_ahead_change_no_bit(small_batches):
    together = CachedModel("tiny").score(PROMPTS)
    model = CachedModel("tiny")
    for start in range(0, len(PROMPTS), 2):
        part = model.score(PROMPTS[start : start + 2])
        for whole, some in zip(together, part, strict=True):
            np.testing.assert_array_equal(whole[start : start + 2], some)


def test_an_error_in_a_batch_ahead_comes_in_its_turn_and_leaves_no_thread(tmp_path, small_batches):
    before = set(threading.enumerate())
    with PriorStore(tmp_path / "priors.sqlite") as store:
        model = CachedModel("tiny", store)
        with pytest.raises(ValueError, match=r"action 0 of prompt 0 .* tokens together"):
            model.score([*PROMPTS[:4], TOO_LONG])
        assert store.usage()[0].prompts == model.queries.made == 4
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("tokens"):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_one_prompt_in_two_batches_is_asked_once_about_each_action(small_batches):
    """As it is where a space moves from prompts into their actions."""
    lists = [Prompt("Next:", (" wait", " go")), Prompt("Now:", (" wait",))]
    model = CachedModel("tiny")
    scores = model.score([*lists, Prompt("Next: ", ("go", "sit"))])
    assert model.queries.made == 3
    alone = CachedModel("tiny").score([Prompt("Next:", (" go", " sit"))])
    np.testing.assert_allclose(scores.log_probs[2], alone.log_probs[0], atol=1e-5)
    assert scores.log_probs[2, 0] == scores.log_probs[0, 1]
