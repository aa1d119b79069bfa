"""Reads ALFWorld's games: one `game.tw-pddl` file each, official or generated.

A game file is a JSON object with the rules as a PDDL domain (McDermott et al., 1998), the house and
the task as a PDDL problem, and the words as a TextWorld grammar. All of ALFWorld's games have the
same rules, and the environment is built on them. So a game is taken only if every action of its
domain is defined as ALFWorld 0.4 defines it, which a fingerprint of the definition tells. To the
letter: for example, a comma that ALFWorld has in the precondition of `examineObject` keeps objects
from being examined before they are picked up.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from llmprior_jax.envs.alfworld.grammar import Entity, Grammar, Placeholder, Query

Fact = tuple[str, ...]
"""The ids of the entities that a predicate holds for."""

MARKS = ("isclean", "ishot", "iscool", "istoggled", "issliced")
"""What an action can leave on an object."""

_TYPES = ("agent", "location", "receptacle", "object", "rtype", "otype")

# The fingerprint of each action's definition; see `_fingerprint`.
_ACTIONS = {
    "look": "1ba42fb5c199916e",
    "inventory": "47941db9169db09f",
    "examinereceptacle": "5e9edb9fd03f7b05",
    "examineobject": "801b5f11b7a39da8",
    "gotolocation": "0ddab2696200cdfa",
    "openobject": "5a401a95a82d3749",
    "closeobject": "1eae1c80536f274c",
    "pickupobject": "b1e08b3a56f5950e",
    "putobject": "88eea6cec921187b",
    "cleanobject": "ea7e691a004c20b9",
    "heatobject": "32c0bba3717b157a",
    "coolobject": "932bb229cea78d65",
    "toggleobject": "649658b6d3af9bba",
    "sliceobject": "9ed104fd6a204014",
    "help": "b9c77e650de1b229",
}
# Left out of the domain of early games.
_OPTIONAL_ACTIONS = {"help"}

CHANGING = frozenset(
    {"atlocation", "inreceptacle", "objectatlocation", "opened", "holds", "holdsany", *MARKS}
)
"""The predicates that actions change and that text and goals may depend on."""

# The types of the things that each predicate is about, which for "object" can be any.
_PREDICATES = {
    **dict.fromkeys(("pickupable", "toggleable", "sliceable", *MARKS), ("object",)),
    **dict.fromkeys(("cleanable", "heatable", "coolable"), ("object",)),
    **dict.fromkeys(("openable", "opened"), ("receptacle",)),
    "atlocation": ("agent", "location"),
    "inreceptacle": ("object", "receptacle"),
    "objectatlocation": ("object", "location"),
    "receptacleatlocation": ("receptacle", "location"),
    "objecttype": ("object", "otype"),
    "receptacletype": ("receptacle", "rtype"),
    "cancontain": ("rtype", "otype"),
}

# The others that they change, which are kept nowhere.
_UNTRACKED = {"checked", "ison", "total-cost"}
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


class Goal(NamedTuple):
    """What wins a game: all of its parts that there are.

    Attributes:
      count: how many objects must be in one receptacle, or 0 if none need to.
      objects: the objects that count.
      marks: those of `MARKS` that they must bear.
      receptacles: the receptacles that count.
      held: one of these must be held, if there are any.
      lit: one of these must have been switched on and be where the agent is, if there are any.
    """

    count: int = 0  # pyright: ignore[reportIncompatibleMethodOverride]
    objects: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()
    receptacles: frozenset[str] = frozenset()
    held: frozenset[str] | None = None
    lit: frozenset[str] | None = None


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
        game = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"the file is damaged or truncated, for it is not JSON ({error})"
        ) from error
    for field in ("pddl_domain", "pddl_problem", "grammar"):
        if not isinstance(game, dict) or not isinstance(game.get(field), str):
            raise ValueError(f"the file is no ALFWorld game, for it has no text {field!r}")
    return game


def _read(path: str, game: Mapping[str, str]) -> Game:
    actions = _read_domain(game["pddl_domain"])
    problem = _read_problem(game["pddl_problem"])
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
        goal=_read_goal(problem),
        actions=actions,
        entities=entities,
        grammar=grammar,
        task=grammar.render(
            grammar.phrase("#task#"), {}, lambda predicate, arguments: (), entities
        ),
    )


# PDDL.

_Expression: TypeAlias = list[Any]  # of str and _Expression


class _Problem(NamedTuple):
    types: dict[str, str]
    facts: dict[str, tuple[Fact, ...]]
    goal: _Expression

    def order(self, entity: str) -> tuple[Any, ...]:
        """A key that sorts entities of any type as TextWorld does."""
        return self.types[entity] != "object", self.types[entity], entity


def _parse(source: str, what: str) -> _Expression:
    tokens = []
    for line in source.split("\n"):
        line = line.split(";", 1)[0].replace("(", " ( ").replace(")", " ) ").replace("?", " ?")
        tokens += line.lower().split()
    stack: list[_Expression] = [[]]
    for index, token in enumerate(tokens):
        if token == "(":
            stack.append([])
        elif token == ")" and len(stack) > 1:
            inner = stack.pop()
            stack[-1].append(inner)
            if len(stack) == 1 and index < len(tokens) - 1:
                raise ValueError(f"its {what} goes on after the end")
        elif token == ")" or len(stack) == 1:
            raise ValueError(f"its {what} has {token!r} where '(' is expected")
        else:
            stack[-1].append(token)
    if len(stack) > 1 or not stack[0]:
        raise ValueError(f"its {what} is truncated")
    return stack[0][0]


def _sections(source: str, what: str) -> Iterator[tuple[str, _Expression]]:
    expression = _parse(source, what)
    if len(expression) < 2 or expression[0] != "define" or expression[1][:1] != [what.split()[-1]]:
        raise ValueError(f"its {what} does not begin with (define ({what.split()[-1]} ...))")
    for section in expression[2:]:
        if not isinstance(section, list) or not section or not isinstance(section[0], str):
            raise ValueError(f"its {what} has {str(section)[:40]!r} where a section is expected")
        yield section[0], section[1:]


def _typed(items: _Expression, what: str) -> Iterator[tuple[str, str]]:
    """Reads `a b - type c - type`."""
    names = []
    items = list(items)
    while items:
        item = items.pop(0)
        if not isinstance(item, str):
            raise ValueError(f"its {what} has {str(item)[:40]!r} where a name is expected")
        if item != "-":
            names.append(item)
            continue
        type_ = items.pop(0) if items else None
        if not isinstance(type_, str):
            raise ValueError(f"its {what} has no type for {' '.join(names)[:40]!r}")
        yield from ((name, type_) for name in names)
        names = []
    yield from ((name, "object") for name in names)


def _read_domain(source: str) -> dict[str, tuple[Placeholder, ...]]:
    """Returns the parameters of each action, all of which are known to be ALFWorld's."""
    actions, unknown, changed = {}, [], []
    for kind, content in _sections(source, "PDDL domain"):
        if kind == ":action":
            name = str(content[0]) if content else ""
            if name not in _ACTIONS:
                unknown.append(name)
            elif _fingerprint(content) != _ACTIONS[name]:
                changed.append(name)
            else:
                parameters = _typed(content[content.index(":parameters") + 1], "PDDL domain")
                actions[name] = tuple((name.strip("?"), type_) for name, type_ in parameters)
        elif kind == ":types":
            if tuple(content) != _TYPES:
                raise ValueError(f"it has other types than ALFWorld's: {content}")
        elif kind not in (":requirements", ":predicates", ":functions"):
            raise ValueError(f"its PDDL domain has a section {kind!r}, which ALFWorld's has not")
    missing = [name for name in _ACTIONS if name not in {*actions, *changed, *_OPTIONAL_ACTIONS}]
    complaints = [
        f"{text} {', '.join(names)}"
        for text, names in (
            ("it has PDDL actions that ALFWorld has not:", unknown),
            ("it defines PDDL actions otherwise than ALFWorld:", changed),
            ("it lacks PDDL actions of ALFWorld:", missing),
        )
        if names
    ]
    if complaints:
        raise ValueError("; ".join(complaints))
    return actions


def _fingerprint(expression: _Expression) -> str:
    """A hash of what an expression says, without comments, white space and case."""
    return hashlib.sha256(json.dumps(expression).encode()).hexdigest()[:16]


def _read_problem(source: str) -> _Problem:
    sections = dict(_sections(source, "PDDL problem"))
    for section in (":objects", ":init", ":goal"):
        if section not in sections:
            raise ValueError(f"its PDDL problem has no {section}")
    types = dict(_typed(sections[":objects"], "PDDL problem"))
    for name, type_ in types.items():
        if type_ not in _TYPES:
            raise ValueError(f"{name} has the type {type_!r}, which ALFWorld has not")
    facts: dict[str, set[Fact]] = {
        name: set()
        for name in ("atlocation", "inreceptacle", "objectatlocation", "receptacleatlocation")
    }
    for fact in sections[":init"]:
        if not isinstance(fact, list) or not fact or not isinstance(fact[0], str):
            raise ValueError(f"its PDDL problem has {str(fact)[:40]!r} where a fact is expected")
        predicate, *arguments = fact
        if predicate in ("=", "not"):  # distances, and what is false anyway
            continue
        for argument in arguments:
            if not isinstance(argument, str) or argument not in types:
                raise ValueError(f"its PDDL problem states {predicate} of an unknown {argument}")
        facts.setdefault(predicate, set()).add(tuple(arguments))
    for predicate, kinds in _PREDICATES.items():
        for fact in facts.get(predicate, ()):
            if len(fact) != len(kinds) or not all(
                kind in ("object", types[name]) for name, kind in zip(fact, kinds, strict=True)
            ):
                raise ValueError(
                    f"its PDDL problem states {predicate} of {' '.join(fact) or 'nothing'}; it is "
                    f"about {', '.join(kinds)}"
                )
    if len(sections[":goal"]) != 1:
        raise ValueError("its PDDL problem has more than one goal")

    def order(fact: Fact) -> tuple[Any, ...]:
        return tuple((types[name] != "object", types[name]) for name in fact), fact

    return _Problem(
        types=types,
        facts={name: tuple(sorted(known, key=order)) for name, known in facts.items()},
        goal=sections[":goal"][0],
    )


# The goal.


class _Exists(NamedTuple):
    """`exists` variables such that all atoms hold, and those of each pair differ."""

    variables: dict[str, str]
    atoms: set[tuple[str, ...]]
    different: set[frozenset[str]]


def _read_goal(problem: _Problem) -> Goal:
    goal = Goal()
    for part in _conjuncts(problem.goal):
        if not isinstance(part, list) or part[:1] != ["exists"]:
            raise ValueError(f"its goal has {_show(part)}, which is not understood")
        found = _Exists({}, set(), set())
        _collect(part, found)
        for read in (_read_placed, _read_held, _read_lit):
            fields = read(found, problem)
            if fields is not None:
                break
        if not fields or any(
            getattr(goal, field) != Goal._field_defaults[field] for field in fields
        ):
            raise ValueError(f"its goal has {_show(part)}, which is not understood")
        goal = goal._replace(**fields)
    return goal


def _conjuncts(formula: _Expression) -> Iterator[_Expression]:
    if isinstance(formula, list) and formula[:1] == ["and"]:
        for part in formula[1:]:
            yield from _conjuncts(part)
    else:
        yield formula


def _collect(formula: _Expression, found: _Exists) -> None:
    for part in _conjuncts(formula):
        match part:
            case ["exists", list() as variables, body]:
                for name, type_ in _typed(variables, "goal"):
                    if name in found.variables:
                        raise ValueError(f"its goal has two variables {name}")
                    found.variables[name] = type_
                _collect(body, found)
            case ["not", ["=", str() as one, str() as other]]:
                found.different.add(frozenset((one, other)))
            case [str() as predicate, *arguments] if all(isinstance(a, str) for a in arguments):
                found.atoms.add((predicate, *arguments))
            case _:
                raise ValueError(f"its goal has {_show(part)}, which is not understood")


def _read_placed(found: _Exists, problem: _Problem) -> dict[str, Any] | None:
    """Objects in a receptacle, e.g. two clean cups in a cabinet."""
    receptacles = [name for name, type_ in found.variables.items() if type_ == "receptacle"]
    objects = [name for name, type_ in found.variables.items() if type_ == "object"]
    if len(receptacles) != 1 or len(objects) + 1 != len(found.variables) or not objects:
        return None
    if found.different != {frozenset(pair) for pair in itertools.combinations(objects, 2)}:
        return None
    changing = {atom for atom in found.atoms if atom[0] in CHANGING}
    marks = {atom[0] for atom in changing if atom[0] in MARKS}
    expected = {("inreceptacle", name, receptacles[0]) for name in objects}
    expected |= {(mark, name) for mark in marks for name in objects}
    counted = {_candidates(name, found, problem) for name in objects}
    if changing != expected or len(counted) != 1 or not _are_unary(found, expected):
        return None
    return {
        "count": len(objects),
        "objects": counted.pop(),
        "marks": frozenset(marks),
        "receptacles": _candidates(receptacles[0], found, problem),
    }


def _read_held(found: _Exists, problem: _Problem) -> dict[str, Any] | None:
    """An object in the agent's hands."""
    if sorted(found.variables.values()) != ["agent", "object"] or found.different:
        return None
    by_type = {type_: name for name, type_ in found.variables.items()}
    expected = {("holds", by_type["agent"], by_type["object"])}
    changing = {atom for atom in found.atoms if atom[0] in CHANGING}
    if changing != expected or not _are_unary(found, expected):
        return None
    return {"held": _candidates(by_type["object"], found, problem)}


def _read_lit(found: _Exists, problem: _Problem) -> dict[str, Any] | None:
    """A lamp that was switched on, where the agent is."""
    kinds = ["agent", "location", "object", "receptacle"]
    if sorted(found.variables.values()) != kinds or found.different:
        return None
    agent, location, lamp, receptacle = (
        next(name for name, type_ in found.variables.items() if type_ == kind) for kind in kinds
    )
    expected = {
        ("istoggled", lamp),
        ("atlocation", agent, location),
        ("receptacleatlocation", receptacle, location),
        ("inreceptacle", lamp, receptacle),
    }
    others = found.atoms - expected
    if not expected <= found.atoms or any(atom[1] != lamp for atom in others):
        return None
    if any(atom[0] in CHANGING for atom in others) or not _are_unary(found, expected):
        return None
    return {"lit": _candidates(lamp, found, problem)}


def _are_unary(found: _Exists, besides: set[tuple[str, ...]]) -> bool:
    """Whether all other atoms are about one variable and never change."""
    return all(
        atom[0] not in CHANGING | _UNTRACKED
        and atom[1:2]
        and atom[1] in found.variables
        and not any(argument in found.variables for argument in atom[2:])
        for atom in found.atoms - besides
    )


def _candidates(variable: str, found: _Exists, problem: _Problem) -> frozenset[str]:
    """The entities for which everything holds that is said of the variable alone for good."""
    wanted = [
        atom
        for atom in found.atoms
        if atom[0] not in CHANGING | {"receptacleatlocation"} and atom[1:2] == (variable,)
    ]
    return frozenset(
        name
        for name, type_ in problem.types.items()
        if found.variables[variable] in ("object", type_)
        and all((name, *atom[2:]) in problem.facts.get(atom[0], ()) for atom in wanted)
    )


def _show(formula: _Expression | str) -> str:
    if isinstance(formula, str):
        return formula
    text = f"({' '.join(_show(part) for part in formula)})"
    return text if len(text) <= 80 else f"{text[:77]}..."


# Names and words.


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
        unknown = predicates & (_UNTRACKED | _NEGATIONS - {"not_inreceptacle"})
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
