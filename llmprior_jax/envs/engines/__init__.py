"""Games that run on engines of the host, each in a process of its own.

`Bridge` plays a batch of games. A game is named by a string:

- a path ending in ``.tw-pddl``: an ALFWorld game; `find_games` lists those of a data directory,
- a path ending in ``.z8``, ``.ulx`` or the like: a game file for TextWorld, as ``tw-make`` writes,
- ``gymnasium:ID``: a registered Gymnasium environment whose observation is text; as Gymnasium has
  it, ``gymnasium:module:ID`` imports the module first. Actions are texts, or go by their names; the
  environment's ``info`` may hold ``task``, ``admissible_commands``, ``action_mask`` and ``won``,
- ``NAME:ARGUMENT``: a game of the engine that was given that name with `register`; the engine is
  told the argument,
- ``engine:MODULE:CLASS:ARGUMENT``: the same for an engine without a name, a class that the process
  can import. This is how a command names it.

ALFWorld, TextWorld and Gymnasium come with ``pip install 'llmprior-jax[alfworld]'``. What a class
of your own has to have to be an engine is in `Engine`.

Examples:
  >>> envs.engines.register("checkers", "my_module:CheckersEngine")
  >>> envs.engines.check_game("checkers:two kings")
"""

from llmprior_jax.envs.engines.bridge import Bridge, HostStep
from llmprior_jax.envs.engines.games import (
    GameError,
    check_game,
    find_games,
    list_games,
    register,
)
from llmprior_jax.envs.engines.worker import Answer, Engine

__all__ = [
    "Answer",
    "Bridge",
    "Engine",
    "GameError",
    "HostStep",
    "check_game",
    "find_games",
    "list_games",
    "register",
]
