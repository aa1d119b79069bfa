"""Candidates: what the engine lists, what is proposed, and what has worked."""

import json

import pytest
from small_lm import small_lm

from llmprior_jax.envs.engines import GameError
from llmprior_jax.play.candidates import (
    Admissible,
    Tried,
    Widened,
    from_language_model,
    from_vocabulary,
)
from llmprior_jax.priors import Sampling
from llmprior_jax.types import TextState

HALL = TextState("leave", "You are in the hall.")
YARD = TextState("leave", "You are in the yard.")


def numbered(states, seed, number):
    """Two new texts at a time, which tell for whom and when they were proposed."""
    return [
        (f"{state.observation[15:19]} {seed} {number} a", f"{state.observation[15:19]} b")
        for state in states
    ]


def test_what_the_engine_lists_is_offered_in_an_order_of_its_own():
    state = HALL._replace(actions=("wait", "go", "wait"))
    assert Admissible().offer([0], [state]) == [("go", "wait")]
    with pytest.raises(GameError, match=r"no admissible commands.*freeform\.k"):
        Admissible().offer([0], [HALL])


def test_proposals_are_asked_for_once_and_for_each_seed():
    asked = []

    def propose(states, seed, number):
        asked.append((len(states), seed, number))
        return numbered(states, seed, number)

    widened = Widened(propose, room=4)
    assert widened.offer([0, 0, 1, 0], [HALL, YARD, HALL, HALL]) == [
        ("hall 0 0 a", "hall b"),
        ("yard 0 0 a", "yard b"),
        ("hall 1 0 a", "hall b"),
        ("hall 0 0 a", "hall b"),
    ]
    # A state is the same whatever the engine lists with it.
    widened.offer([0], [HALL._replace(actions=("look",))])
    assert asked == [(2, 0, 0), (1, 1, 0)]


def test_more_is_proposed_where_more_is_tried():
    widened = Widened(numbered, room=100)
    numbers = []
    for _ in range(30):
        (offered,) = widened.offer([0], [HALL])
        numbers.append(len(offered) - 1)  # one text is the same each time
        widened.learn(0, [Tried(HALL, "hall b", 0.0)])
    # After n visits the model has been asked about sqrt(n) times.
    assert numbers == [1 + int(n**0.5) for n in range(30)]


def test_what_worked_stays_and_of_the_rest_the_newest():
    widened = Widened(numbered, room=3)
    widened.offer([0], [HALL])
    widened.learn(0, [Tried(HALL, "hall 0 0 a", 1.0), Tried(HALL, "hall b", 0.0)])
    for _ in range(40):
        (offered,) = widened.offer([0], [HALL])
        widened.learn(0, [Tried(HALL, offered[-1], 0.0)])
    assert len(offered) == 3
    assert "hall 0 0 a" in offered
    assert "hall 0 6 a" in offered


def test_a_worse_end_does_not_make_an_action_forgotten():
    widened = Widened(numbered, room=1)
    widened.offer([0], [HALL])
    for gained in (1.0, 0.0):
        widened.learn(0, [Tried(HALL, "hall b", gained)])
    assert widened.offer([0], [HALL]) == [("hall b",)]


def test_what_was_learned_goes_through_json():
    widened, other = Widened(numbered, room=3), Widened(numbered, room=3)
    widened.offer([0, 1], [HALL, YARD])
    widened.learn(1, [Tried(YARD, "yard b", 2.0)])
    other.from_json(json.loads(json.dumps(widened.to_json())))
    for _ in range(5):
        assert other.offer([0, 1], [HALL, YARD]) == widened.offer([0, 1], [HALL, YARD])
        for candidates in (widened, other):
            candidates.learn(1, [Tried(YARD, "yard b", 2.0)])


def test_a_proposer_that_says_nothing_is_an_error():
    with pytest.raises(GameError, match="nothing but empty texts"):
        Widened(lambda states, seed, number: [("", "")], room=3).offer([0], [HALL])


def test_the_vocabulary_is_verbs_and_what_is_seen():
    propose = from_vocabulary(["look", "open"], k=200, seed=0)
    commands, again, others = propose([HALL], 0, 0)[0], propose([YARD, HALL], 0, 0)[1], None
    assert commands == again, "chance depends on the state, not on its company"
    others = propose([HALL], 0, 1)[0]
    assert commands != others
    words = {word for command in commands for word in command.split()}
    assert words == {"look", "open", "you", "are", "in", "the", "hall", "from", "on", "with"}


def test_a_history_too_long_for_the_model_is_cut_before_it_proposes():
    lm = small_lm([HALL.observation, HALL.task, "Seen Done Next go out"])
    context = lm.config.max_position_embeddings
    history = (("You are in the hall.", "go out"),) * context
    sampling = Sampling(max_new_tokens=4, stop=("\n",))
    propose = from_language_model(lambda: lm, 2, sampling, seed=0)
    (answers,) = propose([HALL._replace(history=history)], 0, 0)
    assert len(answers) == 2
