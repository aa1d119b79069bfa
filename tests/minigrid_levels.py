"""Our episodes of BabyAI, and GLAM's mixed levels, in minigrid's own engine."""

import itertools
from typing import NamedTuple

import gymnasium
import minigrid  # noqa: F401  # Its levels are registered by importing it.
import numpy as np
from minigrid.core.grid import Grid
from minigrid.core.roomgrid import RoomGrid
from minigrid.core.world_object import Ball, Box, Door, Key, Wall
from minigrid.envs.babyai.core.levelgen import LevelGen
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    BeforeInstr,
    GoToInstr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
    PutNextInstr,
)

COLORS = ("red", "green", "blue", "purple", "yellow", "grey")
SIDES = (None, "left", "right", "front", "behind")
NEVER_TRAINED = {("box", "yellow"), ("key", "red"), ("ball", "green"), ("door", "red")} | {
    ("door", "grey")
}


def thing(tile):
    """The object on a tile of ours, None where there is none."""
    if tile < 2:
        return None
    if tile == 2:
        return Wall()
    kind, color = divmod(tile - 3, 6)
    if kind < 3:
        return (Key, Ball, Box)[kind](COLORS[color])
    return Door(COLORS[color], is_open=kind == 3, is_locked=kind == 5)


def encoded(tile):
    """Object, color and state by which minigrid's observations encode a tile of ours."""
    if tile < 3:
        return (tile, 5 if tile == 2 else 0, 0)
    kind, color = divmod(tile - 3, 6)
    return (5 + kind, color, 0) if kind < 3 else (4, color, kind - 3)


ENCODED = np.array([encoded(tile) for tile in range(39)], np.uint8)
TILES = {tuple(encoded(tile)): tile for tile in range(39)}


class Beginning(NamedTuple):
    """How an episode begins, in our numbers: tiles [height, width], then what `Draw` has."""

    tiles: np.ndarray
    position: tuple[int, int]
    direction: int
    mission: tuple[int, ...]


class Episode(RoomGridLevel):
    """An episode that begins as one of ours does.

    Args:
      cells: the grid, [height, width].
      position: the agent's column and row.
      direction: where it looks.
      mission: the numbers of the mission.
    """

    def __init__(self, cells, position, direction, mission):
        height, width = cells.shape
        super().__init__(room_size=8, num_rows=(height - 1) // 7, num_cols=(width - 1) // 7)
        RoomGrid._gen_grid(self, width, height)
        self.grid = Grid(width, height)
        for row in range(height):
            for column in range(width):
                self.grid.set(column, row, placed := thing(int(cells[row, column]) & 63))
                if placed is not None:
                    placed.cur_pos = placed.init_pos = column, row
        self.agent_pos, self.agent_dir = position, direction
        self.carrying, self.step_count = None, 0
        self.instrs = self._instruction(mission)
        self.instrs.reset_verifier(self)
        # GLAM's missions with one room are told in a grid of two here.
        rooms = self.num_rows * self.num_cols
        if rooms == 2 and not isinstance(self.instrs, OpenInstr):
            rooms = 1
        self.max_steps = 64 * rooms * self.num_navs_needed(self.instrs)

    def _instruction(self, mission):
        verb, *numbers = mission
        descriptions = []
        for kind, color, side, _ in (numbers[:4], numbers[4:]):
            name = ("key", "ball", "box", "door")[kind]
            descriptions.append(ObjDesc(name, (*COLORS, None)[color], SIDES[side]))
        first, second = descriptions
        if verb == 3:
            return PutNextInstr(first, second)
        if verb < 3:
            return (GoToInstr, PickupInstr, OpenInstr)[verb](first)
        if verb == 4:
            return BeforeInstr(PickupInstr(first), GoToInstr(second))
        return AfterInstr(GoToInstr(second), PickupInstr(first))

    def descriptions(self):
        """The descriptions of the mission, the first first."""
        instruction = self.instrs
        if isinstance(instruction, AfterInstr):
            return [instruction.instr_b.desc, instruction.instr_a.desc]
        if isinstance(instruction, BeforeInstr):
            return [instruction.instr_a.desc, instruction.instr_b.desc]
        if isinstance(instruction, PutNextInstr):
            return [instruction.desc_move, instruction.desc_fixed]
        return [instruction.desc]


class Mixed(LevelGen):
    """GLAM's mixed levels, written from their description.

    Args:
      kind: "go to", "pick up", "open", "put next", or "both", which is to pick up and then go to.
      unseen: whether missions name what training never does, and nothing else.
    """

    def __init__(self, kind, unseen):
        self.kind, self.unseen = kind, unseen
        columns = 2 if kind == "open" else 1
        super().__init__(num_rows=1, num_cols=columns, unblocking=False, locked_room_prob=0)

    def gen_mission(self):
        if self.kind == "open":
            self._before_a_locked_door()
        else:
            self._in_one_room()
        self.check_objs_reachable()

    def _before_a_locked_door(self):
        locked, door_color = self._rand_int(0, 2), self._rand_elem(self._door_colors())
        self.add_door(0, 0, 0, door_color, locked=True)
        self.add_object(1 - locked, 0, "key", door_color)
        self.add_distractors(1 - locked, 0, num_distractors=8, all_unique=False)
        self.place_agent(1 - locked, 0)
        color = door_color if self.unseen else self._rand_elem([None, door_color])
        self.instrs = OpenInstr(ObjDesc("door", color))

    def _door_colors(self):
        return ["red", "grey"] if self.unseen else ["yellow", "green", "blue", "purple"]

    def _in_one_room(self):
        self.place_agent()
        number = 9 if self.kind in ("go to", "pick up") else 10
        things = self.add_distractors(num_distractors=number, all_unique=False)
        looks = [(thing.type, thing.color) for thing in things]
        first = self._rand_elem(looks)
        second = self._rand_elem(looks)
        while second == first and looks.count(first) == 1:
            second = self._rand_elem(looks)
        named = {first} if self.kind in ("go to", "pick up") else {first, second}
        if not (named <= NEVER_TRAINED if self.unseen else named.isdisjoint(NEVER_TRAINED)):
            raise RejectSampling("names what it must not")
        one, other = ObjDesc(*first), ObjDesc(*second)
        if self.kind == "go to":
            self.instrs = GoToInstr(one)
        elif self.kind == "pick up":
            self.instrs = PickupInstr(one)
        elif self.kind == "put next":
            self.instrs = PutNextInstr(one, other)
        elif self._rand_bool():
            self.instrs = BeforeInstr(PickupInstr(one), GoToInstr(other))
        else:
            self.instrs = AfterInstr(GoToInstr(other), PickupInstr(one))


def beginnings(level, number, seed, width):
    """How so many of minigrid's own episodes of a level begin, widened with walls."""
    if level.startswith("Mixed"):
        kinds = ("go to", "pick up", "open", "put next", "both")
        games = [Mixed(kind, level == "MixedTestLocal") for kind in kinds]
    else:
        games = [gymnasium.make(f"BabyAI-{level}-v0").unwrapped]
    for index, game in zip(range(number), itertools.cycle(games)):
        game.reset(seed=seed + index)
        tiles = [TILES[tuple(cell)] for column in game.grid.encode().tolist() for cell in column]
        tiles = np.array(tiles).reshape(game.width, game.height).T
        tiles = np.pad(tiles, ((0, 0), (0, width - game.width)), constant_values=2)
        column, row = map(int, game.agent_pos)
        yield Beginning(tiles, (row, column), int(game.agent_dir), _numbers(game.instrs))


def _numbers(instruction):
    """A mission in our numbers."""
    if isinstance(instruction, PutNextInstr):
        return (3, *_describe(instruction.desc_move), *_describe(instruction.desc_fixed))
    if isinstance(instruction, BeforeInstr):
        return (4, *_describe(instruction.instr_a.desc), *_describe(instruction.instr_b.desc))
    if isinstance(instruction, AfterInstr):
        return (5, *_describe(instruction.instr_b.desc), *_describe(instruction.instr_a.desc))
    verb = [GoToInstr, PickupInstr, OpenInstr].index(type(instruction))
    return (verb, *_describe(instruction.desc), 0, 0, 0, 0)


def _describe(description):
    kind = ("key", "ball", "box", "door").index(description.type)
    color = (*COLORS, None).index(description.color)
    return kind, color, SIDES.index(description.loc), int(len(description.obj_set) > 1)
