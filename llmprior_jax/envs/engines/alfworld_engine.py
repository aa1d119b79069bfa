"""Plays ALFWorld's games on ALFWorld's own engine.

The engine spends most of its time translating the same problem and parsing the same grammar again,
at every reset and every step. Both are pure functions of their text, so here their results are
kept, which changes no answer (the tests hold them against the engine as it is). And it evaluates
the expressions of a game's grammar as Python; a game file may come from anywhere, so here only what
a grammar needs is evaluated: names, attributes, strings, ``+``, ``or``.

Loaded by `worker` in a process of its own: nothing else of this library is imported.
"""

import ast
import copy
import functools
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import fast_downward
from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld import EnvInfos
from textworld.envs import PddlEnv
from textworld.logic import Rule

if TYPE_CHECKING:
    from llmprior_jax.envs.engines.worker import Answer

# Any, because parts of it are replaced that are not meant for it.
textgen: Any = importlib.import_module("textworld.envs.pddl.textgen")

_TASK_MARK = "Your task is to:"


class AlfworldEngine:
    """A ``game.tw-pddl`` file, played as ALFWorld's own environment plays it."""

    def __init__(self, argument: str):
        self._environment = _alfworld_environment()
        try:
            with open(argument, encoding="utf-8") as file:
                content = json.load(file)
        except ValueError as error:
            raise ValueError(f"damaged or cut short, not valid JSON ({error})") from error
        for field in ("pddl_domain", "pddl_problem", "grammar"):
            if not isinstance(content, dict) or not isinstance(content.get(field), str):
                raise ValueError(f"not an ALFWorld game, it has no text {field!r}")
        self._environment.load(content)
        self._task = ""

    def reset(self, seed: int, describe: bool) -> "Answer":
        del seed, describe  # the game has no chance in it, and its answers only
        state = self._environment.reset()
        _, mark, wish = state["feedback"].partition(_TASK_MARK)
        self._task = mark + wish
        return self._read(state, 0.0)

    def step(self, command: str) -> "Answer":
        state, reward, _ = self._environment.step(command)
        return self._read(state, reward)

    def _read(self, state: dict[str, Any], reward: float) -> "Answer":
        return {
            "task": self._task,
            "observation": state["feedback"],
            "commands": list(state["admissible_commands"]),
            "reward": float(reward),
            "won": bool(state["won"]),
            "terminated": bool(state["won"] or state["lost"]),
            "truncated": False,
        }


@functools.cache
def _alfworld_environment() -> Any:
    """ALFWorld's environment for one game at a time, quickened; one per process."""
    environment = PddlEnv(EnvInfos(won=True, admissible_commands=True))
    _keep_translations()
    _keep_grammar()
    return AlfredDemangler(environment, shuffle=False)


def _keep_translations() -> None:
    translate = fast_downward.pddl2sas

    @functools.lru_cache(maxsize=4)
    def translated(domain: str, problem: str) -> Any:
        arguments = sys.argv[:]
        try:
            return translate(domain, problem)
        finally:
            sys.argv[:] = arguments  # the translator leaves its own there

    def pddl2sas(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
        # The second, optimized form serves the planner alone.
        del verbose, optimize
        return translated(domain, problem)

    fast_downward.pddl2sas = pddl2sas


def _keep_grammar() -> None:
    parse = functools.cache(textgen._parse_and_convert)
    # A derivation writes into the symbols it starts from.
    textgen._parse_and_convert = lambda *args, **kwargs: copy.deepcopy(parse(*args, **kwargs))
    Rule.parse_conjunctive_query = functools.cache(Rule.parse_conjunctive_query)

    def derive(symbol: Any, context: Any = None) -> list[Any]:
        context = context or symbol.context
        value = evaluate(symbol.expression, context["variables"])
        return [textgen.TerminalSymbol(value)]

    textgen.EvalSymbol.derive = derive

    # Contexts are only ever extended, by their own dictionaries: nothing deeper needs a copy.
    def copy_context(context: dict[str, Any]) -> dict[str, Any]:
        return context | {key: dict(context[key]) for key in ("variables", "mapping")}

    def copy_symbol(symbol: Any, context: dict[str, Any]) -> Any:
        copied = copy.copy(symbol)
        copied.context = copy_context(context)
        return copied

    textgen.copy_context = copy_context
    textgen.Symbol.copy = copy_symbol


@functools.cache
def _expression(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def evaluate(text: str, variables: dict[str, Any]) -> Any:
    """Evaluates an expression of a grammar: names, attributes, strings, ``+`` and ``or``.

    Raises:
      ValueError: if it holds anything else.
    """

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str(constant)):
                return constant
            case ast.Name(id=name) if name in variables:
                return variables[name]
            case ast.Attribute(value=ast.Name(id=name), attr="id" | "name" | "indefinite" as part):
                return getattr(variables[name], part)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BoolOp(op=ast.Or(), values=nodes):
                return functools.reduce(lambda found, node: found or value(node), nodes, None)
            case _:
                raise ValueError(f"the grammar evaluates {text!r}, which no ALFWorld grammar needs")

    return value(_expression(text))
