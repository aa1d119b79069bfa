"""Prompts: their exact wording; a shipped model was trained beside the plain one's."""

import sys

import hypothesis
import pytest
from hypothesis import strategies

from llmprior_jax import models
from llmprior_jax.priors import prompts, tokens
from llmprior_jax.priors.prompts import Example, Prompt, naming
from llmprior_jax.registry import Registry
from llmprior_jax.types import TextState

ACTIONS = ("boil the water", "wait")
KETTLE = TextState("make tea", "The kettle is full.", (("An empty kettle.", "fill it"),), ACTIONS)
COFFEE = Example("make coffee", (("The cup is empty.", "take the pot"), ("A pot.", "pour")))
WAIT = Example("wait", (("Nothing.", "wait"),), (("wait", "sleep"),))

# A small template that knows all roles, and one that refuses what a system says.
TURNS = (
    "{% for each in messages %}<|{{ each.role }}|>{{ each.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
)


def tokenizer(template=None):
    made = models.load_tokenizer("tiny")
    made.chat_template = template
    return made


def make(name, examples=(), template=TURNS, **kwargs):
    return prompts.make(name, examples, lambda: tokenizer(template), **kwargs)


# Bodies.


def test_plain_without_history():
    state = TextState("make tea", "The kettle is full.", actions=ACTIONS)
    assert prompts.plain(state) == Prompt(
        text="Task: make tea\nNow: The kettle is full.\nNext:",
        actions=(" boil the water", " wait"),
        cue="Next:",
    )


def test_plain_has_the_oldest_history_first_before_the_observation():
    history = (("The kettle is away.", "take the kettle"), ("The kettle is empty.", "fill it"))
    assert prompts.plain(KETTLE._replace(history=history)).text == (
        "Task: make tea\n"
        "Seen: The kettle is away.\nDone: take the kettle\n"
        "Seen: The kettle is empty.\nDone: fill it\n"
        "Now: The kettle is full.\nNext:"
    )


def test_options_lists_the_actions_in_their_order():
    assert prompts.options(KETTLE).text == (
        "Task: make tea\n"
        "Seen: An empty kettle.\nDone: fill it\n"
        "Now: The kettle is full.\n"
        "You can do one of these: boil the water; wait\n"
        "Next:"
    )
    assert prompts.options(KETTLE).actions == (" boil the water", " wait")


def test_options_of_a_state_without_actions_is_plain():
    bare = KETTLE._replace(actions=())
    assert prompts.options(bare) == prompts.plain(bare)


def test_a_story_has_no_labels():
    assert prompts.story(KETTLE).text == (
        "You have a task. make tea.\n\n"
        "An empty kettle. You decide to fill it\n"
        "The kettle is full. You decide to"
    )
    assert prompts.story(KETTLE).actions == (" boil the water", " wait")


@pytest.mark.parametrize(
    ("observation", "told"),
    [("It rains", "It rains. You"), ("It rains! \n", "It rains! You"), ("", "\n\nYou")],
)
def test_a_story_puts_a_stop_where_a_sentence_has_no_end(observation, told):
    text = prompts.story(TextState("Wait.", observation)).text
    assert text.endswith(f"{told} decide to")
    assert text.startswith("You have a task. Wait.\n\n")


# What goes around them.


def test_examples_come_first_in_the_words_of_plain():
    prompt = make("few_shot", [COFFEE, WAIT])(KETTLE)
    assert prompt.text == (
        "Task: make coffee\nNow: The cup is empty.\nNext: take the pot\nNow: A pot.\nNext: pour\n\n"
        "Task: wait\nNow: Nothing.\nNext: wait\n\n" + prompts.plain(KETTLE).text
    )
    assert prompt.actions == (" boil the water", " wait")


def test_examples_have_their_options_where_those_are_known():
    assert make("options+few_shot", [COFFEE, WAIT])(KETTLE).text == (
        "Task: make coffee\nNow: The cup is empty.\nNext: take the pot\nNow: A pot.\nNext: pour\n\n"
        "Task: wait\nNow: Nothing.\nYou can do one of these: wait; sleep\nNext: wait\n\n"
        + prompts.options(KETTLE).text
    )


def test_examples_of_a_story_tell_their_task_once():
    assert make("story+few_shot", [COFFEE])(KETTLE).text == (
        "You have a task. make coffee.\n\n"
        "The cup is empty. You decide to take the pot\n"
        "A pot. You decide to pour\n\n" + prompts.story(KETTLE).text
    )


def test_a_step_like_the_one_before_it_is_shown_whole():
    step = "Rain.\nA cloud.", "wait"
    again = Example("wait\nand see", (step, step))
    assert prompts.few_shot(prompts.plain, [again])(KETTLE).text == (
        "Task: wait\nand see\n"
        "Now: Rain.\nA cloud.\nNext: wait\nNow: Rain.\nA cloud.\nNext: wait\n\n"
        + prompts.plain(KETTLE).text
    )


def test_lines_that_a_body_begins_with_are_shown_once_an_episode():
    def own(state):
        choice = "/".join(state.actions)
        return Prompt(f"# Help!\n{choice}\n{state.observation}\n>", state.actions)

    steps = (("A.", "x"), ("B.", "y"), ("C.", "y"))
    example = Example("", steps, (("x", "y"), ("x", "y"), ("y", "z")))
    state = TextState("", "D.", (), ("y",))
    assert prompts.few_shot(own, [example])(state).text == (
        "# Help!\nx/y\nA.\n>x\nB.\n>y\ny/z\nC.\n>y\n\n# Help!\ny\nD.\n>"
    )


def test_a_thought_stands_between_the_state_and_the_action():
    prompt = make("think_first")(KETTLE)
    assert prompt.text.endswith("\nNow: The kettle is full.\nThought:")
    acting = prompt.with_thought("It is cold.")
    assert acting.text == prompt.text + " It is cold.\nNext:"
    assert acting.actions == (" boil the water", " wait")
    assert acting.after_thought is None
    assert prompt.with_thought("").text == prompt.text + "\nNext:"


def test_a_story_is_interrupted_by_a_thought():
    prompt = make("story+think_first")(KETTLE)
    assert prompt.with_thought("Tea is hot.").text.endswith(
        "\nThe kettle is full.\nThought: Tea is hot.\nYou decide to"
    )


def test_a_body_that_does_not_say_what_asks_for_the_action_is_thought_about_after_it():
    body = lambda state: Prompt(f"{state.observation} Do:", state.actions)  # noqa: E731
    prompt = prompts.think_first(body)(KETTLE)
    assert prompt.with_thought("Hot.").text == "The kettle is full. Do:\nThought: Hot.\nNext:"
    assert prompt.actions == (" boil the water", " wait")


SAID = prompts.plain(KETTLE).text.removesuffix("\nNext:")


def test_chat_is_a_turn_of_the_user_and_the_answer_begins_with_the_cue():
    prompt = make("options+chat", system="Be brief.")(KETTLE)
    said = prompts.options(KETTLE).text.removesuffix("\nNext:")
    assert prompt.text == f"<|system|>Be brief.</s><|user|>{said}</s><|assistant|>Next:"
    assert prompt.actions == (" boil the water", " wait")
    assert prompt.after_thought is None


def test_in_a_chat_a_story_is_gone_on_with_in_the_answer():
    prompt = make("story+chat", system="")(KETTLE._replace(history=()))
    assert prompt.text == (
        "<|user|>You have a task. make tea.\n\nThe kettle is full.</s><|assistant|>You decide to"
    )


def test_in_a_chat_a_body_without_a_cue_is_answered_by_the_action_alone():
    body = lambda state: Prompt(f"{state.observation} Do:", (" boil", "wait"))  # noqa: E731
    prompt = prompts.chat(body, lambda: tokenizer(TURNS), system="")(KETTLE)
    assert prompt.text == "<|user|>The kettle is full. Do:</s><|assistant|>"
    assert prompt.actions == ("boil", "wait")


def test_chat_without_a_system_text_has_no_system():
    assert make("chat", system="")(KETTLE).text == f"<|user|>{SAID}</s><|assistant|>Next:"


@pytest.mark.parametrize(
    "template",
    [NO_SYSTEM, TURNS.replace("messages %}", "messages if each.role == 'user' %}")],
    ids=["refuses", "drops"],
)
def test_where_a_template_has_no_system_the_user_says_it(template):
    prompt = make("chat", template=template, system="Be brief.")(KETTLE)
    assert prompt.text == f"<|user|>Be brief.\n\n{SAID}</s><|assistant|>Next:"


def test_in_a_chat_the_model_thinks_and_acts_in_its_own_turn():
    prompt = make("few_shot+think_first+chat", [WAIT], system="")(KETTLE)
    said = make("few_shot", [WAIT])(KETTLE).text.removesuffix("\nNext:")
    assert prompt.text == f"<|user|>{said}</s><|assistant|>Thought:"
    assert prompt.with_thought("Tea is hot.").text == f"{prompt.text} Tea is hot.\nNext:"
    assert prompt.actions == (" boil the water", " wait")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "needs a language model with a chat template, and this one's tokenizer has none"),
        ("{{ raise_exception('not today') }}", "template fails .*not today"),
        ("{% for", "template fails .*TemplateSyntaxError"),
        ("hello", "template fails .it leaves out what is said to it"),
        ("{{ messages.__class__.__mro__ }}", "template fails"),
    ],
)
def test_a_template_that_is_not_there_or_fails_is_named(template, message):
    with pytest.raises(ValueError, match=message):
        make("chat", template=template)(KETTLE)


def test_smollm2_is_asked_in_its_own_format(smollm2_path):
    read = models.load_tokenizer(smollm2_path)
    build = prompts.make("options+chat", (), lambda: read, system="Be brief.")
    assert build(KETTLE._replace(history=())).text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n"
        "Task: make tea\nNow: The kettle is full.\n"
        "You can do one of these: boil the water; wait<|im_end|>\n"
        "<|im_start|>assistant\nNext:"
    )


def test_a_template_gets_the_same_date_every_day():
    template = "{{ strftime_now('%d %b %Y') }} " + TURNS
    assert make("chat", template=template, system="")(KETTLE).text.startswith(
        "26 Jul 2024 <|user|>"
    )


# Names.


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("plain", ("plain",)),
        ("few_shot", ("plain", "few_shot")),
        ("few_shot+chat", ("plain", "few_shot", "chat")),
        ("options+few_shot+think_first+chat", ("options", "few_shot", "think_first", "chat")),
        ("my_module:builder+few_shot", ("my_module:builder", "few_shot")),
    ],
)
def test_a_name_is_a_body_and_what_is_around_it(name, whole):
    assert prompts.words(name) == whole


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plane", "no prompt 'plane'; did you mean 'plain'"),
        ("options+fewshot", "no prompt 'fewshot'; did you mean 'few_shot'"),
        ("terse", "One of your own is named by its import path, my_module:name"),
        ("plain+", "no prompt ''"),
        ("plain+story", "'plain.story' has 2 bodies, plain and story"),
        ("a:b+a:c", "has 2 bodies"),
        ("plain+chat+chat", "has 'chat' twice"),
        ("chat+few_shot", "another order .* say 'few_shot.chat'"),
        ("think_first+few_shot", "another order .* say 'few_shot.think_first'"),
        ("few_shot+options", "another order .* say 'options.few_shot'"),
    ],
)
def test_a_name_that_is_no_prompt_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        prompts.make(name, [WAIT])


def test_examples_and_tokenizers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="'few_shot' has no examples"):
        prompts.make("few_shot")
    with pytest.raises(ValueError, match="'think_first' takes no examples"):
        prompts.make("think_first", [WAIT])
    with pytest.raises(ValueError, match="'chat' needs the model's tokenizer"):
        prompts.make("chat")


# Builders of one's own.


def test_a_builder_of_ones_own_is_known_by_its_name(monkeypatch):
    monkeypatch.setattr(naming, "_BODIES", Registry("prompt", {"plain": prompts.plain}))

    def terse(state):
        return Prompt(state.observation, state.actions)

    prompts.register("terse", terse)
    prompts.register("terse", terse)  # A module that is imported twice does no harm.
    assert prompts.make("terse")(KETTLE) == Prompt("The kettle is full.", ACTIONS)
    assert prompts.make("terse+few_shot", [WAIT])(KETTLE).text == (
        "Nothing.wait\n\nThe kettle is full."
    )
    for taken in ("plain", "few_shot"):
        with pytest.raises(ValueError, match=f"the prompt '{taken}' is there already"):
            prompts.register(taken, terse)
    with pytest.raises(ValueError, match="a plus joins names"):
        prompts.register("terse+", terse)


def test_a_builder_is_named_by_its_import_path():
    build = prompts.make("llmprior_jax.priors.prompts:story")
    assert build(KETTLE) == prompts.story(KETTLE)
    with pytest.raises(ValueError, match="no module 'nowhere'"):
        prompts.make("nowhere:builder")
    with pytest.raises(ValueError, match="cannot be called"):
        prompts.make("llmprior_jax.priors.prompts:FEW_SHOT")


@pytest.fixture
def own(monkeypatch):
    """A module to name builders in."""

    class Module:
        def with_tokenizer(self, state, tokenizer):
            return Prompt(str(tokenizer.vocab_size), state.actions)

        def with_option(self, state, mark="!"):
            return Prompt(state.observation + mark, state.actions)

        def with_three(self, state, tokenizer, more):
            raise AssertionError

        def a_text(self, state):
            return state.observation

        def one_short(self, state):
            return Prompt("", state.actions[1:])

    monkeypatch.setitem(sys.modules, "own_prompts", Module())


def test_a_builder_may_take_the_tokenizer_which_is_loaded_when_it_is_needed(own):
    loaded = []

    def load():
        loaded.append(tokenizer())
        return loaded[-1]

    build = prompts.make("own_prompts:with_tokenizer", tokenizer=load)
    assert not loaded
    assert build(KETTLE).text == str(tokenizer().vocab_size)
    assert loaded
    with pytest.raises(ValueError, match="takes the model's tokenizer; give it one"):
        prompts.make("own_prompts:with_tokenizer")


def test_a_second_argument_that_has_a_default_is_not_the_tokenizer(own):
    assert make("own_prompts:with_option")(KETTLE).text == "The kettle is full.!"


def test_builders_that_build_no_prompt_are_refused(own):
    with pytest.raises(ValueError, match="takes 3 arguments"):
        make("own_prompts:with_three")
    with pytest.raises(TypeError, match=r"made 'The kettle is full\.'; a builder returns"):
        make("own_prompts:a_text")(KETTLE)
    with pytest.raises(ValueError, match="1 actions for the 2 of a state"):
        make("own_prompts:one_short")(KETTLE)


# Text that looks like markup.


def test_every_text_of_a_state_and_of_examples_is_read_as_text(monkeypatch):
    monkeypatch.setattr(naming, "literal", lambda tokenizer, text: text.replace("|", "!"))
    state = TextState("|a", "|b", (("|c", "|d"),), ("|e", "|f"))
    shown = Example("|g", (("|h", "|i"),), (("|i", "|j"),))
    prompt = make("options+few_shot+chat", [shown], system="")(state)
    assert prompt.text == (
        "<|user|>Task: !g\nNow: !h\nYou can do one of these: !i; !j\nNext: !i\n\n"
        "Task: !a\nSeen: !c\nDone: !d\nNow: !b\nYou can do one of these: !e; !f"
        "</s><|assistant|>Next:"
    )
    assert prompt.actions == (" !e", " !f")


def test_what_looks_like_a_special_token_is_none_and_the_markup_of_a_chat_is():
    end = tokenizer().eos_token
    state = TextState(f"stop {end}", f"A sign: {end}", ((end, end),), (f"say {end}", "wait"))
    shown = Example(end, ((end, end),), ((end, "wait"),))
    template = TURNS.replace("</s>", end)
    build = make("options+few_shot+chat", [shown], template=template, system=f"Be {end}")
    prompt = build(state)
    texts = [prompt.text, *(prompt.text + action for action in prompt.actions)]
    for ids in tokens.encode(tokenizer(), texts):
        assert ids.count(tokenizer().eos_token_id) == 2, "the ends of two turns"
    assert tokens.visible(prompt.text).count(end) == 2 + 1 + 4 + 5


# What holds of all.

TEXT = strategies.text(max_size=8)
STATES = strategies.builds(
    TextState,
    TEXT,
    TEXT,
    strategies.lists(strategies.tuples(TEXT, TEXT), max_size=2).map(tuple),
    strategies.lists(TEXT, max_size=3).map(tuple),
)
BODIES = ("plain", "options", "story")
AROUND = ("", "+few_shot", "+think_first", "+chat", "+few_shot+think_first+chat")


@pytest.mark.parametrize("name", [body + around for body in BODIES for around in AROUND])
@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(state=STATES)
def test_actions_come_one_for_one_and_in_order_and_the_text_ends_without_a_space(name, state):
    own = tokenizer(TURNS)
    build = prompts.make(name, [WAIT] if "few_shot" in name else [], lambda: own)
    prompt = build(state)
    assert prompt.actions == tuple(f" {action}" for action in state.actions)
    for text in (prompt.text, prompt.after_thought or prompt.text):
        assert not text[-1:].isspace()
    assert prompt.text.endswith(prompt.cue)


# Room.

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
