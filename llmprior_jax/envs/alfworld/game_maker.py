"""Makes ALFWorld games from what the ``alfworld`` package ships, without any download.

ALFWorld (Shridhar et al., 2021) plays the household tasks of ALFRED (Shridhar et al., 2020) as
text. Its own games were recorded from the AI2-THOR simulator and are distributed as an archive.
The package itself carries everything else: the rules (``alfred.pddl``), the words
(``alfred.twl2``), which things each of the 120 floor plans has, where its furniture stands and
which of it opens, what fits into what, and how each task's goal reads. This module takes a floor
plan that is furnished from those (`floor_plans`) and a task (`tasks`), scatters the things the way
the simulator's random spawn does, and keeps the game only after the engine's planner has solved it
and the solution, played in the engine, has won. What is written has the official layout and file
format, so every program that reads ALFWorld's games reads these.

Everything is drawn from explicit seeds: same arguments, same bytes.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmprior_jax.envs.alfworld import floor_plans
from llmprior_jax.envs.alfworld.floor_plans import Receptacle, Room
from llmprior_jax.envs.alfworld.tasks import (
    CHANGES,
    SPLITS,
    TASK_TYPES,
    Task,
    choose_tasks,
    entropy,
    starting_places,
)
from llmprior_jax.envs.engines import Bridge, GameError
from llmprior_jax.files import check_writable, write_atomically

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

_FEWEST_TARGETS = {"pick_two_obj_and_place": 2}
_ATTEMPTS = 20  # rooms drawn for one game before giving up


@dataclasses.dataclass(frozen=True)
class _Thing:
    name: str
    type: str
    location: str
    receptacle: Receptacle | None  # None: part of the scenery
    inside: str | None = None  # the bowl or pot it lies in, if any


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
    check_writable(out / "logic" / "alfred.pddl")
    for name, text in floor_plans.game_logic().items():
        path = out / "logic" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)

    paths: dict[str, list[pathlib.Path]] = {split: [] for split in SPLITS}
    with Bridge(num_environments=1) as player:
        for (split, name), wanted in chosen.items():
            source = entropy(seed, split, name)
            for index, task in enumerate(wanted):
                trial = f"trial_T{seed:08d}_{source[-1]:02d}{source[-2]}{index:03d}"
                directory = out / "json_2.1.1" / split / task.directory / trial
                path = draw_game(task, trial, [*source, index], directory, player)
                paths[split].append(path)
                progress(path)
    return paths


def draw_game(
    task: Task,
    trial: str,
    seed: Sequence[int],
    directory: pathlib.Path,
    player: Bridge,
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
    room = floor_plans.read_room(task.plan)
    templates = _goals()[task.task_type]["templates"]
    logic = floor_plans.game_logic()
    path = directory / "game.tw-pddl"
    with contextlib.ExitStack() as unfinished:
        directory.mkdir(parents=True)
        unfinished.callback(shutil.rmtree, directory, ignore_errors=True)
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([*seed, attempt])
            things = _furnish(room, task, rng)
            if things is None:
                continue
            point = room.points[rng.integers(len(room.points))]
            start = floor_plans.location_name(point[0], point[1], int(rng.integers(4)), 30)
            commands = _plan(room, things, task, start)
            if not commands:
                continue
            sentence = templates[rng.integers(len(templates))].format(
                obj=task.target.lower(),
                recep=task.receptacle.lower(),
                toggle=task.receptacle.lower(),
            )
            game = {
                "pddl_domain": logic["alfred.pddl"],
                "grammar": logic["alfred.twl2"].replace("UNKNOWN GOAL", sentence),
                "pddl_problem": _problem(room, things, task, start, trial),
                "solvable": True,
                "walkthrough": commands,
            }
            write_atomically(path, json.dumps(game))
            if not _wins(player, path, commands):
                continue
            write_atomically(directory / "initial_state.pddl", game["pddl_problem"])
            write_atomically(
                directory / "traj_data.json",
                json.dumps(_trajectory(task, trial, sentence, seed), indent=4),
            )
            unfinished.pop_all()
            return path
    raise GameError(
        f"No solvable game of {task.directory} in {_ATTEMPTS} draws: the floor plan has too little "
        "room for what the task needs. Choose another floor plan."
    )


def _goals() -> Any:
    """How the goal of each task reads, in PDDL and in words."""
    return floor_plans.import_alfworld("alfworld.gen.goal_library").gdict


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


def _plan(room: Room, things: Sequence[_Thing], task: Task, start: str) -> list[str]:
    """Solves a game with the engine's planner, without the things that only distract.

    The search takes minutes in a full kitchen and a blink in one that holds just what the task
    is about; nothing that was left out can keep the plan from working.

    Returns:
      The commands, naming things as the whole game does; empty if there is no plan.
    """
    logic = floor_plans.import_alfworld("textworld.envs.pddl.logic")
    wanted = [
        dataclasses.replace(thing, inside=None)
        for thing in things
        if thing.type in (task.target, task.receptacle)
    ]
    used, _ = CHANGES.get(task.task_type, (None, None))
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
        texts = floor_plans.game_logic()
        rules = logic.GameLogic(domain=texts["alfred.pddl"], grammar=texts["alfred.twl2"])
        state = logic.PddlState(_planner(), _problem(bare, wanted, task, start, "bare"), rules)
        names = _spoken_names([thing.name for thing in (*things, *room.receptacles)])
        entities = {name: types.SimpleNamespace(name=name) for name in state.name2type} | names
        return [] if state.check_goal() else state.replan(entities)
    finally:
        sys.argv[:] = arguments  # the translator leaves its own there


@functools.cache
def _planner() -> Any:
    """The planner's library. It serves any number of problems, and cannot be unloaded safely."""
    return floor_plans.import_alfworld("fast_downward").load_lib()


def _spoken_names(names: Sequence[str]) -> dict[str, Any]:
    """PDDL name, in the engine's lower case -> the entity with the name the text calls it by."""
    misc = floor_plans.import_alfworld("alfworld.agents.utils.misc")
    entities = {name.lower(): types.SimpleNamespace(id=name.lower()) for name in names}
    demangler = misc.Demangler(game_infos=entities, shuffle=False)
    for entity in entities.values():
        entity.name = demangler.demangle_alfred_name(entity.id)
    return entities


def _wins(player: Bridge, path: pathlib.Path, commands: Sequence[str]) -> bool:
    """Plays commands in the engine: does the last one, and no earlier one, win?"""
    seen = player.reset([path])
    for command in commands:
        if seen.won[0]:
            return False
        seen = player.step([command])
    return bool(seen.won[0])


def _furnish(room: Room, task: Task, rng: np.random.Generator) -> list[_Thing] | None:
    """Scatters a room's things; None if the ones the task needs found no place."""
    constants = floor_plans.alfred_constants()
    free = {
        receptacle.name: _ROOM_ON[receptacle.type][1]
        for receptacle in room.receptacles
        if receptacle.type in _ROOM_ON
    }
    things: list[_Thing] = []
    taken: set[str] = set()

    def place(kind: str, places: Sequence[Receptacle]) -> bool:
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
            name = floor_plans.thing_name(kind, position)
            if name not in taken:
                break
        taken.add(name)
        large = _ROOM_ON[home.type][1] > _LARGE and not home.openable
        location = floor_plans.nearest_location(room.points, position) if large else home.location
        things.append(_Thing(name, kind, location, home))
        return True

    fewest = _FEWEST_TARGETS.get(task.task_type, 1)
    count = int(rng.integers(fewest, constants.PICKUP_REPEAT_MAX + 1))
    placed = sum(place(task.target, starting_places(room, task)) for _ in range(count))
    if placed < fewest:
        return None
    for kind in sorted(room.things & floor_plans.FIXTURES.keys()):
        place(kind, room.stands_on(kind))
    for kind in sorted((room.things & floor_plans.placeable().keys()) - {task.target}):
        homes = [r for r in room.receptacles if r.type in floor_plans.placeable()[kind]]
        for _ in range(rng.integers(1, constants.MAX_NUM_OF_OBJ_INSTANCES + 1)):
            place(kind, homes)
    things = _put_into_dishes(things, rng)

    # Chairs, windows, pictures: part of the scene that the text never mentions.
    drawn = {thing.type for thing in things}
    scenery = (room.things & constants.OBJECTS_SET) - constants.RECEPTACLES - drawn
    for kind in sorted(scenery):
        x, z = floor_plans.beside_wall(room.points, rng)
        name = floor_plans.thing_name(kind, (x, 1.0, z))
        location = floor_plans.nearest_location(room.points, (x, 1.0, z))
        things.append(_Thing(name, kind, location, None))
    return things


def _put_into_dishes(things: list[_Thing], rng: np.random.Generator) -> list[_Thing]:
    """Lays, now and then, a thing into a dish that stands on the same furniture."""
    constants = floor_plans.alfred_constants()
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


def _problem(room: Room, things: Sequence[_Thing], task: Task, start: str, trial: str) -> str:
    """The PDDL of a game's initial state and goal."""
    constants = floor_plans.alfred_constants()
    object_types = sorted(constants.OBJECTS_SET - floor_plans.furniture_types())
    able = constants.VAL_ACTION_OBJECTS
    locations = dict.fromkeys(
        [r.location for r in room.receptacles] + [t.location for t in things] + [start]
    )
    declarations = [
        "agent1 - agent",
        *(f"{kind} - object" for kind in object_types),
        *(f"{kind}Type - otype" for kind in object_types),
        *(f"{kind}Type - rtype" for kind in sorted(floor_plans.furniture_types())),
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
            for kind in sorted(floor_plans.placeable())
            for home in sorted(floor_plans.placeable()[kind])
        ),
        *(f"(pickupable {t.name})" for t in things if t.type in floor_plans.placeable()),
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
    goal = _goals()[task.task_type]["pddl"]
    goal = goal.format(obj=task.target, recep=task.receptacle, toggle=task.receptacle)
    indent = "\n        "
    return (
        f"\n(define (problem plan_{trial})\n    (:domain alfred)\n"
        f"    (:objects{indent}{indent.join(declarations)}\n    )\n"
        f"    (:init{indent}{indent.join(facts)}\n    )\n"
        # The package writes " # " where PDDL has " - ".
        f"{goal.replace('#', '-')}"
    )
