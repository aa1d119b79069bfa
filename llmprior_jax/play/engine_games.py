"""Games on engines as training needs them: states by number, texts with their history.

Inside jit a state is an array. That of an engine is a text, so here a digest of the text is its
observation, eight integers: by it the table of priors knows the state, as it knows those of
environments in JAX. The texts themselves stay on the host.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from llmprior_jax.envs import examples
from llmprior_jax.envs.engines import Bridge, GameError, HostStep, check_game
from llmprior_jax.examples import Example
from llmprior_jax.play.candidates import Candidates
from llmprior_jax.types import TextState

# Random play that shows how the features of states spread.
_EXPLORED_EPISODES, _EXPLORED_STEPS = 16, 16


class EngineGames:
    """A batch of games in play, each with its history; for the table of priors, a set of states.

    Attributes:
      name: "engine".
      bridge: the engines.
      games: names of the games to train on.
      unseen: names of the games that agents are evaluated on only.
      num_actions: A, the most actions that a state may offer.
      states: B states, those that the environments are in; their actions are those that the engine
        lists, of which `offer` makes what an agent chooses from.
    """

    name = "engine"

    def __init__(
        self,
        bridge: Bridge,
        games: Sequence[str],
        unseen: Sequence[str] = (),
        num_actions: int = 64,
        history: int = 0,
    ):
        """Nothing is started yet.

        Args:
          bridge: plays the games; the batch is its.
          games: games to train on.
          unseen: games to evaluate on only.
          num_actions: A.
          history: earlier (observation, action) pairs that the text of a state holds.

        Raises:
          GameError: there are no games, or one is not there or of no kind that engines play.
        """
        for game in (*games, *unseen):
            check_game(game)
        if not games:
            raise GameError(
                "no games to train on; name some (games.train), such as DATA/json_2.1.1/train"
            )
        self.bridge = bridge
        self.games, self.unseen = games, unseen
        self.num_actions = num_actions
        self.states = [TextState("", "")] * bridge.num_environments
        self._history = history
        self._texts: dict[bytes, TextState] = {}

    def examples(self) -> tuple[Example, ...]:
        """What the prompt "few_shot" shows where nobody names other examples."""
        return examples.for_engines((*self.games, *self.unseen))

    def reset(self, games: Sequence[str | None], seeds: Sequence[int]) -> HostStep:
        """Starts games, with the seeds of their chance; None leaves an environment as it is."""
        seen = self.bridge.reset(games, seeds)
        for index, state in enumerate(seen.text_states()):
            if games[index] is not None:
                self.states[index] = state
        return seen

    def step(self, commands: Sequence[str | None]) -> HostStep:
        """Says a command to each environment; None leaves one as it is.

        An environment whose engine is lost keeps its state: the next one is not known.
        """
        seen = self.bridge.step(commands)
        for index, state in enumerate(seen.text_states()):
            command = commands[index]
            if command is not None and not seen.lost[index]:
                past = (*self.states[index].history, (self.states[index].observation, command))
                recent = past[max(len(past) - self._history, 0) :]
                self.states[index] = state._replace(history=recent)
        return seen

    def offer(
        self, candidates: Candidates, seeds: Sequence[int], states: Sequence[TextState]
    ) -> list[TextState]:
        """The states with the actions that agents choose from.

        Args:
          candidates: where the actions come from.
          seeds: for each state, whose it is.
          states: the states.

        Raises:
          GameError: there are more actions than `num_actions`, or none.
        """
        offered = [
            state._replace(actions=actions)
            for state, actions in zip(states, candidates.offer(seeds, states), strict=True)
        ]
        for state in offered:
            if len(state.actions) > self.num_actions:
                raise GameError(
                    f"a state offers {len(state.actions)} actions, more than the "
                    f"{self.num_actions} slots (engine.num_actions); raise it. The state: "
                    f"{state.observation!r}"
                )
        return offered

    def observe(self, state: TextState) -> np.ndarray:
        """The observation i32[8] that stands for a state and what it offers."""
        text = json.dumps(state).encode()
        digest = hashlib.sha256(text).digest()
        self._texts[digest] = state
        return np.frombuffer(digest, np.int32)

    def has_words(self, observation: np.ndarray) -> bool:
        """Whether the state that an observation stands for was met since this was made."""
        return np.asarray(observation).tobytes() in self._texts

    def text_state(self, observation: np.ndarray) -> TextState:
        """The state that an observation stands for; it was met."""
        return self._texts[np.asarray(observation).tobytes()]

    def first_observations(self, candidates: Candidates) -> np.ndarray:
        """Distinct observations [N, 8] that random play in the games to train on meets."""
        rng = np.random.default_rng(0)
        size = self.bridge.num_environments
        observations = {}
        for start in range(0, _EXPLORED_EPISODES, size):
            seen = self.reset(
                [self.games[(start + index) % len(self.games)] for index in range(size)],
                rng.integers(2**31, size=size).tolist(),
            )
            for _ in range(_EXPLORED_STEPS):
                playing = np.flatnonzero(~seen.done)
                # As if each episode were another seed's, so that proposals are many, too.
                offered = self.offer(
                    candidates,
                    [start + int(index) for index in playing],
                    [self.states[index] for index in playing],
                )
                observations |= dict.fromkeys(self.observe(state).tobytes() for state in offered)
                commands: list[str | None] = [None] * size
                for index, state in zip(playing, offered, strict=True):
                    commands[index] = state.actions[rng.integers(len(state.actions))]
                seen = self.step(commands)
        return np.stack([np.frombuffer(digest, np.int32) for digest in observations])
