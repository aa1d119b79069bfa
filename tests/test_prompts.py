"""The plain prompt: its exact wording, which a shipped model was trained beside."""

from llmprior_jax.priors import prompts
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
