"""Makes ALFWorld games from what the ``alfworld`` package ships, without any download.

ALFWorld (Shridhar et al., 2021) plays the household tasks of ALFRED (Shridhar et al., 2020) as
text. Its own games were recorded from the AI2-THOR simulator and are distributed as an archive.
The package itself carries everything else: the rules (``alfred.pddl``), the words
(``alfred.twl2``), which things each of the 120 floor plans has, where its furniture stands and
which of it opens, what fits into what, and how each task's goal reads. This module furnishes a
floor plan from those, scatters its things the way the simulator's random spawn does, states the
task, and keeps the game only after the engine's planner has solved it and the solution, played
in the engine, has won. What is written has the official layout and file format, so every
program that reads ALFWorld's games reads these.

Everything is drawn from explicit seeds: same arguments, same bytes.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llmprior_jax.envs.engines import bridge
from llmprior_jax.envs.engines.bridge import GameError

TASK_TYPES: Mapping[str, str] = {
    "pick": "pick_and_place_simple",
    "examine": "look_at_obj_in_light",
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "pick2": "pick_two_obj_and_place",
}
"""Short name of each task -> ALFWorld's name for it."""

SPLITS = ("train", "valid_unseen")

# Where the three tasks that change an object's state do so, and what may undergo it.
_CHANGES = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
}

# How readily things are put down on a kind of furniture, and how many it holds. The proportions
# follow the areas: a counter top holds most of a kitchen, a drawer or a cabinet one or two things.
_ROOM_ON = {
    "CounterTop": (10.0, 24),
    "DiningTable": (10.0, 24),
    "Desk": (9.0, 16),
    "CoffeeTable": (7.0, 12),
    "Dresser": (7.0, 12),
    "SideTable": (5.0, 10),
    "Bed": (5.0, 6),
    "Fridge": (5.0, 10),
    "Sofa": (4.0, 5),
    "Shelf": (3.0, 6),
    "SinkBasin": (3.0, 6),
    "Cart": (3.0, 6),
    "Toilet": (2.0, 3),
    "ArmChair": (2.0, 3),
    "Ottoman": (2.0, 3),
    "GarbageCan": (1.5, 4),
    "StoveBurner": (1.5, 1),
    "Microwave": (1.0, 2),
    "TVStand": (1.0, 2),
    "Drawer": (1.0, 3),
    "Cabinet": (1.0, 3),
    "BathtubBasin": (1.0, 2),
    "Safe": (1.0, 3),
    "LaundryHamper": (1.0, 3),
    "CoffeeMachine": (1.0, 1),
    "TowelHolder": (1.0, 1),
    "HandTowelHolder": (1.0, 1),
    "ToiletPaperHanger": (1.0, 1),
}
# A thing on a piece that holds more than this is reached from the floor nearest to the thing; on
# or in a smaller piece, from where that piece is reached.
_LARGE = 6

# Things that are seen on furniture but cannot be taken, and what they stand on.
_FIXTURES = {
    "DeskLamp": ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf"),
    "FloorLamp": ("SideTable", "CoffeeTable", "Sofa", "ArmChair", "Dresser", "DiningTable"),
    "HousePlant": ("CounterTop", "DiningTable", "SideTable", "CoffeeTable", "Desk", "Shelf"),
    "PaperTowelRoll": ("CounterTop", "DiningTable"),
    "TeddyBear": ("Bed", "Sofa", "ArmChair"),
    "Television": ("TVStand", "Dresser", "SideTable", "CoffeeTable", "DiningTable"),
}

# Furniture that the simulator's record of standing points leaves out comes once, but for these.
_COPIES = {"StoveBurner": 4, "HandTowelHolder": 2}

_GRID = 0.25  # meters between two places to stand
_EYE_HEIGHT = 1.575  # meters
_FEWEST_TARGETS = {"pick_two_obj_and_place": 2}
_HELD_OUT_SHARE = 0.36  # of all pairs of object and receptacle; so many are for unseen games
_ATTEMPTS = 20  # rooms drawn for one game before giving up


@dataclasses.dataclass(frozen=True)
class Task:
    """What a game asks for.

    Attributes:
      task_type: ALFWorld's name of the task, a value of `TASK_TYPES`.
      target: type of the object to bring or look at, such as "Mug".
      receptacle: type of the receptacle to bring it to; of the lamp, in "look_at_obj_in_light".
      plan: number of the floor plan.
    """

    task_type: str
    target: str
    receptacle: str
    plan: int

    @property
    def pair(self) -> tuple[str, str]:
        """What is to be brought where; what training and unseen games never share."""
        return self.target, self.receptacle

    @property
    def directory(self) -> str:
        """Name of the directory that holds this task's trials."""
        return f"{self.task_type}-{self.target}-None-{self.receptacle}-{self.plan}"


@dataclasses.dataclass(frozen=True)
class _Receptacle:
    name: str
    type: str
    position: tuple[float, float, float]
    location: str
    openable: bool


@dataclasses.dataclass(frozen=True)
class _Room:
    plan: int
    kind: str
    things: frozenset[str]
    receptacles: tuple[_Receptacle, ...]
    points: np.ndarray  # f64[P, 2]: where one can stand, in meters

    @functools.cached_property
    def receptacle_types(self) -> frozenset[str]:
        return frozenset(receptacle.type for receptacle in self.receptacles)

    def lamps(self) -> list[str]:
        toggleable = _constants().VAL_ACTION_OBJECTS["Toggleable"]
        return [t for t in sorted(self.things & toggleable) if self.stands_on(t)]

    def stands_on(self, fixture: str) -> list[_Receptacle]:
        return [r for r in self.receptacles if r.type in _FIXTURES[fixture]]


@dataclasses.dataclass(frozen=True)
class _Thing:
    name: str
    type: str
    location: str
    receptacle: _Receptacle | None  # None: part of the scenery
    inside: str | None = None  # the bowl or pot it lies in, if any


def _alfworld(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "Making ALFWorld games needs the alfworld package: pip install 'llmprior-jax[alfworld]'"
            f" ({error})."
        ) from error


def _constants() -> Any:
    return _alfworld("alfworld.gen.constants")


def _package_directory() -> pathlib.Path:
    return pathlib.Path(_alfworld("alfworld").__file__).parent


@functools.cache
def _logic() -> dict[str, str]:
    """The rules and the words that every game file carries, by file name."""
    data = _package_directory() / "data"
    return {name: (data / name).read_text() for name in ("alfred.pddl", "alfred.twl2")}


# ---------------------------------------------------------------------------------------------
# Rooms
# ---------------------------------------------------------------------------------------------


def _name(kind: str, position: Sequence[float], suffix: str = "") -> str:
    """The PDDL name of a thing: type and place, with PDDL's forbidden characters spelled out."""
    raw = "|".join([kind, *(f"{coordinate:+06.2f}" for coordinate in position)]) + suffix
    for character, spelled in (
        ("-", "_minus_"),
        ("|", "_bar_"),
        ("+", "_plus_"),
        (".", "_dot_"),
    ):
        raw = raw.replace(character, spelled)
    return raw


def _location(x: float, z: float, quarter_turns: int, horizon: int) -> str:
    steps = (round(x / _GRID), round(z / _GRID), int(quarter_turns) % 4, int(horizon))
    return "loc_bar_" + "_bar_".join(str(step).replace("-", "_minus_") for step in steps)


def _nearest_location(points: np.ndarray, position: Sequence[float]) -> str:
    """Where to stand, and which way to look, to reach what is at `position`."""
    x, y, z = position
    ahead = np.array([x, z]) - points[np.argmin(np.abs(points - [x, z]).sum(1))]
    stand = np.array([x, z]) - ahead
    east_west = abs(ahead[0]) > abs(ahead[1])
    turns = (1 if ahead[0] > 0 else 3) if east_west else (0 if ahead[1] > 0 else 2)
    tilt = np.degrees(np.arctan2(_EYE_HEIGHT - y, max(np.abs(ahead).max(), _GRID)))
    return _location(stand[0], stand[1], turns, int(np.clip(np.round(tilt / 15) * 15, -30, 60)))


@functools.cache
def _room(plan: int) -> _Room:
    """Furnishes a floor plan; every game in it has this furniture."""
    constants = _constants()
    layouts = _package_directory() / "gen" / "layouts"
    things = frozenset(json.loads((layouts / f"FloorPlan{plan}-objects.json").read_text()))
    recorded = json.loads((layouts / f"FloorPlan{plan}-openable.json").read_text())
    points = np.load(layouts / f"FloorPlan{plan}-layout.npy", allow_pickle=False)
    kinds = constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET

    receptacles = []
    for identity, (stand_x, stand_z, degrees, horizon) in sorted(recorded.items()):
        # Such as Drawer|+00.95|+00.22|-02.20, or Sink|+00.94|+00.94|+02.65|SinkBasin.
        head, x, y, z, *part = identity.split("|")
        position = (float(x), float(y), float(z))
        suffix = "".join(f"|{name}" for name in part)
        kind = part[0] if part else head
        receptacles.append(
            _Receptacle(
                name=_name(head, position, suffix),
                type=kind,
                position=position,
                location=_location(stand_x, stand_z, round(degrees / 90), horizon),
                openable=kind in constants.OPENABLE_CLASS_SET,
            )
        )

    # The record holds only furniture that the simulated agent could reach into. What else the
    # plan is known to have stands along its walls.
    rng = np.random.default_rng([plan, 0])
    taken = {receptacle.name for receptacle in receptacles}
    present = {receptacle.type for receptacle in receptacles}
    for kind in sorted((things & kinds) - present):
        corner = _beside(points, rng)
        for copy in range(_COPIES.get(kind, 1)):
            position = (corner[0] + 0.3 * (copy % 2), 0.9, corner[1] + 0.3 * (copy // 2))
            while _name(kind, position) in taken:
                position = (position[0], position[1] + 0.05, position[2])
            taken.add(_name(kind, position))
            receptacles.append(
                _Receptacle(
                    name=_name(kind, position),
                    type=kind,
                    position=position,
                    location=_nearest_location(points, position),
                    openable=False,
                )
            )
    scene_type = next(kind for kind, plans in constants.SCENE_TYPE.items() if plan in plans)
    return _Room(plan, scene_type, things, tuple(receptacles), points)


def _beside(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place by the wall, half a meter past a standing point at the edge of the room."""
    axis, side = rng.integers(2), rng.choice([-1.0, 1.0])
    outward = points[:, axis] * side
    edge = points[outward >= outward.max() - _GRID / 2]
    place = edge[rng.integers(len(edge))].astype(np.float64).copy()
    place[axis] += 0.5 * side
    return place


# ---------------------------------------------------------------------------------------------
# Tasks
# ---------------------------------------------------------------------------------------------


def is_held_out(target: str, receptacle: str) -> bool:
    """Whether a pair of object and receptacle is asked for in unseen games only.

    A pair is on one side for good, whatever the task, the seed and the number of games, so that
    what is trained on before any game is made can leave out the unseen tasks, too.

    Args:
      target: type of the object, such as "Mug"; upper and lower case are the same.
      receptacle: type of the receptacle, or of the lamp to look at the object with.
    """
    digest = hashlib.sha256(f"{target} {receptacle}".lower().encode()).digest()
    return digest[0] < _HELD_OUT_SHARE * 256


@functools.cache
def _placeable() -> Mapping[str, frozenset[str]]:
    """Object type -> furniture types it can be put in or on; only types one can pick up."""
    constants = _constants()
    homes: dict[str, set[str]] = {}
    for receptacle, fitting in constants.VAL_RECEPTACLE_OBJECTS.items():
        if receptacle in constants.MOVABLE_RECEPTACLES_SET:
            continue
        for kind in fitting:
            if kind in constants.OBJECTS_SET:
                homes.setdefault(kind, set()).add(receptacle)
    return {kind: frozenset(receptacles) for kind, receptacles in homes.items()}


def feasible_tasks(task_type: str, plan: int) -> list[Task]:
    """Every task of a type that a floor plan has the things for, in a fixed order.

    The conditions are those under which ALFRED's tasks were drawn: the room is of a kind the task
    takes place in, the target can be picked up and put there, what is to be cleaned, heated or
    cooled can be, and is not to be put where that happens.

    Args:
      task_type: ALFWorld's name of the task, a value of `TASK_TYPES`.
      plan: number of the floor plan.
    """
    constants = _constants()
    room = _room(plan)
    if room.kind not in constants.GOALS_VALID[task_type]:
        return []
    targets = [
        kind
        for kind in sorted(room.things & _placeable().keys())
        if _placeable()[kind] & room.receptacle_types
    ]
    if task_type == "look_at_obj_in_light":
        return [Task(task_type, target, lamp, plan) for target in targets for lamp in room.lamps()]
    used, able = _CHANGES.get(task_type, (None, None))
    if used is not None:
        if used not in room.receptacle_types:
            return []
        targets = [kind for kind in targets if kind in constants.VAL_ACTION_OBJECTS[able]]
    tasks = []
    for target in targets:
        homes = _placeable()[target] & room.receptacle_types
        for goal in sorted(homes - {used}):
            # The things must start somewhere else than where they are to be brought, or used.
            if _starting_places(room, Task(task_type, target, goal, plan)):
                tasks.append(Task(task_type, target, goal, plan))
    return tasks


def _starting_places(room: _Room, task: Task) -> list[_Receptacle]:
    """The furniture that the target of a task may be found in or on at the start."""
    used, _ = _CHANGES.get(task.task_type, (None, None))
    banned = {used} if used else {task.receptacle}
    homes = _placeable()[task.target] - banned
    return [receptacle for receptacle in room.receptacles if receptacle.type in homes]


# ---------------------------------------------------------------------------------------------
# Games
# ---------------------------------------------------------------------------------------------


def _furnish(room: _Room, task: Task, rng: np.random.Generator) -> list[_Thing] | None:
    """Scatters a room's things; None if the ones the task needs found no place."""
    constants = _constants()
    free = {
        receptacle.name: _ROOM_ON[receptacle.type][1]
        for receptacle in room.receptacles
        if receptacle.type in _ROOM_ON
    }
    things: list[_Thing] = []
    taken: set[str] = set()

    def place(kind: str, places: Sequence[_Receptacle]) -> bool:
        places = [receptacle for receptacle in places if free.get(receptacle.name, 0) > 0]
        if not places:
            return False
        weights = np.array([_ROOM_ON[receptacle.type][0] for receptacle in places])
        home = places[rng.choice(len(places), p=weights / weights.sum())]
        free[home.name] -= 1
        reach = 0.1 if _ROOM_ON[home.type][1] <= _LARGE else 0.6
        while True:
            offset = rng.uniform(-reach, reach, 3) * [1.0, 0.1, 1.0]
            position = tuple(np.round(np.add(home.position, offset), 2))
            name = _name(kind, position)
            if name not in taken:
                break
        taken.add(name)
        large = _ROOM_ON[home.type][1] > _LARGE and not home.openable
        location = _nearest_location(room.points, position) if large else home.location
        things.append(_Thing(name, kind, location, home))
        return True

    fewest = _FEWEST_TARGETS.get(task.task_type, 1)
    count = int(rng.integers(fewest, constants.PICKUP_REPEAT_MAX + 1))
    placed = sum(place(task.target, _starting_places(room, task)) for _ in range(count))
    if placed < fewest:
        return None
    for kind in sorted(room.things & _FIXTURES.keys()):
        place(kind, room.stands_on(kind))
    for kind in sorted((room.things & _placeable().keys()) - {task.target}):
        homes = [r for r in room.receptacles if r.type in _placeable()[kind]]
        for _ in range(rng.integers(1, constants.MAX_NUM_OF_OBJ_INSTANCES + 1)):
            place(kind, homes)
    things = _put_into_dishes(things, rng)

    # Chairs, windows, pictures: part of the scene that the text never mentions.
    drawn = {thing.type for thing in things}
    scenery = (room.things & constants.OBJECTS_SET) - constants.RECEPTACLES - drawn
    for kind in sorted(scenery):
        x, z = _beside(room.points, rng)
        name = _name(kind, (x, 1.0, z))
        things.append(_Thing(name, kind, _nearest_location(room.points, (x, 1.0, z)), None))
    return things


def _put_into_dishes(things: list[_Thing], rng: np.random.Generator) -> list[_Thing]:
    """Lays, now and then, a thing into a dish that stands on the same furniture."""
    constants = _constants()
    things = list(things)
    for dish in [t for t in things if t.type in constants.MOVABLE_RECEPTACLES_SET]:
        fits = [
            index
            for index, thing in enumerate(things)
            if thing.receptacle == dish.receptacle
            and thing.inside is None
            and thing.type in constants.VAL_RECEPTACLE_OBJECTS[dish.type]
            and thing.type not in constants.MOVABLE_RECEPTACLES_SET
        ]
        if fits and rng.random() < 0.1:
            index = fits[rng.integers(len(fits))]
            things[index] = dataclasses.replace(things[index], inside=dish.name)
    return things


def _problem(room: _Room, things: Sequence[_Thing], task: Task, start: str, trial: str) -> str:
    """The PDDL of a game's initial state and goal."""
    constants = _constants()
    object_types = sorted(constants.OBJECTS_SET - _furniture_types())
    able = constants.VAL_ACTION_OBJECTS
    locations = dict.fromkeys(
        [r.location for r in room.receptacles] + [t.location for t in things] + [start]
    )
    declarations = [
        "agent1 - agent",
        *(f"{kind} - object" for kind in object_types),
        *(f"{kind}Type - otype" for kind in object_types),
        *(f"{kind}Type - rtype" for kind in sorted(_furniture_types())),
        *sorted(f"{thing.name} - object" for thing in things),
        *sorted(f"{receptacle.name} - receptacle" for receptacle in room.receptacles),
        *(f"{location} - location" for location in locations),
    ]

    def those(predicate: str, property_name: str) -> list[str]:
        return [f"({predicate} {t.name})" for t in things if t.type in able[property_name]]

    facts = [
        "(= (total-cost) 0)",
        *(f"(receptacleType {r.name} {r.type}Type)" for r in room.receptacles),
        *(f"(objectType {t.name} {t.type}Type)" for t in things),
        *(
            f"(canContain {home}Type {kind}Type)"
            for kind in sorted(_placeable())
            for home in sorted(_placeable()[kind])
        ),
        *(f"(pickupable {t.name})" for t in things if t.type in _placeable()),
        *(
            f"(isReceptacleObject {t.name})"
            for t in things
            if t.type in constants.MOVABLE_RECEPTACLES_SET
        ),
        *(f"(openable {r.name})" for r in room.receptacles if r.openable),
        f"(atLocation agent1 {start})",
        *those("cleanable", "Cleanable"),
        *those("heatable", "Heatable"),
        *those("coolable", "Coolable"),
        *those("toggleable", "Toggleable"),
        *those("sliceable", "Sliceable"),
        *(f"(inReceptacle {t.name} {t.receptacle.name})" for t in things if t.receptacle),
        *(f"(inReceptacleObject {t.name} {t.inside})" for t in things if t.inside),
        *(f"(receptacleAtLocation {r.name} {r.location})" for r in room.receptacles),
        *(f"(objectAtLocation {t.name} {t.location})" for t in things),
    ]
    goal = _alfworld("alfworld.gen.goal_library").gdict[task.task_type]["pddl"]
    goal = goal.format(obj=task.target, recep=task.receptacle, toggle=task.receptacle)
    indent = "\n        "
    return (
        f"\n(define (problem plan_{trial})\n    (:domain alfred)\n"
        f"    (:objects{indent}{indent.join(declarations)}\n    )\n"
        f"    (:init{indent}{indent.join(facts)}\n    )\n"
        # The package writes " # " where PDDL has " - ".
        f"{goal.replace('#', '-')}"
    )


@functools.cache
def _furniture_types() -> frozenset[str]:
    constants = _constants()
    return frozenset(constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET)


def draw_game(
    task: Task,
    trial: str,
    seed: Sequence[int],
    directory: pathlib.Path,
    player: bridge.Bridge,
) -> pathlib.Path:
    """Draws a game, proves that it can be won, and writes it.

    Args:
      task: what to ask for; one of `feasible_tasks`.
      trial: the game's name.
      seed: entropy of the draw.
      directory: where to write ``game.tw-pddl`` (the rules, the words with the task in them, the
        initial state, and a solution), ``initial_state.pddl`` and ``traj_data.json``.
      player: one environment, to play the solution in.

    Returns:
      The path of ``game.tw-pddl``.

    Raises:
      GameError: if no draw could be solved.
    """
    room = _room(task.plan)
    templates = _alfworld("alfworld.gen.goal_library").gdict[task.task_type]["templates"]
    logic = _logic()
    directory.mkdir(parents=True)
    path = directory / "game.tw-pddl"
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*seed, attempt])
        things = _furnish(room, task, rng)
        if things is None:
            continue
        point = room.points[rng.integers(len(room.points))]
        start = _location(point[0], point[1], int(rng.integers(4)), 30)
        commands = _plan(room, things, task, start)
        if not commands:
            continue
        sentence = templates[rng.integers(len(templates))].format(
            obj=task.target.lower(), recep=task.receptacle.lower(), toggle=task.receptacle.lower()
        )
        game = {
            "pddl_domain": logic["alfred.pddl"],
            "grammar": logic["alfred.twl2"].replace("UNKNOWN GOAL", sentence),
            "pddl_problem": _problem(room, things, task, start, trial),
            "solvable": True,
            "walkthrough": commands,
        }
        path.write_text(json.dumps(game))
        if not _wins(player, path, commands):
            continue
        (directory / "initial_state.pddl").write_text(game["pddl_problem"])
        (directory / "traj_data.json").write_text(
            json.dumps(_trajectory(task, trial, sentence, seed), indent=4)
        )
        return path
    shutil.rmtree(directory)
    raise GameError(
        f"No solvable game of {task.directory} in {_ATTEMPTS} draws: the floor plan has too little "
        "room for what the task needs. Choose another floor plan."
    )


def _trajectory(task: Task, trial: str, sentence: str, seed: Sequence[int]) -> dict[str, Any]:
    """What ``traj_data.json`` says about a game; there is no recorded trajectory to tell of."""
    examine = task.task_type == "look_at_obj_in_light"
    return {
        "task_id": trial,
        "task_type": task.task_type,
        "pddl_params": {
            "mrecep_target": "",
            "object_sliced": False,
            "object_target": task.target,
            "parent_target": "" if examine else task.receptacle,
            "toggle_target": task.receptacle if examine else "",
        },
        "scene": {
            "floor_plan": f"FloorPlan{task.plan}",
            "scene_num": task.plan,
            "random_seed": list(seed),
            "object_poses": [],
            "object_toggles": [],
        },
        "template": {"task_desc": sentence},
        "turk_annotations": {"anns": [{"task_desc": sentence, "high_descs": []}]},
    }


def _plan(room: _Room, things: Sequence[_Thing], task: Task, start: str) -> list[str]:
    """Solves a game with the engine's planner, without the things that only distract.

    The search takes minutes in a full kitchen and a blink in one that holds just what the task
    is about; nothing that was left out can keep the plan from working.

    Returns:
      The commands, naming things as the whole game does; empty if there is no plan.
    """
    logic = _alfworld("textworld.envs.pddl.logic")
    wanted = [
        dataclasses.replace(thing, inside=None)
        for thing in things
        if thing.type in (task.target, task.receptacle)
    ]
    used, _ = _CHANGES.get(task.task_type, (None, None))
    near = {thing.receptacle for thing in wanted}
    bare = dataclasses.replace(
        room,
        receptacles=tuple(
            receptacle
            for receptacle in room.receptacles
            if receptacle in near or receptacle.type in (task.receptacle, used)
        ),
    )
    arguments = sys.argv[:]
    try:
        rules = logic.GameLogic(domain=_logic()["alfred.pddl"], grammar=_logic()["alfred.twl2"])
        state = logic.PddlState(_planner(), _problem(bare, wanted, task, start, "bare"), rules)
        names = _spoken_names([thing.name for thing in (*things, *room.receptacles)])
        entities = {name: types.SimpleNamespace(name=name) for name in state.name2type} | names
        return [] if state.check_goal() else state.replan(entities)
    finally:
        sys.argv[:] = arguments  # the translator leaves its own there


@functools.cache
def _planner() -> Any:
    """The planner's library. It serves any number of problems, and cannot be unloaded safely."""
    return _alfworld("fast_downward").load_lib()


def _spoken_names(names: Sequence[str]) -> dict[str, Any]:
    """PDDL name, in the engine's lower case -> the entity with the name the text calls it by."""
    misc = _alfworld("alfworld.agents.utils.misc")
    entities = {name.lower(): types.SimpleNamespace(id=name.lower()) for name in names}
    demangler = misc.Demangler(game_infos=entities, shuffle=False)
    for entity in entities.values():
        entity.name = demangler.demangle_alfred_name(entity.id)
    return entities


def _wins(player: bridge.Bridge, path: pathlib.Path, commands: Sequence[str]) -> bool:
    """Plays commands in the engine: does the last one, and no earlier one, win?"""
    seen = player.reset([path])
    for command in commands:
        if seen.won[0]:
            return False
        seen = player.step([command])
    return bool(seen.won[0])


# ---------------------------------------------------------------------------------------------
# Data sets
# ---------------------------------------------------------------------------------------------


def make_games(
    out: str | pathlib.Path,
    tasks: Sequence[str] = tuple(TASK_TYPES),
    train: int = 28,
    unseen: int = 26,
    seed: int = 0,
    progress: Callable[[pathlib.Path], object] = lambda path: None,
) -> dict[str, list[pathlib.Path]]:
    """Writes a data directory of games, laid out as ``alfworld-download`` lays it out.

    Training games play in ALFRED's training floor plans, unseen ones in its test floor plans, and
    no (object, receptacle) pair of any unseen game occurs in any training game of any seed; see
    `is_held_out`.

    Args:
      out: the data directory; point ``ALFWORLD_DATA`` at it. It must not hold games yet.
      tasks: short names of the tasks to make games of, from `TASK_TYPES`.
      train: number of training games of each task.
      unseen: number of unseen games of each task.
      seed: seed of everything that is drawn.
      progress: called with the path of each game as soon as it is written.

    Returns:
      For "train" and "valid_unseen", the paths of the ``game.tw-pddl`` files, in order.

    Raises:
      GameError: if a task is unknown, a count is negative or `out` already holds games.
    """
    out = pathlib.Path(out)
    if (out / "json_2.1.1").exists():
        raise GameError(f"{out / 'json_2.1.1'} already exists: name another directory.")
    chosen = choose_tasks(tasks, train, unseen, seed)
    for name, text in _logic().items():
        path = out / "logic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    paths: dict[str, list[pathlib.Path]] = {split: [] for split in SPLITS}
    with bridge.Bridge(num_environments=1) as player:
        for (split, name), wanted in chosen.items():
            source = _source(seed, split, name)
            for index, task in enumerate(wanted):
                trial = f"trial_T{seed:08d}_{source[-1]:02d}{source[-2]}{index:03d}"
                directory = out / "json_2.1.1" / split / task.directory / trial
                path = draw_game(task, trial, [*source, index], directory, player)
                paths[split].append(path)
                progress(path)
    return paths


def choose_tasks(
    tasks: Sequence[str], train: int, unseen: int, seed: int
) -> dict[tuple[str, str], list[Task]]:
    """Chooses what the games of a data set ask for.

    Args:
      tasks: short names of the tasks, from `TASK_TYPES`.
      train: number of training games of each task.
      unseen: number of unseen games of each task.
      seed: seed of the choice.

    Returns:
      For each split and task, the tasks to make games of. Those for "train" and those for
      "valid_unseen" have no (object, receptacle) pair and no floor plan in common.

    Raises:
      GameError: if a task is unknown or a count is negative.
    """
    unknown = [task for task in tasks if task not in TASK_TYPES]
    if unknown or not tasks:
        raise GameError(f"Unknown tasks {unknown}: choose from {', '.join(TASK_TYPES)}.")
    if min(train, unseen) < 0 or train + unseen == 0:
        raise GameError(f"Cannot make {train} training and {unseen} unseen games of a task.")
    constants = _constants()
    plans = {"train": constants.TRAIN_SCENE_NUMBERS, "valid_unseen": constants.TEST_SCENE_NUMBERS}
    possible = {
        (split, name): [
            task for plan in sorted(plans[split]) for task in feasible_tasks(TASK_TYPES[name], plan)
        ]
        for split in SPLITS
        for name in dict.fromkeys(tasks)
    }
    counts = {"train": train, "valid_unseen": unseen}
    return {
        (split, name): _spread(
            [task for task in candidates if is_held_out(*task.pair) == (split == "valid_unseen")],
            counts[split],
            np.random.default_rng(_source(seed, split, name)),
        )
        for (split, name), candidates in possible.items()
    }


def _source(seed: int, split: str, name: str) -> list[int]:
    """Entropy of all that concerns one task in one split."""
    return [seed, 1, SPLITS.index(split), list(TASK_TYPES).index(name)]


def _spread(candidates: Sequence[Task], count: int, rng: np.random.Generator) -> list[Task]:
    """Draws tasks so that every (object, receptacle) pair comes up before any comes up again."""
    by_pair: dict[tuple[str, str], list[Task]] = {}
    for task in candidates:
        by_pair.setdefault(task.pair, []).append(task)
    if count and not by_pair:
        raise GameError(
            "Every pair of object and receptacle of a task fell to the other split: ask for more "
            "games, or use another seed."
        )
    drawn: list[Task] = []
    while len(drawn) < count:
        for index in rng.permutation(len(by_pair)):
            tasks = list(by_pair.values())[index]
            drawn.append(tasks[rng.integers(len(tasks))])
    return drawn[:count]
