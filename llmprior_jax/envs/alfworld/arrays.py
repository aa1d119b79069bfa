"""ALFWorld's games as arrays: what never changes in them, and which commands a state admits.

Sets of objects and of receptacles are bit sets, 32 to a uint32, in the order of `Game.objects` and
`Game.receptacles`. The index after the last one stands for none, and its bit is always 0. All games
of an environment are padded to the largest.
"""

import enum
import math
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import struct

from llmprior_jax.envs.alfworld.game_files import Game
from llmprior_jax.envs.alfworld.pddl import MARKS

Array = Any  # of NumPy on the host, of JAX on the device


class Verb(enum.IntEnum):
    """What a command does; the first is no command but the start of an episode."""

    START = 0
    LOOK = 1
    INVENTORY = 2
    HELP = 3
    EXAMINE_OBJECT = 4
    GO = 5
    EXAMINE_RECEPTACLE = 6
    OPEN = 7
    CLOSE = 8
    TAKE = 9
    USE = 10
    SLICE = 11
    MOVE = 12
    CLEAN = 13
    HEAT = 14
    COOL = 15


@struct.dataclass
class Tables:
    """What is fixed in each of G games with up to O objects, R receptacles and P places.

    A place is where the agent starts or where receptacles are, up to L of them. W words hold the
    bits of the objects, V words those of the receptacles.

    Attributes:
      contents: u32[G, R, W], what is in each receptacle at the start.
      opened: u32[G, V], the receptacles that are open at the start.
      marks: u32[G, 5, W], the objects that bear each of `MARKS` at the start.
      lying: u32[G, P, W], the objects that PDDL says are at each place at the start.
      place_of: i32[G, R], where each receptacle is.
      slots: i32[G, P, L], the receptacles at each place.
      here: u32[G, P, V], the same as bits.
      destinations: u32[G, V], the receptacles that one can go to.
      openable: u32[G, V].
      accepts: u32[G, O + 1, V], the receptacles that each object can be put into.
      treats: u32[G, O + 1, 3, V], the receptacles that clean, heat and cool each object.
      pickupable: u32[G, W].
      toggleable: u32[G, W].
      sliceable: u32[G, W].
      knives: u32[G, W].
      talk: u32[G], the bits of looking, taking inventory and asking for help, where there are such.
      goal_count: i32[G], how many objects must be in one receptacle.
      goal_objects: u32[G, W], the objects that count.
      goal_forgoes: u32[G, 5, W], all ones for each of `MARKS` that they need not bear.
      goal_receptacles: bool[G, R], the receptacles that count.
      goal_holds: bool[G], whether one of `goal_held` must be held.
      goal_held: u32[G, W].
      goal_lights: bool[G], whether one of `goal_lit` must be here and must have been switched on.
      goal_lit: u32[G, W].
    """

    contents: Array
    opened: Array
    marks: Array
    lying: Array
    place_of: Array
    slots: Array
    here: Array
    destinations: Array
    openable: Array
    accepts: Array
    treats: Array
    pickupable: Array
    toggleable: Array
    sliceable: Array
    knives: Array
    talk: Array
    goal_count: Array
    goal_objects: Array
    goal_forgoes: Array
    goal_receptacles: Array
    goal_holds: Array
    goal_held: Array
    goal_lights: Array
    goal_lit: Array


class Sizes(NamedTuple):
    """The sizes of the largest games; see `Tables`."""

    objects: int
    receptacles: int
    places: int
    slots: int

    @property
    def object_words(self) -> int:
        """W."""
        return math.ceil((self.objects + 1) / 32)

    @property
    def receptacle_words(self) -> int:
        """V."""
        return math.ceil((self.receptacles + 1) / 32)


class View(NamedTuple):
    """All that text and admissible commands depend on; what an observation is made of.

    Attributes:
      game: i32[], the index of the game.
      verb: i32[], the `Verb` of the last command.
      object: i32[], its object.
      receptacle: i32[], its receptacle.
      place: i32[], where the agent is.
      held: i32[], the object it holds.
      marked: i32[], a bit for each of `MARKS` that the object of the last command bears.
      opened: u32[V], the receptacles here that are open.
      shown: u32[L, W], what is in each receptacle here, if that can be seen or switched on or off.
      cuttable: u32[W], the objects here that can be sliced with what is held.
      displaced: u32[L, W], the objects that PDDL says are here after they were taken out of each
        receptacle here. L = 0 where no two receptacles share a place, which rules that out.
    """

    game: Array
    verb: Array
    object: Array
    receptacle: Array
    place: Array
    held: Array
    marked: Array
    opened: Array
    shown: Array
    cuttable: Array
    displaced: Array


class Layout(NamedTuple):
    """What the K words of `command_words` stand for.

    The bits of the first word are the verbs from `Verb.LOOK` on. A bit of another word stands for
    its verb with one thing.

    Attributes:
      verb: i32[K], the `Verb`.
      base: i32[K], the index of the object or receptacle of the first bit.
      slot: i32[K], the slot of the receptacle that is taken from, otherwise 0.
    """

    verb: np.ndarray
    base: np.ndarray
    slot: np.ndarray


def measure(games: Sequence[Game]) -> Sizes:
    """Returns the sizes of the largest games."""
    return Sizes(
        objects=max(len(game.objects) for game in games),
        receptacles=max(len(game.receptacles) for game in games),
        places=max(len(game.places) for game in games),
        slots=max(1, *(len(slots) for game in games for slots in _slots(game))),
    )


def tabulate(games: Sequence[Game], sizes: Sizes) -> Tables:
    """Returns the tables of some games, as NumPy arrays."""
    tables = [_tabulate(game, sizes) for game in games]
    return jax.tree.map(lambda *rows: np.stack(rows), *tables)


def count_commands(game: Game) -> int:
    """Returns a bound on how many commands any state of the game admits.

    Objects can pile up: any number fits where one fits. But each can be in only as many receptacles
    as it was in at the start, or in one.
    """
    pickupable, toggleable = game.having("pickupable"), game.having("toggleable")
    sliceable, knives = game.having("sliceable"), _knives(game)
    accepts, treats = _accepts(game), _treats(game)
    starts: dict[str, set[str]] = {name: set() for name in game.objects}
    for thing, receptacle in game.facts["inreceptacle"]:
        starts[thing].add(receptacle)
    reaches = {
        name: starts[name] | (accepts[name] if name in pickupable else set())
        for name in game.objects
    }
    lying = {name: set() for name in game.objects}
    for thing, place in game.facts["objectatlocation"]:
        if thing in lying:
            lying[thing].add(place)
    destinations = sum(game.place_of(r) in game.places for r in game.receptacles)
    always = sum(action in game.actions for action in ("look", "inventory", "help"))

    most = 0
    for place, slots in zip(game.places, map(set, _slots(game)), strict=True):
        # Going elsewhere or examining what is here: together as many as there are destinations.
        common = always + destinations + len(slots & game.having("openable"))
        common += sum(bool(reaches[name] & slots) for name in toggleable & reaches.keys())
        takes = sum(
            min(max(1, len(starts[name])), len(reaches[name] & slots))
            for name in pickupable & reaches.keys()
        )
        cuts = sum(
            place in lying[name] or bool(accepts[name] & slots) for name in sliceable & lying.keys()
        )
        for name in pickupable & reaches.keys():
            uses = 1 + len(accepts[name] & slots) + sum(len(t[name] & slots) for t in treats)
            most = max(most, common + uses + cuts * (name in knives))
        most = max(most, common + takes)
    return most


def command_layout(sizes: Sizes) -> Layout:
    """Returns what the bits of `command_words` stand for."""
    things, places = range(sizes.object_words), range(sizes.receptacle_words)
    rows = [(Verb.LOOK, 0, 0)]
    rows += [
        (verb, 32 * word, 0)
        for verb in (Verb.GO, Verb.EXAMINE_RECEPTACLE, Verb.OPEN, Verb.CLOSE)
        for word in places
    ]
    rows += [(Verb.TAKE, 32 * word, slot) for slot in range(sizes.slots) for word in things]
    rows += [(verb, 32 * word, 0) for verb in (Verb.USE, Verb.SLICE) for word in things]
    rows += [
        (verb, 32 * word, 0)
        for verb in (Verb.MOVE, Verb.CLEAN, Verb.HEAT, Verb.COOL)
        for word in places
    ]
    return Layout(*np.array(rows, np.int32).T)


def command_words(np_: ModuleType, tables: Tables, view: View) -> Array:
    """Returns the admissible commands as bits: u32[K], laid out as `command_layout` says.

    Args:
      np_: `numpy` or `jax.numpy`, whichever the arrays are of.
      tables: the games.
      view: the state.
    """
    game, place, held = view.game, view.place, view.held
    none = tables.accepts.shape[1] - 1
    here = tables.here[game, place]
    openable = here & tables.openable[game]
    accessible = here & (~openable | view.opened)
    slots = tables.slots[game, place]
    can_take = (held == none) & (has_bit(accessible, slots) != 0)
    take = np_.where(can_take[:, None], view.shown & tables.pickupable[game], np_.uint32(0))
    use = view.shown[0]
    for shown in view.shown[1:]:
        use = use | shown
    examine = np_.where(held != none, 1 << (Verb.EXAMINE_OBJECT - Verb.LOOK), 0)
    talk = tables.talk[game] | examine.astype(np_.uint32)
    return np_.concatenate(
        [
            talk[None],
            tables.destinations[game] & ~here,
            here,
            openable & ~view.opened,
            openable & view.opened,
            take.ravel(),
            use & tables.toggleable[game],
            view.cuttable,
            accessible & tables.accepts[game, held],
            (here & tables.treats[game, held]).ravel(),
        ]
    )


def read_command(
    np_: ModuleType, tables: Tables, layout: Layout, view: View, word: Array, bit: Array
) -> tuple[Array, Array, Array]:
    """Returns verb, object and receptacle of the command that a bit stands for.

    Args:
      np_: `numpy` or `jax.numpy`, whichever the arrays are of.
      tables: the games.
      layout: what the words stand for.
      view: the state.
      word: i32[...], which of the words of `command_words`.
      bit: i32[...], which of its bits.

    Returns:
      i32[...] each.
    """
    no_object, no_receptacle = tables.accepts.shape[1] - 1, tables.contents.shape[1]
    verbs, bases, slots = (np_.asarray(column)[word] for column in layout)
    verb, index = np_.where(word == 0, Verb.LOOK + bit, verbs), bases + bit
    takes = verb == Verb.TAKE
    on_object = takes | (verb == Verb.USE) | (verb == Verb.SLICE)
    on_held = (verb == Verb.EXAMINE_OBJECT) | (verb >= Verb.MOVE)
    on_receptacle = ((verb >= Verb.GO) & (verb <= Verb.CLOSE)) | (verb >= Verb.MOVE)
    thing = np_.where(on_object, index, np_.where(on_held, view.held, no_object))
    receptacle = np_.where(on_receptacle, index, no_receptacle)
    receptacle = np_.where(takes, tables.slots[view.game, view.place, slots], receptacle)
    return verb, thing, receptacle


def has_bit(words: Array, index: Array) -> Array:
    """Returns whether `index` is in the bit set `words`, as 0 or 1 of uint32."""
    return (words[..., index >> 5] >> (index & 31).astype(words.dtype)) & 1


def list_bits(words: np.ndarray) -> np.ndarray:
    """Returns the indices that are in a bit set, in order (host side)."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


def _tabulate(game: Game, sizes: Sizes) -> Tables:
    W, V = sizes.object_words, sizes.receptacle_words
    things = {name: index for index, name in enumerate(game.objects)}
    receptacles = {name: index for index, name in enumerate(game.receptacles)}
    places = {name: index for index, name in enumerate(game.places)}
    slots = _slots(game)
    accepts, treats, goal = _accepts(game), _treats(game), game.goal

    def bits(names: Iterable[str], index: dict[str, int], words: int) -> np.ndarray:
        word = np.zeros(words, np.uint32)
        for name in names:
            if name in index:
                word[index[name] // 32] |= np.uint32(1 << index[name] % 32)
        return word

    def objects(names: Iterable[str]) -> np.ndarray:
        return bits(names, things, W)

    contents = np.zeros((sizes.receptacles, W), np.uint32)
    lying = np.zeros((sizes.places, W), np.uint32)
    for table, rows, predicate in (
        (contents, receptacles, "inreceptacle"),
        (lying, places, "objectatlocation"),
    ):
        for name, row in rows.items():
            table[row] = objects(a for a, b in game.facts[predicate] if b == name)

    place_of = np.zeros(sizes.receptacles, np.int32)
    here = np.zeros((sizes.places, V), np.uint32)
    slot_table = np.full((sizes.places, sizes.slots), sizes.receptacles, np.int32)
    for place, names in enumerate(slots):
        here[place] = bits(names, receptacles, V)
        for slot, name in enumerate(names):
            slot_table[place, slot] = receptacles[name]
            place_of[receptacles[name]] = place

    accept_table = np.zeros((sizes.objects + 1, V), np.uint32)
    treat_table = np.zeros((sizes.objects + 1, 3, V), np.uint32)
    for name, index in things.items():
        accept_table[index] = bits(accepts[name], receptacles, V)
        treat_table[index] = [bits(t[name], receptacles, V) for t in treats]

    goal_receptacles = np.zeros(sizes.receptacles, bool)
    for name in goal.receptacles:
        goal_receptacles[receptacles[name]] = True
    forgoes = [[0 if mark in goal.marks else 0xFFFFFFFF] * W for mark in MARKS]
    talk = [
        1 << (verb - Verb.LOOK)
        for verb in (Verb.LOOK, Verb.INVENTORY, Verb.HELP)
        if verb.name.lower() in game.actions
    ]
    return Tables(
        contents=contents,
        opened=bits(game.having("opened"), receptacles, V),
        marks=np.stack([objects(game.having(mark)) for mark in MARKS]),
        lying=lying,
        place_of=place_of,
        slots=slot_table,
        here=here,
        destinations=bits((name for names in slots for name in names), receptacles, V),
        openable=bits(game.having("openable"), receptacles, V),
        accepts=accept_table,
        treats=treat_table,
        pickupable=objects(game.having("pickupable")),
        toggleable=objects(game.having("toggleable")),
        sliceable=objects(game.having("sliceable")),
        knives=objects(_knives(game)),
        talk=np.uint32(sum(talk)),
        goal_count=np.int32(goal.count),
        goal_objects=objects(goal.objects),
        goal_forgoes=np.array(forgoes, np.uint32),
        goal_receptacles=goal_receptacles,
        goal_holds=np.bool_(goal.held is not None),
        goal_held=objects(goal.held or ()),
        goal_lights=np.bool_(goal.lit is not None),
        goal_lit=objects(goal.lit or ()),
    )


def _slots(game: Game) -> list[list[str]]:
    """The receptacles at each place."""
    at: dict[str, list[str]] = {place: [] for place in game.places}
    for receptacle, place in game.facts["receptacleatlocation"]:
        at[place].append(receptacle)
    return list(at.values())


def _knives(game: Game) -> frozenset[str]:
    return _of_type(game, "objecttype", "knifetype", "butterknifetype")


def _of_type(game: Game, predicate: str, *types: str) -> frozenset[str]:
    return frozenset(name for name, type_ in game.facts.get(predicate, ()) if type_ in types)


def _accepts(game: Game) -> dict[str, set[str]]:
    """The receptacles that each object can be put into, once they are open."""
    fits = {name: set() for name in game.objects}
    kinds = set(game.facts.get("cancontain", ()))
    for name, kind in game.facts.get("objecttype", ()):
        if name in fits:
            fits[name].update(
                receptacle
                for receptacle, receptacle_kind in game.facts.get("receptacletype", ())
                if (receptacle_kind, kind) in kinds
            )
    return fits


def _treats(game: Game) -> list[dict[str, frozenset[str]]]:
    """The receptacles in which each object can be cleaned, heated and cooled."""
    treats = []
    for ability, kind in (
        ("cleanable", "sinkbasintype"),
        ("heatable", "microwavetype"),
        ("coolable", "fridgetype"),
    ):
        able, where = game.having(ability), _of_type(game, "receptacletype", kind)
        treats.append({name: where if name in able else frozenset() for name in game.objects})
    return treats
