"""The environments by name."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from llmprior_jax.envs import frozen_lake
from llmprior_jax.envs.alfworld import ALFWorld
from llmprior_jax.envs.base import TextEnvironment
from llmprior_jax.envs.overcooked import TOMATO_LETTUCE_SALAD, TOMATO_SALAD, Overcooked

_ENVIRONMENTS: dict[str, Callable[..., TextEnvironment]] = {
    "FrozenLake-4x4": functools.partial(frozen_lake.FrozenLake, "4x4"),
    "FrozenLake-8x8": functools.partial(frozen_lake.FrozenLake, "8x8"),
    "Overcooked-TomatoSalad": functools.partial(Overcooked, TOMATO_SALAD),
    "Overcooked-TomatoLettuceSalad": functools.partial(Overcooked, TOMATO_LETTUCE_SALAD),
    "ALFWorld": ALFWorld,
}

NAMES = tuple(name for name in _ENVIRONMENTS if name != "ALFWorld")
"""The environments that a name is enough for; ALFWorld takes its games from files."""


def register(name: str, factory: Callable[..., TextEnvironment]) -> None:
    """Gives an environment of your own a name, for `make` and for the configurations of runs.

    Examples:
      >>> class Corridor(envs.TextEnvironment):
      ...     ...
      >>> envs.register("Corridor", Corridor)

    Args:
      name: the name, which no environment has yet.
      factory: makes the environment, with its settings as keyword arguments; mostly its class.

    Raises:
      ValueError: another environment has that name.
    """
    if _ENVIRONMENTS.get(name, factory) is not factory:
        raise ValueError(f"There is an environment {name!r} already; choose another name.")
    _ENVIRONMENTS[name] = factory


def make(name: str, **kwargs: Any) -> tuple[TextEnvironment, object]:
    """Makes an environment and its default parameters, as `gymnax.make` does.

    Examples:
      >>> env, params = envs.make("FrozenLake-4x4", is_slippery=False)
      >>> params = params.replace(max_steps_in_episode=20)
      >>> env.num_actions
      4

    Args:
      name: one of `NAMES`, "ALFWorld", or a name given by `register`.
      **kwargs: settings of the environment, e.g. `is_slippery=False` for the frozen lakes and
        `games=[path, ...]` for ALFWorld. Time limits and rewards are fields of the parameters:
        change them with `params.replace(...)`.

    Returns:
      The environment and its parameters.

    Raises:
      ValueError: if there is no such environment.
      TypeError: if the environment has no such setting.
    """
    if name not in _ENVIRONMENTS:
        raise ValueError(
            f"There is no environment {name!r}.{_nearest(name, _ENVIRONMENTS)} "
            f"The environments are {', '.join(_ENVIRONMENTS)}."
        )
    factory = _ENVIRONMENTS[name]
    settings = list(inspect.signature(factory).parameters)
    for setting in kwargs:
        if setting not in settings:
            known = f"Its settings are {', '.join(settings)}." if settings else "It has none."
            raise TypeError(
                f"{name} has no setting {setting!r}.{_nearest(setting, settings)} {known}"
            )
    env = factory(**kwargs)
    return env, env.default_params


def _nearest(name: str, names: Iterable[str]) -> str:
    """Suggests the name that was probably meant, whatever its case."""
    lowered = {known.lower(): known for known in names}
    nearest = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f" Did you mean {lowered[nearest[0]]!r}?" if nearest else ""
