"""Making environments by name, and what is said when there is no such name."""

import pytest
from gymnax.environments import environment
from lock_env import Lock

from llmprior_jax import envs
from llmprior_jax.envs import registry


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
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'"):
        envs.make(name)


def test_a_name_like_no_other_is_answered_with_all_names():
    with pytest.raises(ValueError, match=r"no environment 'Pong'\. The environments are Frozen"):
        envs.make("Pong")


def test_an_unknown_setting_is_answered_with_the_nearest():
    with pytest.raises(TypeError, match="Did you mean 'is_slippery'"):
        envs.make("FrozenLake-4x4", slippery=False)


def test_a_setting_where_there_are_none_is_refused():
    with pytest.raises(TypeError, match="no setting 'recipe'"):
        envs.make("Overcooked-TomatoSalad", recipe="soup")


def test_an_environment_of_ones_own_is_made_by_the_name_it_was_given(monkeypatch):
    monkeypatch.setattr(registry, "_ENVIRONMENTS", dict(registry._ENVIRONMENTS))
    envs.register("Lock", Lock)
    envs.register("Lock", Lock)  # A notebook's cell is run again.
    env, params = envs.make("Lock")
    assert isinstance(env, Lock)
    assert params == env.default_params
    with pytest.raises(ValueError, match="'Lock' already"):
        envs.register("Lock", lambda: Lock())
