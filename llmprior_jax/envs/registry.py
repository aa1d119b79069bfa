"""Environments by name: the library's own, those that a user registers, and import paths."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnax

from llmprior_jax.envs import frozen_lake
from llmprior_jax.envs.alfworld import ALFWorld
from llmprior_jax.envs.babyai import LEVELS, BabyAI
from llmprior_jax.envs.base import TextEnvironment
from llmprior_jax.envs.overcooked import TOMATO_LETTUCE_SALAD, TOMATO_SALAD, Overcooked
from llmprior_jax.registry import Registry, unknown

Factory = Callable[..., TextEnvironment]

_ENVIRONMENTS: Registry[Factory] = Registry(
    "environment",
    {
        "FrozenLake-4x4": functools.partial(frozen_lake.FrozenLake, "4x4"),
        "FrozenLake-8x8": functools.partial(frozen_lake.FrozenLake, "8x8"),
        "Overcooked-TomatoSalad": functools.partial(Overcooked, TOMATO_SALAD),
        "Overcooked-TomatoLettuceSalad": functools.partial(Overcooked, TOMATO_LETTUCE_SALAD),
        **{f"BabyAI-{level}": functools.partial(BabyAI, level) for level in LEVELS},
        "ALFWorld": ALFWorld,
    },
)

NAMES = tuple(name for name in _ENVIRONMENTS if name != "ALFWorld")
"""The environments that a name is enough for; ALFWorld takes its games from files."""

for _name in _ENVIRONMENTS:
    if _name not in gymnax.registered_envs:  # Where this module is loaded again, they are there.
        gymnax.register(_name, _ENVIRONMENTS[_name])


def register(name: str, factory: Factory) -> None:
    """Gives an environment of your own a name, for `make`, for runs and for gymnax.

    An environment that can be imported needs no name: `make` and settings also take an import path
    such as "my_module:Corridor". The same factory may be registered again.

    Examples:
      >>> class Corridor(envs.TextEnvironment):
      ...     ...
      >>> envs.register("Corridor", Corridor)
      >>> env, params = envs.make("Corridor")
      >>> env.name
      'Corridor'

    Args:
      name: the name, which no environment has yet, neither here nor in gymnax.
      factory: makes the environment, with its settings as keyword arguments; mostly its class.

    Raises:
      ValueError: another environment has that name, or it has a colon, as import paths have.
    """
    is_new = name not in _ENVIRONMENTS
    if is_new and name in gymnax.registered_envs:
        raise ValueError(f"gymnax has an environment {name!r} already; choose another name")
    _ENVIRONMENTS.register(name, factory)
    if is_new:
        gymnax.register(name, factory)


def make(name: str, **kwargs: Any) -> tuple[TextEnvironment, object]:
    """Makes an environment and its default parameters, as `gymnax.make` does.

    Once `llmprior_jax.envs` is imported, `gymnax.make` knows the same names.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4", is_slippery=False)
      >>> params = params.replace(max_steps_in_episode=20)
      >>> env.num_actions
      4

    Args:
      name: one of `NAMES`, "ALFWorld", a name given by `register`, or an import path such as
        "my_module:MyEnvironment".
      **kwargs: settings of the environment, e.g. `is_slippery=False` for the frozen lakes and
        `games=[path, ...]` for ALFWorld. Time limits and rewards are fields of the parameters:
        change them with `params.replace(...)`.

    Returns:
      The environment and its parameters.

    Raises:
      ValueError: there is no such environment, or it cannot be imported.
      TypeError: the environment has no such setting, or what was made is no `TextEnvironment`.
    """
    factory = _ENVIRONMENTS[name]
    _check_settings(name, factory, kwargs)
    env = factory(**kwargs)
    if not isinstance(env, TextEnvironment):
        raise TypeError(f"{name} makes {type(env).__name__}, which is no TextEnvironment")
    return env, env.default_params


def _check_settings(name: str, factory: Factory, settings: Mapping[str, object]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for setting in settings:
        if not parameters:
            raise TypeError(f"{name} has no settings; leave {setting!r} out")
        if setting not in parameters:
            raise TypeError(unknown(f"{name} setting", setting, parameters))
