"""Examples that environments bring: episodes as they really go, of other tasks."""

import jax
import numpy as np
import pytest

from llmprior_jax import envs
from llmprior_jax.envs import examples, with_history
from llmprior_jax.envs.engines.games import engine_of

SALADS = ("Overcooked-TomatoSalad", "Overcooked-TomatoLettuceSalad")


@pytest.mark.parametrize("name", SALADS)
def test_kitchens_show_how_another_dish_is_served(name):
    env, _ = envs.make(name)
    (shown,) = env.examples()
    observation, _ = env.reset(jax.random.key(0), env.default_params)
    assert shown.task != env.text_state(observation).task


@pytest.mark.parametrize("index", [0, 1], ids=SALADS)
def test_the_examples_of_kitchens_are_episodes_that_end_well(index):
    shown = examples.read("overcooked")[index]
    env, params = envs.make(SALADS[index])
    observation, state = env.reset(jax.random.key(0), params)
    success = False
    for observed, action in shown.steps:
        text = env.text_state(np.asarray(observation))
        assert (text.task, text.observation) == (shown.task, observed)
        chosen = text.actions.index(action)
        observation, state, _, terminated, _, info = env.step(
            jax.random.key(0), state, chosen, params
        )
        success = bool(info["success"] & terminated)
    assert success


def test_the_example_of_lakes_says_what_lakes_say():
    (shown,) = examples.read("frozen_lake")
    env, _ = envs.make("FrozenLake-8x8")
    texts = [env.text_state(position) for position in env.list_observations()]
    assert shown.task == texts[0].task
    words = {word for text in texts for word in text.observation.split()}
    assert {word for seen, _ in shown.steps for word in seen.split()} <= words
    assert {action for _, action in shown.steps} <= set(texts[0].actions)


def test_a_history_leaves_examples_as_they_are():
    env, _ = envs.make("FrozenLake-4x4")
    assert with_history(env, 2).examples() == env.examples()


PICK = "data/train/pick_and_place_simple-Mug-None-Desk-308/trial_1/game.tw-pddl"
EXAMINE = "data/train/look_at_obj_in_light-Bowl-None-DeskLamp-308/trial_1/game.tw-pddl"


@pytest.mark.parametrize(
    ("games", "task"),
    [
        ([PICK], "examine the keychain with the desklamp"),
        ([EXAMINE], "put some lettuce on fridge"),
        ([PICK, EXAMINE], "put some lettuce on fridge"),
        (["elsewhere/game.tw-pddl"], "put some lettuce on fridge"),
    ],
)
def test_alfworld_shows_a_kind_of_task_that_is_not_played(games, task):
    for shown in (examples.for_alfworld(games), examples.for_engines(games)):
        assert [example.task for example in shown] == [f"Your task is to: {task}."]


@pytest.mark.parametrize(
    ("games", "engine", "tasks"),
    [
        (["salad.z8"], "textworld", ["find a coin"]),
        (["textworld:salad.z8"], "textworld", ["find a coin"]),
        (["gymnasium:my_module:Corridor-v0"], "gymnasium", []),
        (["engine:my_module:Chess:"], "engine", []),
    ],
)
def test_engines_show_an_episode_of_their_own_kind(games, engine, tasks):
    assert engine_of(games[0]) == engine
    assert [example.task for example in examples.for_engines(games)] == tasks
