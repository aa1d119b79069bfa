"""Reads ALFWorld's games: one `game.tw-pddl` file each, official or generated.

A game file is a JSON object with the rules as a PDDL domain, the house and the task as a PDDL
problem, and the words as a TextWorld grammar. A game is taken only if its rules are ALFWorld's
(`pddl`), its goal is of a kind that is understood (`goals`), and its text depends on nothing but
what an observation has.
"""

import dataclasses
import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Mapping

from llmprior_jax.envs.alfworld.goals import Goal, read_goal
from llmprior_jax.envs.alfworld.grammar import Entity, Grammar, Placeholder, Query
from llmprior_jax.envs.alfworld.pddl import UNTRACKED, Fact, read_domain, read_problem
from llmprior_jax.files import parse_json

# Facts that TextWorld adds when an action makes a fact false.
_NEGATIONS = {
    "not_atlocation",
    "not_inreceptacle",
    "not_objectatlocation",
    "not_opened",
    "not_holds",
    "not_holdsany",
    "not_ishot",
    "not_iscool",
    "not_ison",
}


@dataclasses.dataclass(frozen=True)
class Game:
    """A game as its file has it.

    Attributes:
      path: the file.
      agent: the id of the agent.
      objects: the ids of the objects that can play a part, in TextWorld's order.
      receptacles: the ids of the receptacles, in TextWorld's order.
      places: the location where the agent starts, then the other locations of receptacles.
      facts: what holds at the start, by predicate, in TextWorld's order.
      goal: what wins.
      actions: the parameters of each action, by its name in lower case.
      entities: what the text can say of each id.
      grammar: the words.
      task: the sentence that states the task.
    """

    path: str
    agent: str
    objects: tuple[str, ...]
    receptacles: tuple[str, ...]
    places: tuple[str, ...]
    facts: Mapping[str, tuple[Fact, ...]]
    goal: Goal
    actions: Mapping[str, tuple[Placeholder, ...]]
    entities: Mapping[str, Entity]
    grammar: Grammar
    task: str

    def having(self, predicate: str) -> frozenset[str]:
        """Returns the ids for which a predicate of one argument holds at the start."""
        return frozenset(fact[0] for fact in self.facts.get(predicate, ()))

    def place_of(self, receptacle: str) -> str | None:
        """Returns the location of a receptacle."""
        places = [place for r, place in self.facts["receptacleatlocation"] if r == receptacle]
        return places[0] if places else None


def read_game(path: str | os.PathLike[str]) -> Game:
    """Reads a `game.tw-pddl` file.

    Args:
      path: the file.

    Returns:
      The game.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file is damaged, or has a game that this environment cannot represent. The
        message names the file and the reason.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no game file {path}.")
    try:
        return _read(str(path), _load(path))
    except RecursionError as error:
        raise ValueError(f"Cannot play {path}: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"Cannot play {path}: {error}.") from error


def _load(path: pathlib.Path) -> dict[str, str]:
    try:
        game = parse_json(path.read_bytes(), "its content")
    except ValueError as error:
        raise ValueError(
            f"the file is damaged or truncated, for it is not JSON ({error})"
        ) from error
    for field in ("pddl_domain", "pddl_problem", "grammar"):
        if not isinstance(game, dict) or not isinstance(game.get(field), str):
            raise ValueError(f"the file is no ALFWorld game, for it has no text {field!r}")
    return game


def _read(path: str, game: Mapping[str, str]) -> Game:
    actions = read_domain(game["pddl_domain"])
    problem = read_problem(game["pddl_problem"])
    types, facts = problem.types, problem.facts
    agents = [name for name, type_ in types.items() if type_ == "agent"]
    if len(agents) != 1 or len(facts["atlocation"]) != 1:
        raise ValueError(
            f"it needs one agent at one location and has {', '.join(agents) or 'none'}"
        )
    if facts.get("holds") or facts.get("holdsany"):
        raise ValueError("its agent starts with something in its hands")
    located = Counter(receptacle for receptacle, _ in facts["receptacleatlocation"])
    for receptacle, count in located.items():
        if count > 1:
            raise ValueError(f"the receptacle {receptacle} is at {count} locations")

    objects = {thing for thing, _ in facts["inreceptacle"]}
    sliceable = {fact[0] for fact in facts.get("sliceable", ())}
    objects.update(thing for thing, _ in facts["objectatlocation"] if thing in sliceable)
    receptacles = {name for name, type_ in types.items() if type_ == "receptacle"}
    start = facts["atlocation"][0][1]
    places = dict.fromkeys([start, *(place for _, place in facts["receptacleatlocation"])])

    names = _demangle({name for fact in itertools.chain(*facts.values()) for name in fact})
    for thing in objects | set(located):
        if names[thing].endswith(" "):
            raise ValueError(f"{thing} is not named like a thing of ALFRED")
    grammar = Grammar(game["grammar"])
    _check_grammar(grammar, actions)
    entities = {name: Entity(name, types[name], text) for name, text in names.items()}
    return Game(
        path=path,
        agent=agents[0],
        objects=tuple(sorted(objects, key=problem.order)),
        receptacles=tuple(sorted(receptacles)),
        places=tuple(places),
        facts=facts,
        goal=read_goal(problem),
        actions=actions,
        entities=entities,
        grammar=grammar,
        task=grammar.render(
            grammar.phrase("#task#"), {}, lambda predicate, arguments: (), entities
        ),
    )


def _demangle(ids: set[str]) -> dict[str, str]:
    """Names things as ALFWorld does: a kind, and a number that counts down in the order of ids."""
    kinds = {}
    for entity in ids:
        kind, bar, _ = entity.partition("_bar_")
        kinds[entity] = kind + "basin" if bar and "basin" in entity else kind
    numbers = Counter(kinds[entity] for entity in ids if "_bar_" in entity)
    names = {}
    for entity in sorted(ids):
        kind = kinds[entity]
        names[entity] = f"{kind} "
        if "_bar_" in entity:
            names[entity] += str(numbers[kind])
            numbers[kind] -= 1
    return names


def _check_grammar(grammar: Grammar, actions: Mapping[str, object]) -> None:
    """Sees to it that the text depends on nothing but what an observation has."""
    for action in actions:
        if action not in grammar.actions:
            raise ValueError(f"its grammar has no words for {action}")
    for query in grammar.queries:
        shown = " & ".join(f"{p}({', '.join(a[0] for a in arguments)})" for p, arguments in query)
        predicates = {atom.predicate for atom in query}
        unknown = predicates & (UNTRACKED | _NEGATIONS - {"not_inreceptacle"})
        if unknown:
            raise ValueError(f"its grammar asks {shown}, and {unknown.pop()} is not kept")
        if predicates & {"objectatlocation", "not_inreceptacle"} and not _is_displaced(query):
            raise ValueError(f"its grammar asks {shown}, which is not understood")


def _is_displaced(query: Query) -> bool:
    """Whether a query asks for objects beside the receptacles where the agent is."""
    by_predicate = {atom.predicate: atom.arguments for atom in query}
    wanted = ("atlocation", "objectatlocation", "receptacleatlocation", "not_inreceptacle")
    if len(by_predicate) != len(query) or not all(name in by_predicate for name in wanted):
        return False
    (_, here), (thing, at), (receptacle, there), not_in = (by_predicate[name] for name in wanted)
    return here == at == there and not_in == (thing, receptacle)
