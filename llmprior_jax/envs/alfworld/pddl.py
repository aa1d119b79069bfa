"""Reads the PDDL of ALFWorld's games: the rules, which are always the same, and the problem.

All of ALFWorld's games have the same rules (a PDDL domain: McDermott et al., 1998), and the
environment is built on them. So a domain is taken only if every action of it is defined as ALFWorld
0.4 defines it, which a fingerprint of the definition tells. To the letter: for example, a comma
that ALFWorld has in the precondition of `examineObject` keeps objects from being examined before
they are picked up.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from llmprior_jax.envs.alfworld.grammar import Placeholder

Expression: TypeAlias = list[Any]
"""A list of names and of expressions."""

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

UNTRACKED = frozenset({"checked", "ison", "total-cost"})
"""The others that they change, which are kept nowhere."""

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


class Problem(NamedTuple):
    """The house and the task of a game.

    Attributes:
      types: the type of each entity, by its id.
      facts: what holds at the start, by predicate, in TextWorld's order.
      goal: what is to hold at the end.
    """

    types: dict[str, str]
    facts: dict[str, tuple[Fact, ...]]
    goal: Expression

    def order(self, entity: str) -> tuple[Any, ...]:
        """A key that sorts entities of any type as TextWorld does."""
        return self.types[entity] != "object", self.types[entity], entity


def _parse(source: str, what: str) -> Expression:
    tokens = []
    for line in source.split("\n"):
        line = line.split(";", 1)[0].replace("(", " ( ").replace(")", " ) ").replace("?", " ?")
        tokens += line.lower().split()
    stack: list[Expression] = [[]]
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


def _sections(source: str, what: str) -> Iterator[tuple[str, Expression]]:
    expression = _parse(source, what)
    if len(expression) < 2 or expression[0] != "define" or expression[1][:1] != [what.split()[-1]]:
        raise ValueError(f"its {what} does not begin with (define ({what.split()[-1]} ...))")
    for section in expression[2:]:
        if not isinstance(section, list) or not section or not isinstance(section[0], str):
            raise ValueError(f"its {what} has {str(section)[:40]!r} where a section is expected")
        yield section[0], section[1:]


def typed(items: Expression, what: str) -> Iterator[tuple[str, str]]:
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


def read_domain(source: str) -> dict[str, tuple[Placeholder, ...]]:
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
                parameters = typed(content[content.index(":parameters") + 1], "PDDL domain")
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


def _fingerprint(expression: Expression) -> str:
    """A hash of what an expression says, without comments, white space and case."""
    return hashlib.sha256(json.dumps(expression).encode()).hexdigest()[:16]


def read_problem(source: str) -> Problem:
    """Returns a problem of which all entities and known predicates have the right types."""
    sections = dict(_sections(source, "PDDL problem"))
    for section in (":objects", ":init", ":goal"):
        if section not in sections:
            raise ValueError(f"its PDDL problem has no {section}")
    types = dict(typed(sections[":objects"], "PDDL problem"))
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

    return Problem(
        types=types,
        facts={name: tuple(sorted(known, key=order)) for name, known in facts.items()},
        goal=sections[":goal"][0],
    )
