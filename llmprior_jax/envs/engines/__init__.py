"""Games that run on engines of the host, each in its own process.

`Bridge` plays a batch of games. A game is named by a string:

- a path ending in ``.tw-pddl``: an ALFWorld game; `find_games` lists those of a data directory,
- a path ending in ``.z8``: a game file for TextWorld, as ``tw-make`` writes; ``.ulx`` too, which
  needs a TextWorld that still plays it (1.7 does not),
- ``gymnasium:ID``: a registered Gymnasium environment whose observation is text; as in Gymnasium,
  ``gymnasium:module:ID`` imports the module first. Actions are texts, or are named by texts; the
  environment's ``info`` may hold ``task``, ``admissible_commands``, ``action_mask`` and ``won``,
- ``NAME:ARGUMENT``: a game of the engine that was given that name with `register`; the engine gets
  the argument,
- ``engine:MODULE:CLASS:ARGUMENT``: the same for an engine without a name, a class that the process
  can import. Commands name an engine this way.

A TextWorld game plays in an empty folder of its own, one for each episode. Some commands are not
meant for the game but for its interpreter: ``save``, ``restore``, ``script`` and ``transcript``
(and ``noscript``, ``unscript``, ``recording``, ``replay``), ``restart``, ``quit``, ``q``, ``die``,
``undo``; ``short`` and ``superbrief``, which cut descriptions; what TextWorld itself tells a game
(``tw-...``, ``restrict commands``, ``print_state``, ``enable print state``,
``disable print state``); and commands for testers (``#...``, ``$...``). If one of these would begin
a command anywhere in a line, the line is not passed on: the observation says so, unless it is a
description of the state, and the step counts. The same holds for control characters, including line
breaks, and backslashes. A command that the game lists as admissible is always passed on unchanged.
ALFWorld, TextWorld and Gymnasium come with ``pip install 'llmprior-jax[alfworld]'``. `Engine` says
what a class of your own needs to be an engine.

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
