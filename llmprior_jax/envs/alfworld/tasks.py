"""The tasks of generated ALFWorld games, and which of them only unseen games have."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from llmprior_jax.envs.alfworld import floor_plans
from llmprior_jax.envs.alfworld.floor_plans import Receptacle, Room
from llmprior_jax.envs.engines import GameError
from llmprior_jax.registry import unknown

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
"""The games to train on, and those to be judged on."""

# Where the three tasks that change an object's state do so, and what may undergo it.
CHANGES = {
    "pick_clean_then_place_in_recep": ("SinkBasin", "Cleanable"),
    "pick_heat_then_place_in_recep": ("Microwave", "Heatable"),
    "pick_cool_then_place_in_recep": ("Fridge", "Coolable"),
}

_HELD_OUT_SHARE = 0.36  # of all pairs of object and receptacle; so many are for unseen games


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


def feasible_tasks(task_type: str, plan: int) -> list[Task]:
    """Every task of a type that a floor plan has the things for, in a fixed order.

    The conditions are those under which ALFRED's tasks were drawn: the room is of a kind the task
    takes place in, the target can be picked up and put there, what is to be cleaned, heated or
    cooled can be, and is not to be put where that happens.

    Args:
      task_type: ALFWorld's name of the task, a value of `TASK_TYPES`.
      plan: number of the floor plan.
    """
    constants = floor_plans.alfred_constants()
    room = floor_plans.read_room(plan)
    if room.kind not in constants.GOALS_VALID[task_type]:
        return []
    targets = [
        kind
        for kind in sorted(room.things & floor_plans.placeable().keys())
        if floor_plans.placeable()[kind] & room.receptacle_types
    ]
    if task_type == "look_at_obj_in_light":
        return [Task(task_type, target, lamp, plan) for target in targets for lamp in room.lamps()]
    used, able = CHANGES.get(task_type, (None, None))
    if used is not None:
        if used not in room.receptacle_types:
            return []
        targets = [kind for kind in targets if kind in constants.VAL_ACTION_OBJECTS[able]]
    tasks = []
    for target in targets:
        homes = floor_plans.placeable()[target] & room.receptacle_types
        for goal in sorted(homes - {used}):
            # The things must start somewhere else than where they are to be brought, or used.
            if starting_places(room, Task(task_type, target, goal, plan)):
                tasks.append(Task(task_type, target, goal, plan))
    return tasks


def starting_places(room: Room, task: Task) -> list[Receptacle]:
    """The furniture that the target of a task may be found in or on at the start."""
    used, _ = CHANGES.get(task.task_type, (None, None))
    banned = {used} if used else {task.receptacle}
    homes = floor_plans.placeable()[task.target] - banned
    return [receptacle for receptacle in room.receptacles if receptacle.type in homes]


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
    for task in tasks:
        if task not in TASK_TYPES:
            raise GameError(unknown("task", task, TASK_TYPES))
    if not tasks:
        raise GameError(f"Name at least one task: there are {', '.join(TASK_TYPES)}.")
    if min(train, unseen) < 0 or train + unseen == 0:
        raise GameError(f"Cannot make {train} training and {unseen} unseen games of a task.")
    constants = floor_plans.alfred_constants()
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
            np.random.default_rng(entropy(seed, split, name)),
        )
        for (split, name), candidates in possible.items()
    }


def entropy(seed: int, split: str, name: str) -> list[int]:
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
