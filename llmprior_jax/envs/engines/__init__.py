"""Games that run on engines of the host, each in a process of its own."""

from llmprior_jax.envs.engines.bridge import Bridge, GameError, HostStep, check_game, find_games
from llmprior_jax.envs.engines.games import list_games

__all__ = ["Bridge", "GameError", "HostStep", "check_game", "find_games", "list_games"]
