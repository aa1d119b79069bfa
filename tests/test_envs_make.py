"""Making environments by name, and what is said when there is no such name."""

import gymnax
import pytest
from gymnax import registration
from gymnax.environments import environment
from lock_env import Lock

from llmprior_jax import envs
from llmprior_jax.envs import registry
from llmprior_jax.registry import Registry

EVERY = [*envs.NAMES, "ALFWorld"]


@pytest.mark.parametrize("name", envs.NAMES)
def test_environments_are_made_by_name(name):
    env, params = envs.make(name)
    assert env.name == name
    assert isinstance(env, envs.TextEnvironment)
    assert isinstance(env, environment.Environment)
    assert params == env.default_params


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("FrozenLake4x4", "FrozenLake-4x4"),
        ("frozenlake-8x8", "FrozenLake-8x8"),
        ("Overcooked-TomatoeSalad", "Overcooked-TomatoSalad"),
        ("overcooked-tomatolettuce", "Overcooked-TomatoLettuceSalad"),
        ("BabyAI-PutNextToLocal", "BabyAI-PutNextLocal"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"did you mean '{nearest}'"):
        envs.make(name)


def test_a_name_like_no_other_is_answered_with_all_names():
    with pytest.raises(ValueError, match=r"no environment 'Pong'; .* There are FrozenLake-4x4, "):
        envs.make("Pong")


def test_an_unknown_setting_is_answered_with_the_nearest():
    message = "no FrozenLake-4x4 setting 'slippery'; did you mean 'is_slippery'"
    with pytest.raises(TypeError, match=message):
        envs.make("FrozenLake-4x4", slippery=False)


def test_a_setting_where_there_are_none_is_refused():
    with pytest.raises(TypeError, match="has no settings; leave 'recipe' out"):
        envs.make("Overcooked-TomatoSalad", recipe="soup")


def test_a_factory_that_takes_any_setting_is_given_it(own_names):
    given = {}

    def factory(**settings):
        given.update(settings)
        return Lock()

    envs.register("Lock", factory)
    envs.make("Lock", wheels=3)
    assert given == {"wheels": 3}


@pytest.fixture
def own_names(monkeypatch):
    """What is registered in a test is gone after it."""
    names = Registry("environment", {name: registry._ENVIRONMENTS[name] for name in EVERY})
    monkeypatch.setattr(registry, "_ENVIRONMENTS", names)
    monkeypatch.setattr(registration, "_registry", dict(registration._registry))
    monkeypatch.setattr(gymnax, "registered_envs", known := list(gymnax.registered_envs))
    monkeypatch.setattr(registration, "registered_envs", known)


def test_an_environment_of_ones_own_is_made_by_the_name_it_was_given(own_names):
    envs.register("Lock", Lock)
    envs.register("Lock", Lock)  # A notebook's cell is run again.
    env, params = envs.make("Lock")
    assert isinstance(env, Lock)
    assert params == env.default_params
    with pytest.raises(ValueError, match="'Lock' is there already"):
        envs.register("Lock", lambda: Lock())


def test_an_environment_that_can_be_imported_needs_no_name():
    env, params = envs.make("lock_env:Lock")
    assert isinstance(env, Lock)
    assert params == env.default_params


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Lock", "there is no module 'nowhere'"),
        ("lock_env:Look", "lock_env has no 'Look'"),
    ],
)
def test_an_environment_that_cannot_be_imported_is_named(name, message):
    with pytest.raises(ValueError, match=f"environment '{name}'.*{message}"):
        envs.make(name)


def test_what_makes_nothing_is_refused():
    with pytest.raises(ValueError, match="'lock_env:LENGTH' is 8, which cannot be called"):
        envs.make("lock_env:LENGTH")


def test_what_makes_no_text_environment_is_refused():
    with pytest.raises(TypeError, match="makes CartPole, which is no Text"):
        envs.make("gymnax.environments.classic_control.cartpole:CartPole")


# ------------------------------------------------------------------------------------------ gymnax


@pytest.mark.parametrize("name", envs.NAMES)
def test_gymnax_makes_the_environments_by_their_names(name):
    ours, our_params = envs.make(name)
    theirs, their_params = gymnax.make(name)
    assert type(theirs) is type(ours)
    assert theirs.name == ours.name
    assert their_params == our_params


def test_gymnax_makes_alfworld_of_game_files(alfworld_data):
    games = sorted(map(str, alfworld_data.rglob("game.tw-pddl")))
    env, params = gymnax.make("ALFWorld", games=games)
    assert env.games == tuple(games)
    assert params.games.tolist() == [0, 1, 2]


def test_gymnax_has_every_environment_once():
    assert [name for name in gymnax.registered_envs if name in EVERY] == EVERY


def test_gymnax_makes_an_environment_of_ones_own(own_names):
    envs.register("Lock", Lock)
    envs.register("Lock", Lock)
    assert isinstance(gymnax.make("Lock")[0], Lock)
    assert gymnax.registered_envs.count("Lock") == 1


def test_a_name_that_gymnax_has_is_refused(own_names):
    with pytest.raises(ValueError, match="gymnax has an environment 'CartPole-v1' already"):
        envs.register("CartPole-v1", Lock)
    with pytest.raises(ValueError, match="no environment 'CartPole-v1'"):
        envs.make("CartPole-v1")
