"""A prior by proposals: the same numbers as its parts give, kept in the store, used in a run."""

import json

import jax
import numpy as np
import pytest

from llmprior_jax import training
from llmprior_jax.priors import (
    CachedModel,
    PriorStore,
    Prompt,
    Proposals,
    Proposed,
    Sampling,
    estimate,
    prompts,
    propose,
)
from llmprior_jax.priors.sources import cached
from llmprior_jax.training.metrics import read_metrics
from llmprior_jax.types import TextState

SAMPLING = Sampling(max_new_tokens=8)
ACTIONS = (" pick up the bowl", " pick up the tomato", " chop", " wait")
PROMPTS = [
    Prompt("Task: make a salad\nNow: You see a tomato.\nNext:", ACTIONS),
    Prompt("Task: wash up\nNow: You see a sink.\nNext:", ACTIONS[:2]),
]
THINKING = Prompt("Task: make a salad\nNow: You see a tomato.\nSeen:", ACTIONS, "\nNext:")


def make(k=8, store=None, **kwargs) -> tuple[CachedModel, Proposed]:
    model = CachedModel("tiny", store)
    return model, Proposed(model, k, SAMPLING, seed=3, **kwargs)


@pytest.fixture(scope="module")
def proposed_priors():
    """A model, the source that asks it, and the priors of the two prompts."""
    model, source = make(no_match="uniform", pseudo_count=0.5)
    return model, source, source.score(PROMPTS)


def test_the_prior_is_the_estimate_and_the_features_are_those_of_scoring(proposed_priors):
    model, source, (log_probs, features, counted) = proposed_priors
    proposals = propose(model.language_model, PROMPTS, jax.random.key(3), 8, SAMPLING)
    outcomes = [
        estimate(proposed, prompt.actions, "uniform", 0.5)
        for proposed, prompt in zip(proposals, PROMPTS, strict=True)
    ]
    for b, outcome in enumerate(outcomes):
        n = len(PROMPTS[b].actions)
        np.testing.assert_array_equal(log_probs[b, :n], outcome.log_probs)
        assert np.all(np.isneginf(log_probs[b, n:]))
    np.testing.assert_array_equal(features, CachedModel("tiny").score(PROMPTS).features)
    rates = source.metrics(counted)
    assert rates["no_match_rate"] == sum(o.num_by_rule["no_match"] for o in outcomes) / 16
    assert rates["unfinished_rate"] == sum(p.num_unfinished for p in proposals) / 16
    assert 0 < rates["no_match_rate"] < 1


def test_a_prompt_that_fits_the_context_leaves_room_for_what_is_sampled():
    model, source = make(k=1)
    past = tuple((f"You see thing {i}.", "go on") for i in range(120))
    state = TextState("wash up", "You see a sink.", past, ("go on",))
    prompt = prompts.fit(state, prompts.plain, model.fits)
    assert prompt.uncut is not None
    assert np.isfinite(source.score([prompt]).log_probs).all()


@pytest.mark.long
def test_after_thoughts_features_are_their_mean():
    model, source = make(k=4)
    features = source.score([THINKING]).features
    (proposed,) = model.propose([THINKING], 3, 4, SAMPLING)
    thoughts = [thought for each in proposed.thoughts for thought in each]
    assert len(thoughts) == 4
    each = CachedModel("tiny").score([THINKING.with_thought(thought) for thought in thoughts])
    np.testing.assert_allclose(features[0], each.features.mean(0), atol=1e-5)


def test_what_the_store_holds_is_not_asked_again(proposed_priors, tmp_path, monkeypatch):
    with PriorStore(tmp_path / "store") as store:
        kept, source = make(store=store, no_match="uniform", pseudo_count=0.5)
        first = source.score([*PROMPTS, THINKING])
    with PriorStore(tmp_path / "store") as store:
        again, source = make(store=store, no_match="uniform", pseudo_count=0.5)
        monkeypatch.setattr(
            cached.models, "load", lambda model, **how: pytest.fail("loaded the model")
        )
        second = source.score([*PROMPTS, THINKING])
        np.testing.assert_array_equal(first.log_probs, second.log_probs)
        np.testing.assert_array_equal(first.features, second.features)
        assert first.outcomes == second.outcomes
        assert again.queries.made == 0
        assert again.queries.saved == kept.queries.made
        with pytest.raises(pytest.fail.Exception, match="loaded the model"):
            make(store=store, k=9)[1].score(PROMPTS)  # Other answers than those that are kept.
    np.testing.assert_array_equal(first.log_probs[:2], proposed_priors[2].log_probs)


def test_proposals_are_read_back_from_json():
    proposals = Proposals(("chop", ""), (2, 1), (("a", "b"), ("c",)), 1)
    assert Proposals.from_json(json.loads(json.dumps(proposals))) == proposals


def small_config(tmp_path, **changes):
    config = training.default_config()
    small = {
        "env": "FrozenLake-4x4",
        "num_seeds": 2,
        "num_steps": 320,
        "eval_every": 160,
        "eval_episodes": 16,
        "prior.store": str(tmp_path / "store"),
        "prior.method": "propose",
        "prior.propose.k": 4,
        "prior.propose.max_new_tokens": 6,
    }
    config.update_from_flattened_dict(small | changes)
    return config


@pytest.mark.long
def test_a_run_learns_with_what_the_model_proposes(tmp_path):
    # The prior as it is proposed is to be seen.
    training.run(small_config(tmp_path, **{"agent.trust": "fixed"}), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "dqn_prior")
    assert [record["step"] for record in records] == [0, 160, 320]
    assert all(0 <= record["no_match_rate"] <= 1 for record in records[1:])
    run = training.restore(tmp_path / "run", "dqn_prior", eval_episodes=16)
    # It goes on counting where it stopped.
    assert run.scored.metrics()["no_match_rate"] == records[-1]["no_match_rate"]
    decision = next(run.play(0, jax.random.key(0)))
    # Of four samples m named an action; and there is a tenth of one for each of four actions.
    counts = [decision.prior * (m + 0.4) - 0.1 for m in range(5)]
    assert any(np.allclose(each, np.round(each), atol=1e-4) for each in counts)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"prior.method": "guess"},
            r"no prior method 'guess'; .* There are score, propose, imitate",
        ),
        ({"prior.prompt": "plane"}, "no prompt 'plane'; did you mean 'plain'"),
        ({"prior.prompt": "think_first", "prior.method": "score"}, "prior.method to 'propose'"),
        ({"prior.propose.k": 0}, "propose.k is 0"),
        ({"prior.propose.top_p": 2.0}, "top_p is 2.0"),
        ({"prior.propose.no_match": "last"}, "no_match is 'last'"),
    ],
)
def test_a_configuration_that_cannot_propose_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        training.run(small_config(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
