"""Proposals: projection rule by rule, estimates by hand, samples against the model's own scores."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmprior_jax import models, posterior
from llmprior_jax.priors import (
    Prompt,
    Proposals,
    Sampling,
    estimate,
    generate,
    project,
    prompt_keys,
    propose,
    score,
)
from llmprior_jax.priors.sampling.proposals import Projection

KEY = jax.random.key(0)
KITCHEN = ("pick up the tomato", "pick up the lettuce", "go to the sink", "chop", "go to the plate")


@pytest.fixture(scope="module")
def lm():
    return models.load("tiny")


# Projection.


@pytest.mark.parametrize(
    ("answer", "action", "rule"),
    [
        ("go to the sink", 2, "exact"),
        (" Go to  the SINK!\n", 2, "exact"),
        ("\uff43hop", 3, "exact"),  # A wide c.
        ("I would go to the sink, then chop.", 2, "mention"),  # The longer of the two.
        ("First go to the sink or go to the plate", 4, "mention"),  # Four words each, more letters.
        ("Chop it", 3, "mention"),
        ("pick the tomato up", 0, "overlap"),
        ("the lettuce: pick", 1, "overlap"),
        ("go to the", -1, "no_match"),  # Sink and plate are as close.
        ("chopping", -1, "no_match"),  # No word of its own.
        ("dance with the fork on the table", -1, "no_match"),
        ("", -1, "no_match"),
        ("?!", -1, "no_match"),
    ],
)
def test_an_answer_means_an_action_by_the_first_rule_that_finds_one(answer, action, rule):
    assert project(answer, KITCHEN) == Projection(action, rule)


def test_of_equally_long_mentions_the_first_in_the_answer_counts():
    assert project("take cup then bin", ["bin", "cup"]) == (1, "mention")


def test_the_least_overlap_is_half():
    assert project("red ball", ["red box"]) == (0, "overlap")  # F1 = 2 * 1 / 4.
    assert project("red ball here", ["red box"]) == (-1, "no_match")  # 2 * 1 / 5.


def test_words_are_counted_as_often_as_they_come():
    # With each word counted once the two would tie.
    assert project("left left up", ["up left left", "down up left"]) == (0, "overlap")


def test_the_first_of_two_actions_with_the_same_words_stands_for_both():
    twins = ["Chop!", "chop", "wait here"]
    assert project("chop", twins) == (0, "exact")
    assert project("chop now", twins) == (0, "mention")
    assert project("here please wait", ["here, wait", "here wait"]) == (0, "overlap")


@given(st.lists(st.sampled_from(KITCHEN), min_size=1, max_size=5, unique=True), st.data())
def test_every_action_means_itself_however_it_is_written(actions, data):
    i = data.draw(st.integers(0, len(actions) - 1))
    change = data.draw(st.sampled_from([str.upper, str.title, "  {}.".format, '"{}"'.format]))
    assert project(change(actions[i]), actions) == (i, "exact")


@given(st.text(max_size=30), st.lists(st.text(max_size=20), max_size=4))
def test_any_text_projects_onto_an_action_or_none(answer, actions):
    action, rule = project(answer, actions)
    assert -1 <= action < len(actions)
    assert (action == -1) == (rule == "no_match")


# Estimates.


def said(**counts) -> Proposals:
    answers = tuple(answer.replace("_", " ") for answer in counts)
    return Proposals(answers, tuple(counts.values()), ((),) * len(counts), 0)


def test_the_estimate_is_the_share_of_each_action():
    proposals = said(chop=5, go_to_the_sink=2, Chop_it=1, dance=2)
    result = estimate(proposals, KITCHEN)
    np.testing.assert_array_equal(result.counts, [0, 0, 2, 6, 0])
    candidates = np.repeat(np.arange(5), result.counts)
    np.testing.assert_allclose(
        result.log_probs, posterior.empirical_log_probs(candidates, 5), rtol=1e-6
    )
    assert result.num_by_rule == {"exact": 7, "mention": 1, "overlap": 0, "no_match": 2}


def test_no_match_may_count_for_every_action():
    result = estimate(said(chop=6, dance=4), KITCHEN, no_match="uniform")
    np.testing.assert_allclose(np.exp(result.log_probs), [0.08, 0.08, 0.08, 0.68, 0.08], rtol=1e-6)


@pytest.mark.parametrize("no_match", ["drop", "uniform"])
def test_where_all_samples_match_the_estimate_is_their_frequencies(no_match):
    result = estimate(said(chop=3, wait=1), ["chop", "wait", "dance"], no_match)
    np.testing.assert_allclose(np.exp(result.log_probs), [0.75, 0.25, 0.0], rtol=1e-6)


def test_a_pseudo_count_keeps_all_actions_possible():
    result = estimate(said(chop=6, dance=4), KITCHEN, pseudo_count=0.8)
    np.testing.assert_allclose(np.exp(result.log_probs), [0.08, 0.08, 0.08, 0.68, 0.08], rtol=1e-6)


@pytest.mark.parametrize("no_match", ["drop", "uniform"])
def test_where_nothing_matches_the_estimate_is_uniform(no_match):
    result = estimate(said(dance=3), KITCHEN, no_match)
    np.testing.assert_allclose(np.exp(result.log_probs), 0.2, rtol=1e-6)
    assert result.counts.sum() == 0


def test_arguments_of_an_estimate_out_of_their_range_are_refused():
    with pytest.raises(ValueError, match="no_match is 'last'; there are 'drop' and 'uniform'"):
        estimate(said(chop=1), KITCHEN, "last")
    with pytest.raises(ValueError, match="pseudo_count is -1"):
        estimate(said(chop=1), KITCHEN, pseudo_count=-1)
    with pytest.raises(ValueError, match="no actions"):
        estimate(said(chop=1), [])


# Samples.

CHORE = Prompt(
    "Task: make a salad\nNow: You see a tomato.\nNext:", tuple(f" {action}" for action in KITCHEN)
)
THINK = Prompt("Task: make a salad\nNow: You see a tomato.\nSeen:", CHORE.actions, "\nNext:")
SHORT = Sampling(max_new_tokens=8)
K = 256


@pytest.fixture(scope="module")
def proposals(lm):
    return propose(lm, [CHORE], KEY, K, SHORT)[0]


def test_answers_come_as_often_as_the_model_says(lm, proposals):
    """The counts of the most frequent answers against their scored probabilities."""
    assert sum(proposals.counts) == K
    assert len(set(proposals.answers)) == len(proposals.answers)
    assert list(proposals.counts) == sorted(proposals.counts, reverse=True)
    assert "<|endoftext|>" not in "".join(proposals.answers)
    top = proposals.answers[:5]
    # An answer's probability is that of its text and of one of the two tokens that end it.
    ended = [f" {answer}{end}" for end in ("\n", "<|endoftext|>") for answer in top]
    prior = score(lm, [CHORE.text], [ended])
    relative = np.exp(np.asarray(prior.log_probs)[0]).reshape(2, 5).sum(0)
    shares = np.array(proposals.counts[:5])
    expected = shares.sum() * relative / relative.sum()
    assert shares.sum() > K / 4
    assert np.all(np.abs(shares - expected) < 4 * np.sqrt(expected) + 1)


def test_proposals_do_not_depend_on_the_other_prompts(lm, proposals):
    other = Prompt("Task: wash up\nNow: You see a sink.\nNext:", ())
    assert propose(lm, [other, CHORE], KEY, 8, SHORT)[1] == propose(lm, [CHORE], KEY, 8, SHORT)[0]
    assert propose(lm, [CHORE], jax.random.key(1), 8, SHORT) != propose(lm, [CHORE], KEY, 8, SHORT)


def test_samples_that_were_cut_are_counted(lm):
    (cut,) = propose(lm, [CHORE], KEY, 8, SHORT._replace(max_new_tokens=1))
    assert cut.num_unfinished == 8
    assert sum(cut.counts) == 8


@pytest.mark.long
def test_every_answer_follows_from_its_thought(lm):
    with_thoughts, without = propose(lm, [THINK, CHORE], KEY, 4, SHORT)
    assert [len(thoughts) for thoughts in with_thoughts.thoughts] == list(with_thoughts.counts)
    assert all(thoughts == () for thoughts in without.thoughts)
    assert without == propose(lm, [CHORE], KEY, 4, SHORT)[0]
    # The greedy model: what it thinks, and what it does after that.
    greedy = SHORT._replace(temperature=0.0)
    ((thought,),) = generate(lm, [THINK.text], prompt_keys(KEY, [THINK.text]), 1, greedy)
    acting = f"{THINK.text}{thought.text}\nNext:"
    ((answer,),) = generate(lm, [acting], prompt_keys(KEY, [acting]), 1, greedy)
    (both,) = propose(lm, [THINK], KEY, 4, greedy)
    assert both.answers == (answer.text.strip(),)
    assert both.thoughts == ((thought.text.strip(),) * 4,)


@pytest.mark.long
def test_samples_with_the_same_thought_are_not_the_same_answer(lm):
    # A thought of one token is often the same; what follows is drawn anew.
    prompt = THINK._replace(
        text="Task: make a salad\nNow: You see a tomato.\nNext: chop the tomato"
    )
    (result,) = propose(lm, [prompt], KEY, 16, SHORT._replace(temperature=0.7))
    leading = [thought for thoughts in result.thoughts for thought in thoughts]
    assert len(result.answers) > len(set(leading)) or len(set(leading)) == 1 < len(result.answers)
