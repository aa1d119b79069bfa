"""The process that runs one engine for the bridge: commands in, texts out, one JSON line each.

Run as a script, by path, so that it loads the engine and nothing of ours: no JAX, no arrays. It
reads requests on standard input and answers on what was standard output; whatever an engine
prints goes to standard error instead. Nothing but JSON crosses the pipe in either direction.

Requests are ``{"reset": game, "seed": n, "describe": flag}`` and ``{"step": command}``. An answer
holds the task, the observation, the admissible commands, the reward, and whether the game is won or
over; or ``{"error": text}`` when the engine refused.

ALFWorld's engine spends most of its time translating the same problem and parsing the same
grammar again, at every reset and every step. Both are pure functions of their text, so here
their results are kept, which changes no answer (the tests hold them against the engine as it
is). And it evaluates the expressions of a game's grammar as Python; a game file may come from
anywhere, so here only what a grammar needs is evaluated: names, attributes, strings, ``+``, ``or``.
"""

import ast
import copy
import functools
import importlib
import json
import os
import re
import sys
from typing import Any, Protocol


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{error}; the engines come with: pip install 'llmprior-jax[alfworld]'"
        ) from error


class Engine(Protocol):
    """One game being played."""

    def reset(self, seed: int, describe: bool) -> dict[str, Any]:
        """Starts the game from the beginning; `describe` asks for states instead of answers."""
        ...

    def step(self, command: str) -> dict[str, Any]:
        """Says one command to the game."""
        ...


def _answer(
    task: str,
    observation: str,
    commands: list[str],
    reward: float = 0.0,
    won: bool = False,
    terminated: bool = False,
    truncated: bool = False,
) -> dict[str, Any]:
    return {
        "task": task,
        "observation": observation,
        "commands": commands,
        "reward": float(reward),
        "won": bool(won),
        "terminated": bool(terminated),
        "truncated": bool(truncated),
    }


# ---------------------------------------------------------------------------------------------
# ALFWorld
# ---------------------------------------------------------------------------------------------

_TASK_MARK = "Your task is to:"


class AlfworldEngine:
    """A ``game.tw-pddl`` file, played as ALFWorld's own environment plays it."""

    def __init__(self, game: str):
        self._environment = alfworld_environment()
        try:
            with open(game, encoding="utf-8") as file:
                content = json.load(file)
        except ValueError as error:
            raise ValueError(f"damaged or cut short, not valid JSON ({error})") from error
        for field in ("pddl_domain", "pddl_problem", "grammar"):
            if not isinstance(content, dict) or not isinstance(content.get(field), str):
                raise ValueError(f"not an ALFWorld game, it has no text {field!r}")
        self._environment.load(content)
        self._task = ""

    def reset(self, seed: int, describe: bool) -> dict[str, Any]:
        del seed, describe  # the game has no chance in it, and its answers only
        state = self._environment.reset()
        _, mark, wish = state["feedback"].partition(_TASK_MARK)
        self._task = mark + wish
        return self._read(state, 0.0)

    def step(self, command: str) -> dict[str, Any]:
        state, reward, _ = self._environment.step(command)
        return self._read(state, reward)

    def _read(self, state: dict[str, Any], reward: float) -> dict[str, Any]:
        return _answer(
            self._task,
            state["feedback"],
            state["admissible_commands"],
            reward,
            won=state["won"],
            terminated=state["won"] or state["lost"],
        )


@functools.cache
def alfworld_environment() -> Any:
    """ALFWorld's environment for one game at a time, quickened; one per process."""
    request = _load("textworld").EnvInfos(won=True, admissible_commands=True)
    environment = _load("textworld.envs").PddlEnv(request)
    demangler = _load("alfworld.agents.environment.alfred_tw_env").AlfredDemangler
    _keep_translations()
    _keep_grammar()
    return demangler(environment, shuffle=False)


def _keep_translations() -> None:
    fast_downward = _load("fast_downward")
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
    textgen = _load("textworld.envs.pddl.textgen")
    rule = _load("textworld.logic").Rule

    parse = functools.cache(textgen._parse_and_convert)
    # A derivation writes into the symbols it starts from.
    textgen._parse_and_convert = lambda *args, **kwargs: copy.deepcopy(parse(*args, **kwargs))
    rule.parse_conjunctive_query = functools.cache(rule.parse_conjunctive_query)

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


# ---------------------------------------------------------------------------------------------
# TextWorld
# ---------------------------------------------------------------------------------------------


# The title in block letters that opens a game, and the status line the interpreter appends.
_TITLE = re.compile(r"-= .*? =-")
_DECORATION = re.compile(r"\A(?:[\s_$\\|/>]*\n)+|\n*>[^\n]*\Z")


class TextworldEngine:
    """A game file that TextWorld plays, such as ``tw-make`` produces."""

    def __init__(self, game: str):
        textworld = _load("textworld")
        request = textworld.EnvInfos(
            won=True,
            lost=True,
            admissible_commands=True,
            objective=True,
            score=True,
            description=True,
            inventory=True,
        )
        self._environment = textworld.start(game, request)
        self._score = 0.0
        self._describe = False

    def reset(self, seed: int, describe: bool) -> dict[str, Any]:
        self._environment.seed(seed)
        self._score = 0.0
        self._describe = describe
        return self._read(self._environment.reset(), False)

    def step(self, command: str) -> dict[str, Any]:
        state, _, done = self._environment.step(command)
        return self._read(state, done)

    def _read(self, state: Any, done: bool) -> dict[str, Any]:
        gained, self._score = (state.score or 0.0) - self._score, state.score or 0.0
        return _answer(
            (state.objective or "").strip(),
            self._seen(state),
            list(state.admissible_commands or ()),
            gained,
            won=state.won or False,
            terminated=done or state.won or state.lost or False,
        )

    def _seen(self, state: Any) -> str:
        if not self._describe:
            return _DECORATION.sub("", state.feedback).strip()
        return " ".join(f"{_TITLE.sub('', state.description)} {state.inventory}".split())


# ---------------------------------------------------------------------------------------------
# Gymnasium
# ---------------------------------------------------------------------------------------------


class GymnasiumEngine:
    """A Gymnasium environment whose observation is text.

    Its actions are either text, said as they are, or numbered; then the commands are the names
    the environment gives them. ``info`` may hold "task", "admissible_commands" and "won".
    """

    def __init__(self, game: str):
        gymnasium = _load("gymnasium")
        self._environment = gymnasium.make(game)
        spaces = gymnasium.spaces
        if not isinstance(self._environment.observation_space, spaces.Text):
            raise ValueError(
                f"its observation is {self._environment.observation_space}, not text; "
                "wrap it so that its observation_space is gymnasium.spaces.Text"
            )
        actions = self._environment.action_space
        if isinstance(actions, spaces.Discrete):
            meanings = getattr(self._environment.unwrapped, "get_action_meanings", None)
            numbers = range(int(actions.start), int(actions.start + actions.n))
            self._names = list(meanings()) if meanings else [str(number) for number in numbers]
            self._numbers = dict(zip(self._names, numbers, strict=True))
        elif isinstance(actions, spaces.Text):
            self._names, self._numbers = [], None
        else:
            raise ValueError(f"its actions are {actions}; only Text and Discrete can be said")
        self._task = ""

    def reset(self, seed: int, describe: bool) -> dict[str, Any]:
        del describe  # it has one text only
        observation, info = self._environment.reset(seed=seed)
        self._task = str(info.get("task", ""))
        return self._read(observation, info)

    def step(self, command: str) -> dict[str, Any]:
        action = command if self._numbers is None else self._numbers[command]
        observation, reward, terminated, truncated, info = self._environment.step(action)
        return self._read(observation, info, float(reward), terminated, truncated)

    def _read(
        self,
        observation: Any,
        info: dict[str, Any],
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> dict[str, Any]:
        return _answer(
            self._task,
            str(observation).strip(),
            [str(command) for command in info.get("admissible_commands", self._names)],
            reward,
            won=info.get("won", False),
            terminated=terminated,
            truncated=truncated,
        )


# ---------------------------------------------------------------------------------------------
# The process
# ---------------------------------------------------------------------------------------------

GYMNASIUM = "gymnasium:"


def open_engine(game: str) -> Engine:
    """Opens the engine that a game's name calls for."""
    if game.startswith(GYMNASIUM):
        return GymnasiumEngine(game.removeprefix(GYMNASIUM))
    if game.endswith(".tw-pddl"):
        return AlfworldEngine(game)
    return TextworldEngine(game)


def _identity(game: str) -> tuple[Any, ...]:
    """The game's name and, of a file, which version of it; another one must be opened anew."""
    if game.startswith(GYMNASIUM):
        return (game,)
    status = os.stat(game)
    return game, status.st_mtime_ns, status.st_size


def serve() -> None:
    """Answers requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    opened, engine = None, None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "step" in request:
                assert engine is not None
                answer = engine.step(request["step"])
            else:
                game = _identity(request["reset"])
                if game != opened:
                    opened, engine = None, open_engine(request["reset"])
                    opened = game
                assert engine is not None
                answer = engine.reset(request["seed"], request["describe"])
        # The translator leaves by SystemExit when a problem is malformed.
        except (Exception, SystemExit) as error:
            opened, engine = None, None
            answer = {"error": f"{error} ({type(error).__name__})"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
