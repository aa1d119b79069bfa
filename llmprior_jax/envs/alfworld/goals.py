"""Reads what wins one of ALFWorld's games: the goal of its PDDL problem."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from llmprior_jax.envs.alfworld.pddl import CHANGING, MARKS, UNTRACKED, Expression, Problem, typed


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


class _Exists(NamedTuple):
    """`exists` variables such that all atoms hold, and those of each pair differ."""

    variables: dict[str, str]
    atoms: set[tuple[str, ...]]
    different: set[frozenset[str]]


def read_goal(problem: Problem) -> Goal:
    """Returns what wins.

    Raises:
      ValueError: the goal is of no kind that ALFWorld's games have.
    """
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


def _conjuncts(formula: Expression) -> Iterator[Expression]:
    if isinstance(formula, list) and formula[:1] == ["and"]:
        for part in formula[1:]:
            yield from _conjuncts(part)
    else:
        yield formula


def _collect(formula: Expression, found: _Exists) -> None:
    for part in _conjuncts(formula):
        match part:
            case ["exists", list() as variables, body]:
                for name, type_ in typed(variables, "goal"):
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


def _read_placed(found: _Exists, problem: Problem) -> dict[str, Any] | None:
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


def _read_held(found: _Exists, problem: Problem) -> dict[str, Any] | None:
    """An object in the agent's hands."""
    if sorted(found.variables.values()) != ["agent", "object"] or found.different:
        return None
    by_type = {type_: name for name, type_ in found.variables.items()}
    expected = {("holds", by_type["agent"], by_type["object"])}
    changing = {atom for atom in found.atoms if atom[0] in CHANGING}
    if changing != expected or not _are_unary(found, expected):
        return None
    return {"held": _candidates(by_type["object"], found, problem)}


def _read_lit(found: _Exists, problem: Problem) -> dict[str, Any] | None:
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
        atom[0] not in CHANGING | UNTRACKED
        and atom[1:2]
        and atom[1] in found.variables
        and not any(argument in found.variables for argument in atom[2:])
        for atom in found.atoms - besides
    )


def _candidates(variable: str, found: _Exists, problem: Problem) -> frozenset[str]:
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


def _show(formula: Expression | str) -> str:
    if isinstance(formula, str):
        return formula
    text = f"({' '.join(_show(part) for part in formula)})"
    return text if len(text) <= 80 else f"{text[:77]}..."
