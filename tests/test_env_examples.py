"""Examples that environments bring: episodes as they really go, of other tasks."""

import types

import jax
import numpy as np
import pytest
from gymnax.environments.misc import frozen_lake

from llmprior_jax import envs
from llmprior_jax.envs import examples, with_history
from llmprior_jax.envs.engines.games import engine_of
from llmprior_jax.envs.overcooked.environment import Overcooked, Recipe
from llmprior_jax.play import engine_games

SALADS = ("Overcooked-TomatoSalad", "Overcooked-TomatoLettuceSalad")
LAKES = ("FrozenLake-4x4", "FrozenLake-8x8")


@pytest.mark.parametrize("name", SALADS + LAKES)
def test_no_step_that_is_shown_is_one_of_the_game_that_is_played(name):
    env, _ = envs.make(name)
    observations = env.list_observations()
    assert observations is not None
    texts = [env.text_state(observation) for observation in observations]
    (shown,) = env.examples()
    played = {(text.observation, action) for text in texts for action in text.actions}
    assert played.isdisjoint(shown.steps)


@pytest.mark.parametrize("family", ["overcooked", "frozen_lake", "textworld", "alfworld", "babyai"])
def test_each_step_that_is_shown_lists_several_actions(family):
    for shown in examples.read(family):
        assert len(shown.options) == len(shown.steps)
        assert all(len(listed) > 1 for listed in shown.options)


@pytest.mark.parametrize("name", SALADS)
def test_kitchens_show_how_another_dish_is_served(name):
    env, _ = envs.make(name)
    (shown,) = env.examples()
    observation, _ = env.reset(jax.random.key(0), env.default_params)
    assert shown.task != env.text_state(observation).task


def lake_of_the_example():
    env = envs.make(LAKES[0])[0]
    # Another map, which no lake that has a name has.
    frozen_lake.FrozenLake.__init__(env, ("FHG", "FFF", "SFH"), is_slippery=False)
    env._tiles = np.asarray(env.desc)
    return env


def kitchen(name, ingredients, foods, num_boards):
    return lambda: Overcooked(Recipe(name, ingredients, foods, num_boards))


@pytest.mark.parametrize(
    ("family", "index", "make"),
    [
        ("frozen_lake", 0, lake_of_the_example),
        ("overcooked", 0, kitchen("Leek", ("leek",), ("leek",), 1)),
        (
            "overcooked",
            1,
            kitchen("LettuceOnion", ("lettuce", "onion"), ("tomato", "lettuce", "onion"), 2),
        ),
    ],
    ids=["lake", "one ingredient", "two ingredients"],
)
def test_examples_are_episodes_that_end_well(family, index, make):
    shown, env = examples.read(family)[index], make()
    params = env.default_params
    observation, state = env.reset(jax.random.key(0), params)
    success = False
    for (observed, action), listed in zip(shown.steps, shown.options, strict=True):
        text = env.text_state(np.asarray(observation))
        assert (text.task, text.observation, text.actions) == (shown.task, observed, listed)
        chosen = text.actions.index(action)
        observation, state, _, terminated, _, info = env.step(
            jax.random.key(0), state, chosen, params
        )
        success = bool(info["success"] & terminated)
    assert success


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
        (["elsewhere/game.tw-pddl"], "put some lettuce on fridge"),
    ],
)
def test_alfworld_shows_a_kind_of_task_that_is_not_played(games, task):
    for shown in (examples.for_alfworld(games), examples.for_engines(games)):
        assert [example.task for example in shown] == [f"Your task is to: {task}."]


def test_alfworld_shows_nothing_where_both_kinds_of_examples_are_played():
    assert examples.for_alfworld([PICK, EXAMINE]) == ()


def test_games_to_evaluate_on_count_as_played_on_engines(monkeypatch):
    monkeypatch.setattr(engine_games, "check_game", lambda game: None)
    bridge = types.SimpleNamespace(num_environments=1)
    for unseen, number in (((), 1), ((EXAMINE,), 0)):
        assert len(engine_games.EngineGames(bridge, (PICK,), unseen).examples()) == number


def test_examples_for_engines_list_commands_in_the_order_of_play():
    (shown,) = examples.for_engines([PICK])
    assert all(listed == tuple(sorted(listed)) for listed in shown.options)


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
