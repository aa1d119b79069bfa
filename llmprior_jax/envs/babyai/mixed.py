"""GLAM's mixed levels: missions of five kinds in one room, or before the locked door of another.

They are those of "Grounding Large Language Models in Interactive Environments with Online
Reinforcement Learning" (Carta et al., ICML 2023, arXiv 2302.02662). Some things are never named in
training: yellow boxes, red keys, green balls, and red and grey doors. The level for testing names
these, and nothing else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmprior_jax.envs.babyai import missions, tiles
from llmprior_jax.envs.babyai.dice import Dice
from llmprior_jax.envs.babyai.levels import (
    Draw,
    Level,
    any_things,
    are_next,
    before,
    begin,
    describe,
    describe_like,
)
from llmprior_jax.envs.babyai.missions import Description, Mission, Verb
from llmprior_jax.envs.babyai.rooms import Rooms, Things, all_reachable, place_agent, put

_ROOMS = Rooms(8, columns=2)

# The kinds of missions, which all come equally often, and how many things there are, beside the key
# of a locked door.
_VERBS = np.array([Verb.GO_TO, Verb.PICK_UP, Verb.OPEN, Verb.PUT_NEXT_TO, Verb.PICK_UP_THEN_GO_TO])
_NUM_THINGS = np.array([9, 9, 8, 10, 10])
_MOST_THINGS = int(_NUM_THINGS.max())

_COLOR = {color: index for index, color in enumerate(tiles.COLORS)}
_TRAIN_DOORS = [_COLOR[color] for color in ("yellow", "green", "blue", "purple")]
_TEST_DOORS = [_COLOR[color] for color in ("red", "grey")]
# What training never names, by kind and color; the last color is any.
_UNSEEN = np.zeros((len(missions.KINDS), len(tiles.COLORS) + 1), bool)
for _kind, _color in (("box", "yellow"), ("key", "red"), ("ball", "green")):
    _UNSEEN[missions.KINDS.index(_kind), _COLOR[_color]] = True
_UNSEEN[missions.DOOR, _TEST_DOORS] = True


class _Scene(NamedTuple):
    """A room with things.

    Attributes:
      grid: u16[C], its tiles.
      position: i32[], where the agent is.
      direction: i32[], where it looks.
      things: the things in it.
      door: i32[], the color of the locked door, where there is one.
      fit: bool[], whether there was room for all things.
    """

    grid: jax.Array
    position: jax.Array
    direction: jax.Array
    things: Things
    door: jax.Array
    fit: jax.Array


def mixed_levels() -> dict[str, Level]:
    """The mixed levels, by their names."""
    return {"MixedTrainLocal": _mixed(unseen=False), "MixedTestLocal": _mixed(unseen=True)}


def _mixed(unseen: bool) -> Level:
    """The level whose missions name what training never names, or never do."""

    def attempt(key: jax.Array, number: jax.Array) -> tuple[Draw, jax.Array]:
        # The kind of mission is the same in all attempts: some kinds fail more often than others.
        kind = Dice(key).roll(len(_VERBS), 1)[0]
        dice = Dice(jax.random.fold_in(key, number + 1))
        scene = _draw_scene(dice, kind, _TEST_DOORS if unseen else _TRAIN_DOORS)
        mission = _draw_mission(dice, kind, scene, any_door=not unseen)
        draw = begin(scene.grid, scene.position, scene.direction, mission)
        valid = scene.fit & all_reachable(_ROOMS, scene.grid, scene.position)
        return draw, valid & _may_be(mission, unseen) & ~_is_done(mission, draw.cells)

    one_room = _ROOMS.size**2
    limits = [one_room * (2 if verb in (*missions.TWO, Verb.OPEN) else 1) for verb in Verb]
    return Level(_ROOMS, tuple(limits), attempt)


def _draw_scene(dice: Dice, kind: jax.Array, door_colors: list[int]) -> _Scene:
    """One room, or two with a locked door between them, one of them empty."""
    opens = jnp.asarray(_VERBS)[kind] == Verb.OPEN
    room = jnp.where(opens, dice.roll(_ROOMS.count, 1)[0], 0)
    here = _ROOMS.room_of == room
    door = jnp.asarray(door_colors)[dice.roll(len(door_colors), 1)[0]]
    doorways = jnp.asarray(_ROOMS.doorways[0])
    doorway = doorways[dice.roll(doorways.shape[0], 1)[0]]
    locked = tiles.tile_of(tiles.LOCKED, door).astype(tiles.Cell)
    grid = _ROOMS.empty()
    grid = grid.at[doorway].set(jnp.where(opens, locked, tiles.WALL))

    # Before a locked door the agent comes last; until then BabyAI has it in the middle of things.
    first = _ROOMS.place_agent_first(dice, rooms=1)
    clear = _ROOMS.far_from(jnp.where(opens, _ROOMS.middle, first[0]))
    things = any_things(dice, _ROOMS, _MOST_THINGS)
    exists = jnp.arange(_MOST_THINGS) < jnp.asarray(_NUM_THINGS)[kind]
    things = things._replace(room=jnp.full_like(things.room, room), exists=exists)
    with_key = before(tiles.tile_of(tiles.KEY, door), room, things)
    with_key = with_key._replace(exists=with_key.exists.at[0].set(opens))
    grid, fit = put(dice, _ROOMS, grid, clear, with_key)
    last = place_agent(dice, _ROOMS, grid, here)
    position, direction = (jnp.where(opens, b, a) for a, b in zip(first, last, strict=True))
    return _Scene(grid, position, direction, things, door, fit)


def _draw_mission(dice: Dice, kind: jax.Array, scene: _Scene, any_door: bool) -> Mission:
    """A mission of a kind: about the door, or about one or two of the things.

    Args:
      dice: random decisions.
      kind: i32[], which of `_VERBS`.
      scene: what there is.
      any_door: whether every other mission about the door leaves out its color.
    """
    verb = jnp.asarray(_VERBS)[kind]
    says_color, tells_late = dice.roll(2, 2) == 1
    color = jnp.where(says_color | (not any_door), scene.door, missions.ANY_COLOR)
    door = describe(scene.grid, missions.DOOR, color)
    # All things are alike in how they were drawn. The second is another one, and one that looks
    # otherwise if the first is the only one that looks as it does.
    tile, exists = scene.things.tile, scene.things.exists
    alike = exists & (tile == tile[0])
    other = tile[dice.choose(exists & ~(alike & (alike.sum() == 1)))]
    first, second = (describe_like(scene.grid, each) for each in (tile[0], other))
    first = _either(verb == Verb.OPEN, door, first)
    verb = jnp.where((verb == Verb.PICK_UP_THEN_GO_TO) & tells_late, Verb.GO_TO_AFTER_PICK_UP, verb)
    second = _either(jnp.isin(verb, np.array(missions.TWO)), second, missions.NOTHING)
    return Mission(verb, first, second)


def _either(condition: jax.Array, one: Description, other: Description) -> Description:
    return Description(*(jnp.where(condition, a, b) for a, b in zip(one, other, strict=True)))


def _may_be(mission: Mission, unseen: bool) -> jax.Array:
    """Whether all that a mission names is what training never names, or none of it: bool[]."""
    first, second = (
        jnp.asarray(_UNSEEN)[each.kind, each.color] == unseen
        for each in (mission.first, mission.second)
    )
    return first & (second | ~jnp.isin(mission.verb, np.array(missions.TWO)))


def _is_done(mission: Mission, cells: jax.Array) -> jax.Array:
    """Whether things that are to be put next to each other are already, or are the same: bool[]."""
    first, second = mission.first, mission.second
    same = (first.kind == second.kind) & (first.color == second.color)
    return (mission.verb == Verb.PUT_NEXT_TO) & (same | are_next(_ROOMS, cells))
