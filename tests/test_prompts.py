"""Prompts: their exact wording; a shipped model was trained beside the plain one's."""

import pytest

from llmprior_jax.priors import prompts
from llmprior_jax.registry import Registry
from llmprior_jax.types import TextState


def test_a_state_without_history():
    state = TextState("make tea", "The kettle is full.", actions=("boil the water", "wait"))
    assert prompts.plain(state) == prompts.Prompt(
        text="Task: make tea\nNow: The kettle is full.\nNext:",
        actions=(" boil the water", " wait"),
    )


def test_history_comes_oldest_first_before_the_observation():
    history = (("The kettle is away.", "take the kettle"), ("The kettle is empty.", "fill it"))
    state = TextState("make tea", "The kettle is full.", history, ("boil the water",))
    assert prompts.plain(state).text == (
        "Task: make tea\n"
        "Seen: The kettle is away.\nDone: take the kettle\n"
        "Seen: The kettle is empty.\nDone: fill it\n"
        "Now: The kettle is full.\nNext:"
    )


KETTLE = TextState("make tea", "The kettle is full.", (("An empty kettle.", "fill it"),), ("boil",))


def test_examples_come_first_in_the_words_of_the_question():
    examples = [
        prompts.Example("make coffee", (("The cup is empty.", "take the pot"), ("A pot.", "pour"))),
        prompts.Example("wait", (("Nothing.", "wait"),)),
    ]
    prompt = prompts.few_shot(KETTLE, examples)
    assert prompt.text == (
        "Task: make coffee\nNow: The cup is empty.\nNext: take the pot\nNow: A pot.\nNext: pour\n\n"
        "Task: wait\nNow: Nothing.\nNext: wait\n\n" + prompts.plain(KETTLE).text
    )
    assert prompt.actions == (" boil",)
    assert prompts.make("few_shot", examples)(KETTLE) == prompt


def test_a_thought_stands_between_the_state_and_the_action():
    prompt = prompts.think_first(KETTLE)
    assert prompt.text.endswith("\nNow: The kettle is full.\nThought:")
    acting = prompt.with_thought("It is cold.")
    assert acting.text == prompt.text + " It is cold.\nNext:"
    assert acting.actions == (" boil",)
    assert acting.after_thought is None
    assert prompt.with_thought("").text == prompt.text + "\nNext:"


def test_a_builder_of_ones_own_is_known_by_its_name(monkeypatch):
    builders = {name: prompts._BUILDERS[name] for name in prompts._BUILDERS}
    monkeypatch.setattr(prompts, "_BUILDERS", Registry("prompt", builders))

    def terse(state):
        return prompts.Prompt(state.observation, state.actions)

    prompts.register("terse", terse)
    prompts.register("terse", terse)  # A module that is imported twice does no harm.
    assert prompts.make("terse")(KETTLE) == prompts.Prompt("The kettle is full.", ("boil",))
    for taken in ("plain", "few_shot"):
        with pytest.raises(ValueError, match=f"the prompt '{taken}' is there already"):
            prompts.register(taken, terse)


def test_names_and_examples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no prompt 'plane'; did you mean 'plain'"):
        prompts.make("plane")
    with pytest.raises(ValueError, match="'few_shot' has no examples"):
        prompts.make("few_shot")
    with pytest.raises(ValueError, match="'think_first' takes no examples"):
        prompts.make("think_first", [prompts.Example("wait", ())])


_HISTORY = (("One.", "go on"), ("Two.", "go on"), ("Three.", "go on"))
_STATE = TextState("walk", "Four.", _HISTORY, ("stop", "go on and on"))


def _has_room(context: int):
    return lambda prompt: prompts.room_for(prompt, context, lambda text: len(text.split()))


def test_a_prompt_that_fits_keeps_its_history():
    prompt = prompts.fit(_STATE, prompts.plain, _has_room(1000))
    assert prompt == prompts.plain(_STATE)
    assert prompt.uncut is None


def test_a_long_prompt_loses_its_oldest_history_first_and_no_more_than_it_must():
    whole = prompts.plain(_STATE).text
    first, second = (prompts.plain(_STATE._replace(history=_HISTORY[n:])) for n in (1, 2))
    longest = len(first.text.split()) + len(["go", "on", "and", "on"])
    fitted = prompts.fit(_STATE, prompts.plain, _has_room(longest))
    assert fitted == first._replace(uncut=whole)
    fitted = prompts.fit(_STATE, prompts.plain, _has_room(longest - 1))
    assert fitted == second._replace(uncut=whole)


def test_a_state_too_long_without_history_is_left_for_scoring_to_refuse():
    prompt = prompts.fit(_STATE, prompts.plain, _has_room(1))
    assert prompt.text == prompts.plain(_STATE._replace(history=())).text


def test_a_fitting_builder_builds_what_fits():
    build = prompts.fitting(prompts.plain, _has_room(22))
    assert build(_STATE) == prompts.fit(_STATE, prompts.plain, _has_room(22))
    assert len(build(_STATE).text.split()) + 4 <= 22


def test_a_builder_is_named_by_its_import_path():
    assert prompts.make("llmprior_jax.priors.prompts:think_first") is prompts.think_first
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        prompts.make("nowhere:builder")
