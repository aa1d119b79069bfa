"""Where the actions that an agent chooses from come from: the engine's list, or proposals.

An engine may list the commands that a state admits; then these are the candidates (`Admissible`).
Or an action may be any text, which nobody can list; then the candidates are what a language model
proposes in that state, and what has worked there before (`Widened`). Either way a state offers a
list of texts, which the language model scores and the agent weighs.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from llmprior_jax import priors
from llmprior_jax.envs.engines import GameError
from llmprior_jax.models import LanguageModel
from llmprior_jax.priors import Sampling, prompts
from llmprior_jax.priors.tokens import count_tokens
from llmprior_jax.types import TextState

PROPOSERS = ("language_model", "vocabulary")


class Tried(NamedTuple):
    """What came of an action: `gained` is all reward from then to the end of the episode."""

    state: TextState
    action: str
    gained: float


class Candidates(Protocol):
    """The actions to choose from, for each seed its own."""

    def offer(self, seeds: Sequence[int], states: Sequence[TextState]) -> list[tuple[str, ...]]:
        """The actions that states offer to seeds; the states' `actions` are the engine's list."""
        ...

    def learn(self, seed: int, episode: Sequence[Tried]) -> None:
        """Takes notice of an episode that a seed has played in training."""
        ...

    def to_json(self) -> Any:
        """All that was learned, as JSON has it."""
        ...

    def from_json(self, learned: Any) -> None:
        """Goes back to what `to_json` gave."""
        ...


class Admissible:
    """The commands that the engine lists, sorted, so that the engine's order does not matter."""

    def offer(self, seeds: Sequence[int], states: Sequence[TextState]) -> list[tuple[str, ...]]:
        """See `Candidates`.

        Raises:
          GameError: the engine lists none.
        """
        del seeds
        for state in states:
            if not state.actions:
                raise GameError(
                    f"the engine lists no admissible commands after {state.observation!r}; set "
                    "freeform.k to have the language model propose some"
                )
        return [tuple(sorted(set(state.actions))) for state in states]

    def learn(self, seed: int, episode: Sequence[Tried]) -> None:
        """Learns nothing: the engine knows best."""

    def to_json(self) -> Any:
        """Nothing."""

    def from_json(self, learned: Any) -> None:
        """Nothing."""


Propose = Callable[[Sequence[TextState], int, int], Sequence[Sequence[str]]]
"""`(states, seed, number) -> proposals`, for each state some texts: the `number`-th time that a
seed asks for them. The same arguments give the same texts."""


class Widened:
    """What a proposer proposes, and what has worked.

    A state that is met for the first time offers the first proposals. The more often it is acted
    in, the more are added: after n times it has been asked about sqrt(n) times (progressive
    widening: Couetoux et al., "Continuous Upper Confidence Trees", LION 2011). Where there is not
    room for all, those stay after which most was gained, and of equal ones the newest.
    """

    def __init__(self, propose: Propose, room: int):
        """Nothing is proposed yet.

        Args:
          propose: the proposer.
          room: A, the most candidates of a state.
        """
        self._propose = propose
        self._room = room
        self._known: dict[tuple[int, str], _Known] = {}

    def offer(self, seeds: Sequence[int], states: Sequence[TextState]) -> list[tuple[str, ...]]:
        """See `Candidates`; what the engine may list is not looked at.

        Raises:
          GameError: nothing is proposed.
        """
        keys = [(seed, _name(state)) for seed, state in zip(seeds, states, strict=True)]
        due: dict[tuple[int, int], dict[tuple[int, str], TextState]] = {}
        for key, state in zip(keys, states, strict=True):
            known = self._known.setdefault(key, _Known({}, 0, 0))
            if known.times_asked == 0 or known.times_asked**2 <= known.visits:
                due.setdefault((key[0], known.times_asked), {})[key] = state
        for (seed, number), asked in due.items():
            proposals = self._propose(list(asked.values()), seed, number)
            for key, texts in zip(asked, proposals, strict=True):
                self._add(key, texts)
        return [tuple(self._known[key].gained) for key in keys]

    def learn(self, seed: int, episode: Sequence[Tried]) -> None:
        """See `Candidates`."""
        for state, action, gained in episode:
            known = self._known[seed, _name(state)]
            best = max(known.gained.get(action, 0.0), gained)
            found = known.gained | ({action: best} if action in known.gained or best > 0 else {})
            self._known[seed, _name(state)] = known._replace(
                gained=self._keep(found), visits=known.visits + 1
            )

    def to_json(self) -> Any:
        """See `Candidates`."""
        return [[*key, *known] for key, known in self._known.items()]

    def from_json(self, learned: Any) -> None:
        """See `Candidates`."""
        self._known = {(seed, name): _Known(*known) for seed, name, *known in learned}

    def _add(self, key: tuple[int, str], texts: Sequence[str]) -> None:
        known = self._known[key]
        gained = known.gained | {text: known.gained.get(text, 0.0) for text in texts if text}
        if not gained:
            raise GameError("nothing but empty texts was proposed; raise freeform.k")
        self._known[key] = _Known(self._keep(gained), known.visits, known.times_asked + 1)

    def _keep(self, gained: dict[str, float]) -> dict[str, float]:
        """Those for which there is room."""
        # Sorting is stable: of equal ones the last, which are the newest, stay.
        kept = set(sorted(gained, key=gained.__getitem__)[-self._room :])
        return {text: best for text, best in gained.items() if text in kept}


class _Known(NamedTuple):
    """What is known of a state: the most that each candidate gained, and how often it was met."""

    gained: dict[str, float]
    visits: int
    times_asked: int


def _name(state: TextState) -> str:
    """Tells a state from others, whatever actions it comes with."""
    text = json.dumps(state._replace(actions=()))
    return hashlib.sha256(text.encode()).hexdigest()


def from_language_model(
    lm: Callable[[], LanguageModel],
    k: int,
    sampling: Sampling,
    seed: int,
    build: Callable[[TextState], prompts.Prompt] = prompts.plain,
) -> Propose:
    """The language model as proposer: its answers to what it would do next (`priors.propose`).

    Args:
      lm: gives the language model when it is first needed.
      k: answers for each state, the same ones counting once.
      sampling: how they are drawn.
      seed: of the draws.
      build: makes the prompt.
    """

    def propose(states: Sequence[TextState], of_seed: int, number: int) -> list[tuple[str, ...]]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), of_seed), number)
        model = lm()
        # With room for a thought, if the prompt asks for one, and for an answer.
        context = model.config.max_position_embeddings - 2 * sampling.max_new_tokens
        count = functools.partial(count_tokens, model.tokenizer)
        fitted = prompts.fitting(build, lambda prompt: prompts.room_for(prompt, context, count))
        asked = [fitted(state._replace(actions=())) for state in states]
        return [found.answers for found in priors.propose(model, asked, key, k, sampling)]

    return propose


def from_vocabulary(verbs: Sequence[str], k: int, seed: int) -> Propose:
    """A proposer that knows no language: a verb, and words that stand in the observation.

    The baseline for proposals of a language model. A command is a verb alone, or a verb and one
    word, or a verb, a word, "from" or "on" or "in" or "with", and another word.

    Args:
      verbs: the verbs.
      k: commands for each state.
      seed: of the random choices.
    """

    def propose(states: Sequence[TextState], of_seed: int, number: int) -> list[list[str]]:
        return [commands(state, of_seed, number) for state in states]

    def commands(state: TextState, of_seed: int, number: int) -> list[str]:
        words = sorted(set(re.findall(r"[a-z]+", state.observation.lower()))) or [""]
        entropy = int.from_bytes(hashlib.sha256(_name(state).encode()).digest()[:8], "little")
        rng = np.random.default_rng([seed, of_seed, number, entropy])

        def command() -> str:
            verb, one, other = rng.choice(verbs), rng.choice(words), rng.choice(words)
            link = rng.choice(["from", "on", "in", "with"])
            return str(rng.choice([verb, f"{verb} {one}", f"{verb} {one} {link} {other}"])).strip()

        return [command() for _ in range(k)]

    return propose
