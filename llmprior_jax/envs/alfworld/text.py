"""What ALFWorld tells a player: views put into the words of the game's own grammar."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from llmprior_jax.envs.alfworld.arrays import (
    Layout,
    Tables,
    Verb,
    View,
    command_words,
    has_bit,
    list_bits,
    read_command,
)
from llmprior_jax.envs.alfworld.game_files import Game
from llmprior_jax.envs.alfworld.grammar import Bindings
from llmprior_jax.envs.alfworld.pddl import CHANGING, MARKS, Fact
from llmprior_jax.types import TextState

# The name of each verb's action in PDDL.
_ACTIONS: dict[int, str] = {
    Verb.LOOK: "look",
    Verb.INVENTORY: "inventory",
    Verb.HELP: "help",
    Verb.EXAMINE_OBJECT: "examineobject",
    Verb.GO: "gotolocation",
    Verb.EXAMINE_RECEPTACLE: "examinereceptacle",
    Verb.OPEN: "openobject",
    Verb.CLOSE: "closeobject",
    Verb.TAKE: "pickupobject",
    Verb.USE: "toggleobject",
    Verb.SLICE: "sliceobject",
    Verb.MOVE: "putobject",
    Verb.CLEAN: "cleanobject",
    Verb.HEAT: "heatobject",
    Verb.COOL: "coolobject",
}


class Storyteller:
    """Puts the views of one game into words.

    Args:
      game: the game.
      tables: the tables of all games, as NumPy arrays.
      layout: what `command_layout` returns for them.
    """

    def __init__(self, game: Game, tables: Tables, layout: Layout):
        self._game = game
        self._tables = tables
        self._layout = layout
        self._no_receptacle = tables.contents.shape[1]
        self._commands: dict[tuple[Any, ...], str] = {}
        self._intro = game.grammar.phrase("#intro#")

    def tell(self, view: View) -> TextState:
        """Puts a view into words.

        Args:
          view: a view of this game, of NumPy arrays.

        Returns:
          The task, what the engine says after the last command, and the commands admitted now.

        Raises:
          ValueError: if there is no such view, or the grammar asks what no view tells.
        """
        game, scene = self._game, _Scene(self._game, self._tables, view)
        if view.verb == Verb.START:
            phrase, bindings = self._intro, {}
        else:
            command = int(view.verb), int(view.object), int(view.receptacle)
            phrase = game.grammar.actions[_ACTIONS[command[0]]].feedback
            bindings = self._bindings(view, *command)
        return TextState(
            task=game.task,
            observation=game.grammar.render(phrase, bindings, scene, game.entities),
            actions=tuple(self._tell_commands(view, scene)),
        )

    def _tell_commands(self, view: View, scene: "_Scene") -> Iterator[str]:
        word, bit = divmod(list_bits(command_words(np, self._tables, view)), 32)
        commands = read_command(np, self._tables, self._layout, view, word, bit)
        for verb, thing, receptacle in zip(*(column.tolist() for column in commands), strict=True):
            # A command without a receptacle may name what is here or is held instead.
            key = verb, thing, receptacle
            if receptacle == self._no_receptacle:
                key += int(view.place), int(view.held)
            if key not in self._commands:
                grammar = self._game.grammar
                self._commands[key] = grammar.render(
                    grammar.actions[_ACTIONS[verb]].command,
                    self._bindings(view, verb, thing, receptacle),
                    scene,
                    self._game.entities,
                )
            yield self._commands[key]

    def _bindings(self, view: View, verb: int, thing: int, receptacle: int) -> Bindings:
        """What the parameters of an action stand for; None for what a view does not tell."""
        game = self._game
        roles: dict[str, str | None] = {"a": game.agent, "l": game.places[view.place]}
        if thing < len(game.objects):
            roles["o"] = roles["co"] = game.objects[thing]
        if view.held < len(game.objects):
            roles["ko"] = game.objects[view.held]
        if receptacle < len(game.receptacles):
            roles["r"] = game.receptacles[receptacle]
            roles["lend"] = game.places[self._tables.place_of[view.game, receptacle]]
        return {
            placeholder: roles.get(placeholder[0]) for placeholder in game.actions[_ACTIONS[verb]]
        }


class _Scene:
    """The facts that a view tells, in TextWorld's order."""

    def __init__(self, game: Game, tables: Tables, view: View):
        self._game = game
        self._view = view
        self._place = game.places[view.place]
        self._openable = game.having("openable")
        self._here: dict[str, int] = {}  # receptacles and their slots
        self._opened: set[str] = set()
        for slot, receptacle in enumerate(tables.slots[view.game, view.place]):
            if receptacle < len(game.receptacles):
                self._here[game.receptacles[receptacle]] = slot
                if has_bit(view.opened, receptacle):
                    self._opened.add(game.receptacles[receptacle])

    def __call__(self, predicate: str, arguments: tuple[str | None, ...]) -> list[Fact]:
        facts = self._facts(predicate, arguments)
        return [
            fact
            for fact in facts
            if len(fact) == len(arguments)
            and all(want in (None, have) for want, have in zip(arguments, fact, strict=True))
        ]

    def _facts(self, predicate: str, arguments: tuple[str | None, ...]) -> Iterable[Fact]:
        """All facts of the predicate that a view tells; at least those that match."""
        game, view = self._game, self._view
        holds = view.held < len(game.objects)
        match predicate, *arguments:
            case "atlocation", *_:
                return [(game.agent, self._place)]
            case "holds", *_:
                return [(game.agent, game.objects[view.held])] if holds else []
            case "holdsany", *_:
                return [(game.agent,)] if holds else []
            case "opened", str() as receptacle if receptacle in self._here:
                return [(receptacle,)] if receptacle in self._opened else []
            case "inreceptacle", _, str() as receptacle if self._shows(receptacle):
                return self._pairs(view.shown, receptacle)
            case "objectatlocation", *_:
                things = np.bitwise_or.reduce(view.displaced, axis=0, initial=0)
                return [(game.objects[index], self._place) for index in list_bits(things)]
            case "not_inreceptacle", _, str() as receptacle if receptacle in self._here:
                return self._pairs(view.displaced, receptacle) if len(view.displaced) else []
            case mark, str() as thing if mark in MARKS and self._is_object(thing):
                return [(thing,)] if view.marked >> MARKS.index(mark) & 1 else []
            case _:
                pass
        if predicate in CHANGING or predicate == "not_inreceptacle":
            raise ValueError(
                f"the grammar asks whether {predicate} holds for "
                f"{', '.join(str(argument) for argument in arguments)}, which no observation tells"
            )
        return game.facts.get(predicate, ())

    def _shows(self, receptacle: str) -> bool:
        """Whether one can see what is in a receptacle."""
        return receptacle in self._here and (
            receptacle not in self._openable or receptacle in self._opened
        )

    def _is_object(self, thing: str) -> bool:
        """Whether a thing is the object of the last command."""
        index = self._view.object
        return index < len(self._game.objects) and thing == self._game.objects[index]

    def _pairs(self, rows: np.ndarray, receptacle: str) -> list[Fact]:
        things = list_bits(rows[self._here[receptacle]])
        return [(self._game.objects[index], receptacle) for index in things]
