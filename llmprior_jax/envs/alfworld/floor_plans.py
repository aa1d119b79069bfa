"""The floor plans that generated ALFWorld games play in, furnished from what the package ships.

The ``alfworld`` package knows which things each of the 120 floor plans has, where one can stand in
it, and where its furniture stands that opens. What else a plan is known to have stands here along
its walls. Names and locations are spelled as in ALFWorld's own games.
"""

import dataclasses
import functools
import importlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Things that are seen on furniture but cannot be taken, and what they stand on.
FIXTURES = {
    "DeskLamp": ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf"),
    "FloorLamp": ("SideTable", "CoffeeTable", "Sofa", "ArmChair", "Dresser", "DiningTable"),
    "HousePlant": ("CounterTop", "DiningTable", "SideTable", "CoffeeTable", "Desk", "Shelf"),
    "PaperTowelRoll": ("CounterTop", "DiningTable"),
    "TeddyBear": ("Bed", "Sofa", "ArmChair"),
    "Television": ("TVStand", "Dresser", "SideTable", "CoffeeTable", "DiningTable"),
}

# Furniture that the simulator's record of standing points leaves out comes once, but for these.
_COPIES = {"StoveBurner": 4, "HandTowelHolder": 2}

# How names in PDDL spell what they may not have.
_SPELLED = str.maketrans({"-": "_minus_", "|": "_bar_", "+": "_plus_", ".": "_dot_"})

_GRID = 0.25  # meters between two places to stand
_EYE_HEIGHT = 1.575  # meters


@dataclasses.dataclass(frozen=True)
class Receptacle:
    """A piece of furniture.

    Attributes:
      name: its PDDL name.
      type: what it is, such as "CounterTop".
      position: where it is, in meters.
      location: the PDDL name of where one stands to reach it.
      openable: whether it can be opened and closed.
    """

    name: str
    type: str
    position: tuple[float, float, float]
    location: str
    openable: bool


@dataclasses.dataclass(frozen=True)
class Room:
    """A furnished floor plan.

    Attributes:
      plan: its number.
      kind: "Kitchen", "Living", "Bedroom" or "Bathroom".
      things: types of all things that the plan is known to have.
      receptacles: the furniture.
      points: f64[P, 2], where one can stand, in meters.
    """

    plan: int
    kind: str
    things: frozenset[str]
    receptacles: tuple[Receptacle, ...]
    points: np.ndarray

    @functools.cached_property
    def receptacle_types(self) -> frozenset[str]:
        """The types of the furniture."""
        return frozenset(receptacle.type for receptacle in self.receptacles)

    def lamps(self) -> list[str]:
        """The types of lamps that can stand here, sorted."""
        toggleable = alfred_constants().VAL_ACTION_OBJECTS["Toggleable"]
        return [t for t in sorted(self.things & toggleable) if self.stands_on(t)]

    def stands_on(self, fixture: str) -> list[Receptacle]:
        """The furniture that one of `FIXTURES` can stand on."""
        return [r for r in self.receptacles if r.type in FIXTURES[fixture]]


def import_alfworld(module: str) -> Any:
    """Imports a module of the ``alfworld`` package or of what comes with it.

    Raises:
      ImportError: it is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "Making ALFWorld games needs the alfworld package: pip install 'llmprior-jax[alfworld]'"
            f" ({error})."
        ) from error


def alfred_constants() -> Any:
    """What the package knows of ALFRED: which things there are, what fits into what, the plans."""
    return import_alfworld("alfworld.gen.constants")


def _package_directory() -> pathlib.Path:
    return pathlib.Path(import_alfworld("alfworld").__file__).parent


@functools.cache
def game_logic() -> dict[str, str]:
    """The rules and the words that every game file carries, by file name."""
    data = _package_directory() / "data"
    return {name: (data / name).read_text() for name in ("alfred.pddl", "alfred.twl2")}


@functools.cache
def furniture_types() -> frozenset[str]:
    """The types of receptacles that cannot be carried."""
    constants = alfred_constants()
    return frozenset(constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET)


@functools.cache
def placeable() -> Mapping[str, frozenset[str]]:
    """Object type -> furniture types it can be put in or on; only types one can pick up."""
    constants = alfred_constants()
    homes: dict[str, set[str]] = {}
    for receptacle, fitting in constants.VAL_RECEPTACLE_OBJECTS.items():
        if receptacle in constants.MOVABLE_RECEPTACLES_SET:
            continue
        for kind in fitting:
            if kind in constants.OBJECTS_SET:
                homes.setdefault(kind, set()).add(receptacle)
    return {kind: frozenset(receptacles) for kind, receptacles in homes.items()}


def thing_name(kind: str, position: Sequence[float], suffix: str = "") -> str:
    """The PDDL name of a thing: type and place, with PDDL's forbidden characters spelled out."""
    raw = "|".join([kind, *(f"{coordinate:+06.2f}" for coordinate in position)]) + suffix
    return raw.translate(_SPELLED)


def location_name(x: float, z: float, quarter_turns: int, horizon: int) -> str:
    """The PDDL name of a place to stand (meters) with where one looks (quarter turns, degrees)."""
    steps = (round(x / _GRID), round(z / _GRID), int(quarter_turns) % 4, int(horizon))
    return "loc_bar_" + "_bar_".join(str(step).replace("-", "_minus_") for step in steps)


def nearest_location(points: np.ndarray, position: Sequence[float]) -> str:
    """The PDDL name of where to stand, and which way to look, to reach what is at `position`."""
    x, y, z = position
    ahead = np.array([x, z]) - points[np.argmin(np.abs(points - [x, z]).sum(1))]
    stand = np.array([x, z]) - ahead
    east_west = abs(ahead[0]) > abs(ahead[1])
    turns = (1 if ahead[0] > 0 else 3) if east_west else (0 if ahead[1] > 0 else 2)
    tilt = np.degrees(np.arctan2(_EYE_HEIGHT - y, max(np.abs(ahead).max(), _GRID)))
    return location_name(stand[0], stand[1], turns, int(np.clip(np.round(tilt / 15) * 15, -30, 60)))


@functools.cache
def read_room(plan: int) -> Room:
    """Furnishes a floor plan; every game in it has this furniture."""
    constants = alfred_constants()
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
            Receptacle(
                name=thing_name(head, position, suffix),
                type=kind,
                position=position,
                location=location_name(stand_x, stand_z, round(degrees / 90), horizon),
                openable=kind in constants.OPENABLE_CLASS_SET,
            )
        )

    # The record holds only furniture that the simulated agent could reach into. What else the
    # plan is known to have stands along its walls.
    rng = np.random.default_rng([plan, 0])
    taken = {receptacle.name for receptacle in receptacles}
    present = {receptacle.type for receptacle in receptacles}
    for kind in sorted((things & kinds) - present):
        corner = beside_wall(points, rng)
        for copy in range(_COPIES.get(kind, 1)):
            position = (corner[0] + 0.3 * (copy % 2), 0.9, corner[1] + 0.3 * (copy // 2))
            while thing_name(kind, position) in taken:
                position = (position[0], position[1] + 0.05, position[2])
            taken.add(thing_name(kind, position))
            receptacles.append(
                Receptacle(
                    name=thing_name(kind, position),
                    type=kind,
                    position=position,
                    location=nearest_location(points, position),
                    openable=False,
                )
            )
    scene_type = next(kind for kind, plans in constants.SCENE_TYPE.items() if plan in plans)
    return Room(plan, scene_type, things, tuple(receptacles), points)


def beside_wall(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place by the wall, half a meter past a standing point at the edge of the room."""
    axis, side = rng.integers(2), rng.choice([-1.0, 1.0])
    outward = points[:, axis] * side
    edge = points[outward >= outward.max() - _GRID / 2]
    place = edge[rng.integers(len(edge))].astype(np.float64).copy()
    place[axis] += 0.5 * side
    return place
