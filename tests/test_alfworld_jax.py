"""ALFWorld in JAX: against ALFWorld's engine, by hand in a small house, as an environment."""

import importlib.util
import json
import pathlib
import subprocess
import sys
from concurrent import futures

import alfworld_parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("alfworld", reason="ALFWorld's rules and words come from its package")

from llmprior_jax import envs

_KEY = jax.random.key(0)
_ROOT = pathlib.Path(__file__).parent.parent
_LOGIC = pathlib.Path(importlib.util.find_spec("alfworld").origin).parent / "data"

# A house with what generated games lack: an agent that starts beside furniture, things in two
# places at once, a toaster on the counter, an open cabinet of no type, a shelf that is nowhere, a
# lamp in a drawer, things that are hot, clean, sliced or switched on from the start, and things
# that PDDL says are where they are not.
_HOUSE = """
(define (problem house) (:domain alfred)
(:objects
  agent1 - agent
  loc_bar_0 loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_9 - location
  Fridge_bar_1 Microwave_bar_1 Sink_bar_1_bar_SinkBasin CounterTop_bar_1 CounterTop_bar_2
  Drawer_bar_1 Shelf_bar_1 Cabinet_bar_1 Toaster_bar_1 CoffeeMachine_bar_1 - receptacle
  Apple_bar_1 Apple_bar_2 Knife_bar_1 ButterKnife_bar_1 Mug_bar_1 DeskLamp_bar_1 DeskLamp_bar_2
  Statue_bar_1 Chair_bar_1 Potato_bar_1 Plate_bar_1 Tomato_bar_1 Sink_bar_1 - object
  FridgeType MicrowaveType SinkBasinType CounterTopType DrawerType CabinetType
  CoffeeMachineType - rtype
  AppleType KnifeType ButterKnifeType MugType DeskLampType PotatoType PlateType TomatoType - otype
)
(:init
  (= (total-cost) 0) (= (distance loc_bar_0 loc_bar_1) 3)
  (atLocation agent1 loc_bar_1)
  (receptacleAtLocation CounterTop_bar_1 loc_bar_1)
  (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_1)
  (receptacleAtLocation Toaster_bar_1 loc_bar_1)
  (receptacleAtLocation CoffeeMachine_bar_1 loc_bar_1)
  (receptacleAtLocation Fridge_bar_1 loc_bar_2) (receptacleAtLocation Microwave_bar_1 loc_bar_2)
  (receptacleAtLocation Drawer_bar_1 loc_bar_3) (receptacleAtLocation Cabinet_bar_1 loc_bar_3)
  (receptacleAtLocation CounterTop_bar_2 loc_bar_0)
  (receptacleType Fridge_bar_1 FridgeType) (receptacleType Microwave_bar_1 MicrowaveType)
  (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
  (receptacleType CounterTop_bar_1 CounterTopType) (receptacleType CounterTop_bar_2 CounterTopType)
  (receptacleType Drawer_bar_1 DrawerType) (receptacleType Shelf_bar_1 CabinetType)
  (receptacleType CoffeeMachine_bar_1 CoffeeMachineType)
  (objectType Apple_bar_1 AppleType) (objectType Apple_bar_2 AppleType)
  (objectType Knife_bar_1 KnifeType) (objectType ButterKnife_bar_1 ButterKnifeType)
  (objectType Mug_bar_1 MugType) (objectType DeskLamp_bar_1 DeskLampType)
  (objectType DeskLamp_bar_2 DeskLampType) (objectType Potato_bar_1 PotatoType)
  (objectType Plate_bar_1 PlateType) (objectType Tomato_bar_1 TomatoType)
  (canContain FridgeType AppleType) (canContain FridgeType MugType)
  (canContain FridgeType PotatoType) (canContain FridgeType PlateType)
  (canContain MicrowaveType AppleType) (canContain MicrowaveType MugType)
  (canContain MicrowaveType PotatoType) (canContain CounterTopType AppleType)
  (canContain CounterTopType KnifeType) (canContain CounterTopType ButterKnifeType)
  (canContain CounterTopType MugType) (canContain CounterTopType PotatoType)
  (canContain CounterTopType PlateType) (canContain CounterTopType TomatoType)
  (canContain CounterTopType DeskLampType) (canContain SinkBasinType AppleType)
  (canContain SinkBasinType KnifeType) (canContain SinkBasinType MugType)
  (canContain DrawerType KnifeType) (canContain DrawerType ButterKnifeType)
  (canContain DrawerType AppleType) (canContain CoffeeMachineType MugType)
  (canContain CabinetType MugType) (canContain CabinetType MugType)
  (openable Fridge_bar_1) (openable Microwave_bar_1) (openable Drawer_bar_1)
  (openable Cabinet_bar_1) (opened Cabinet_bar_1)
  (pickupable Apple_bar_1) (pickupable Apple_bar_2) (pickupable Knife_bar_1)
  (pickupable ButterKnife_bar_1) (pickupable Mug_bar_1) (pickupable Statue_bar_1)
  (pickupable Potato_bar_1) (pickupable Plate_bar_1) (pickupable Tomato_bar_1)
  (pickupable DeskLamp_bar_2)
  (cleanable Apple_bar_1) (cleanable Knife_bar_1) (cleanable Mug_bar_1) (cleanable Plate_bar_1)
  (heatable Apple_bar_1) (heatable Potato_bar_1) (heatable Mug_bar_1)
  (coolable Apple_bar_1) (coolable Apple_bar_2) (coolable Potato_bar_1) (coolable Mug_bar_1)
  (sliceable Apple_bar_1) (sliceable Apple_bar_2) (sliceable Potato_bar_1)
  (sliceable Tomato_bar_1)
  (toggleable DeskLamp_bar_1) (toggleable DeskLamp_bar_2)
  (isOn DeskLamp_bar_1) (isToggled DeskLamp_bar_2)
  (isHot Potato_bar_1) (isClean Mug_bar_1) (isSliced Tomato_bar_1) (not (isHot Mug_bar_1))
  (isReceptacleObject Mug_bar_1) (isReceptacleObject Plate_bar_1)
  (inReceptacleObject Apple_bar_2 Plate_bar_1) (inReceptacleObject Tomato_bar_1 Plate_bar_1)
  (wasInReceptacle Apple_bar_1 Fridge_bar_1)
  (inReceptacle Apple_bar_1 CounterTop_bar_1) (inReceptacle Apple_bar_2 Fridge_bar_1)
  (inReceptacle Apple_bar_2 CounterTop_bar_2) (inReceptacle Knife_bar_1 CounterTop_bar_1)
  (inReceptacle ButterKnife_bar_1 Drawer_bar_1) (inReceptacle Mug_bar_1 CounterTop_bar_1)
  (inReceptacle Mug_bar_1 CoffeeMachine_bar_1) (inReceptacle Toaster_bar_1 CounterTop_bar_1)
  (inReceptacle DeskLamp_bar_1 Drawer_bar_1) (inReceptacle DeskLamp_bar_2 CounterTop_bar_2)
  (inReceptacle Statue_bar_1 CounterTop_bar_2) (inReceptacle Potato_bar_1 Shelf_bar_1)
  (inReceptacle Plate_bar_1 CounterTop_bar_2) (inReceptacle Tomato_bar_1 CounterTop_bar_2)
  (objectAtLocation Apple_bar_1 loc_bar_1) (objectAtLocation Apple_bar_2 loc_bar_2)
  (objectAtLocation Apple_bar_2 loc_bar_3) (objectAtLocation Knife_bar_1 loc_bar_9)
  (objectAtLocation Mug_bar_1 loc_bar_1) (objectAtLocation Potato_bar_1 loc_bar_0)
  (objectAtLocation Chair_bar_1 loc_bar_1) (objectAtLocation Tomato_bar_1 loc_bar_2)
)
(:goal GOAL))
"""
_COOL_APPLE = """(and (exists (?r - receptacle) (exists (?o - object) (and
  (coolable ?o) (objectType ?o AppleType) (receptacleType ?r MicrowaveType) (isCool ?o)
  (inReceptacle ?o ?r)))))"""
_TWO_APPLES = """(and (exists (?r - receptacle) (exists (?o1 - object) (and
  (objectType ?o1 AppleType) (receptacleType ?r CounterTopType) (inReceptacle ?o1 ?r)
  (exists (?o2 - object) (and (not (= ?o1 ?o2)) (objectType ?o2 AppleType)
    (receptacleType ?r CounterTopType) (inReceptacle ?o2 ?r)))))))"""
_APPLE_IN_LIGHT = """(and
  (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and
    (objectType ?ot DeskLampType) (toggleable ?ot) (isToggled ?ot) (receptacleAtLocation ?r ?l)
    (atLocation ?a ?l) (inReceptacle ?ot ?r)))
  (exists (?o - object ?a - agent) (and (objectType ?o AppleType) (holds ?a ?o))))"""


def _game(goal: str = _COOL_APPLE, **fields) -> dict:
    """The house as the content of a game file, with other fields if given."""
    return {
        "pddl_domain": (_LOGIC / "alfred.pddl").read_text(),
        "pddl_problem": _HOUSE.replace("GOAL", goal),
        "grammar": (_LOGIC / "alfred.twl2").read_text().replace("UNKNOWN GOAL", "tidy up"),
        "walkthrough": [],
        **fields,
    }


def _early_game() -> dict:
    """The house with the words of the first games: no help, numbered places, "put" for "move"."""
    game = _game()
    domain, grammar = game["pddl_domain"], game["grammar"]
    for new, old in (
        ("arrive at {r.name}", "arrive at {lend.name}"),
        ("move {o} to {r}", "put {o} in/on {r}"),
        ("You move the {o.name} to the {r.name}", "You put the {o.name} in/on the {r.name}"),
    ):
        assert new in grammar
        grammar = grammar.replace(new, old)
    grammar = grammar[: grammar.index("action help")]
    return game | {"pddl_domain": domain[: domain.index("(:action help")] + ")", "grammar": grammar}


def _patched_game() -> dict:
    """The house with words as early games have them after ALFWorld added `help` to them."""
    grammar = _early_game()["grammar"]
    return _game(
        grammar=grammar
        + 'action help {\n template :: "help";\n feedback :: "\n\nTry:\n  look\n";\n}'
    )


def _large_game() -> dict:
    """The house with 24 drawers and 55 pens more, which takes more than two words of bits."""
    pens = [f"Pen_bar_{pen:02d}" for pen in range(55)]
    drawers = [f"Drawer_bar_9{drawer:02d}" for drawer in range(24)]
    places = [f"loc_bar_9{drawer:02d}" for drawer in range(24)]
    objects = (
        f"{' '.join(pens)} - object {' '.join(drawers)} - receptacle "
        f"{' '.join(places)} - location PenType - otype"
    )
    facts = ["(canContain DrawerType PenType)"]
    for drawer, place in zip(drawers, places, strict=True):
        facts.append(f"(receptacleType {drawer} DrawerType) (openable {drawer})")
        facts.append(f"(receptacleAtLocation {drawer} {place})")
    for index, pen in enumerate(pens):
        facts.append(f"(objectType {pen} PenType) (pickupable {pen})")
        facts.append(f"(inReceptacle {pen} {drawers[index % 24]})")
    problem = _HOUSE.replace("GOAL", _TWO_APPLES)
    problem = problem.replace("(:objects", f"(:objects {objects}")
    return _game(pddl_problem=problem.replace("(:init", "(:init " + "\n".join(facts)))


def _write(path: pathlib.Path, game: dict) -> str:
    path.write_text(json.dumps(game))
    return str(path)


def _run(*command: str) -> str:
    """What a Python program prints."""
    finished = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, cwd=_ROOT
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def _compare(games: list[str], steps: int, seed: int) -> dict:
    arguments = f"--steps={steps}", f"--seed={seed}", *games
    return json.loads(_run("tests/alfworld_parity.py", *arguments).splitlines()[-1])


@pytest.fixture(scope="session")
def houses(tmp_path_factory) -> list[str]:
    """The house with each kind of goal and of words."""
    folder = tmp_path_factory.mktemp("houses")
    games = {
        "cool": _game(),
        "two": _game(_TWO_APPLES),
        "light": _game(_APPLE_IN_LIGHT),
        "early": _early_game(),
        "patched": _patched_game(),
        "large": _large_game(),
    }
    return [_write(folder / f"{name}.tw-pddl", game) for name, game in games.items()]


@pytest.fixture(scope="session")
def house(houses):
    """The environment of the house with the first goal, its parameters, and a jitted step."""
    env, params = envs.make("ALFWorld", games=houses[:1])
    return env, params, jax.jit(env.step_env)


# ------------------------------------------------------------------------- against the engine


@pytest.mark.long
def test_generated_games_agree_with_the_engine(tmp_path_factory, is_longest):
    """Games of each task, random and expert play; half of the tasks in each process."""
    halves_of_tasks = "pick,clean,cool", "examine,heat,pick2"
    num_games, num_steps = (10, 50_000) if is_longest else (1, 600)

    def play(half: int) -> dict:
        folder = tmp_path_factory.mktemp("games") / "made"
        flags = f"--tasks={halves_of_tasks[half]}", f"--train={num_games}", f"--seed={half}"
        _run("-m", "launch.make_games", *flags, "--unseen=0", f"--out={folder}")
        games = sorted(str(path) for path in folder.rglob("*.tw-pddl"))
        return _compare(games, steps=num_steps, seed=half)

    with futures.ThreadPoolExecutor() as pool:
        halves = list(pool.map(play, range(2)))
    assert [half["differences"] for half in halves] == [[], []]
    assert sum(half["games"] for half in halves) == 6 * num_games
    assert all(half["steps"] >= num_steps for half in halves)
    assert all(half["wins"] >= 3 * num_games and half["time limits"] for half in halves)


@pytest.mark.long
def test_unusual_houses_agree_with_the_engine(houses):
    compared = _compare(houses, steps=1_500, seed=0)
    assert compared["differences"] == []
    assert compared["wins"]
    assert compared["time limits"]


def test_the_engine_as_it_is_agrees_too(houses):
    """The other comparisons make the engine compute some things only once."""
    compared = alfworld_parity.compare(houses[:1], steps=40, seed=0)
    assert compared["differences"] == []


# ------------------------------------------------------------------------------------ by hand


def _play(house, commands: list[str]):
    """Says commands after a reset; returns the last observation, state, reward and end."""
    env, params, step = house
    observation, state = env.reset(_KEY, params)
    reward = ended = None
    for command in commands:
        action = env.text_state(observation).actions.index(command)
        observation, state, reward, ended, info = step(_KEY, state, action, params)
        assert bool(info["success"]) == bool(ended)
    return observation, state, reward, ended


def test_the_first_observation_tells_where_one_is_and_the_task(house):
    observation, *_ = _play(house, [])
    text = house[0].text_state(observation)
    assert text.task == "Your task is to: tidy up."
    assert text.observation == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are facing the coffeemachine 1, countertop 2, "
        "sinkbasin 1, and toaster 1. Next to it, you see nothing.\n\nYour task is to: tidy up."
    )
    assert text.history == ()


def test_a_cooled_apple_in_the_microwave_wins(house):
    commands = ["take apple 2 from countertop 2", "go to fridge 1", "cool apple 2 with fridge 1"]
    *_, reward, ended = _play(house, [*commands, "open microwave 1"])
    assert (float(reward), bool(ended)) == (0.0, False)
    *_, reward, ended = _play(house, [*commands, "open microwave 1", "move apple 2 to microwave 1"])
    assert (float(reward), bool(ended)) == (1.0, True)


def test_a_heated_apple_is_no_longer_cool(house):
    *_, reward, ended = _play(
        house,
        [
            "take apple 2 from countertop 2",
            "go to fridge 1",
            "cool apple 2 with fridge 1",
            "heat apple 2 with microwave 1",
            "open microwave 1",
            "move apple 2 to microwave 1",
        ],
    )
    assert (float(reward), bool(ended)) == (0.0, False)


def test_what_is_closed_cannot_be_learned_from_an_observation(house):
    env, params, _ = house
    for commands, is_seen in (
        (["go to fridge 1"], False),
        (["go to fridge 1", "open fridge 1"], True),
    ):
        observation, state, *_ = _play(house, commands)
        emptied = state.replace(contents=jnp.zeros_like(state.contents))
        assert bool((env.observe(_KEY, emptied, None, params) != observation).any()) == is_seen


def test_admissible_actions_come_first_and_are_as_many_as_the_commands(house):
    env, params, _ = house
    for commands in ([], ["go to drawer 1", "open drawer 1"], ["take mug 1 from coffeemachine 1"]):
        observation, state, *_ = _play(house, commands)
        count = len(env.text_state(observation).actions)
        expected = np.arange(env.num_actions) < count
        np.testing.assert_array_equal(env.action_mask(state, params), expected)


def test_actions_that_do_not_exist_do_what_the_last_one_does(house):
    env, params, step = house
    observation, state = env.reset(_KEY, params)
    last = len(env.text_state(observation).actions) - 1
    expected = step(_KEY, state, last, params)
    for action in (last + 1, env.num_actions, 2**31 - 1):
        jax.tree.map(np.testing.assert_array_equal, step(_KEY, state, action, params), expected)


# ---------------------------------------------------------------------------- as an environment


@pytest.fixture(scope="session")
def many(houses):
    """The environment of all houses, and its parameters."""
    return envs.make("ALFWorld", games=houses)


def _random_episode(env, params, game: int, seed: int, steps: int = 30) -> list:
    """Texts of an episode of random commands, which are chosen by their text."""
    step = jax.jit(env.step_env)
    observation, state = env.reset(_KEY, params.replace(games=jnp.array([game])))
    random = np.random.default_rng(seed)
    texts = [env.text_state(observation)]
    for _ in range(steps):
        command = random.choice(sorted(texts[-1].actions))
        observation, state, *_ = step(_KEY, state, texts[-1].actions.index(command), params)
        texts.append(env.text_state(observation))
    return texts


def test_a_game_is_the_same_alone_and_padded_to_a_larger_one(house, many):
    alone, padded = _random_episode(*house[:2], 0, seed=1), _random_episode(*many, 0, seed=1)
    assert alone == padded


def test_games_are_drawn_from_those_that_are_asked_for(many):
    env, params = many
    reset = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))
    for games in ([0, 1, 2, 3, 4, 5], [4], [1, 3]):
        _, states = reset(jax.random.split(_KEY, 200), params.replace(games=jnp.array(games)))
        assert sorted(set(np.asarray(states.game).tolist())) == games


def test_an_ended_game_gives_way_to_a_new_one(house):
    env, params, _ = house
    observation, state, *_ = _play(
        house,
        [
            "take apple 2 from countertop 2",
            "go to fridge 1",
            "cool apple 2 with fridge 1",
            "open microwave 1",
        ],
    )
    action = env.text_state(observation).actions.index("move apple 2 to microwave 1")
    observation, state, reward, terminated, truncated, info = env.step(_KEY, state, action, params)
    assert (float(reward), bool(terminated), bool(truncated)) == (1.0, True, False)
    assert bool(info["success"])
    first, start = env.reset(_KEY, params)
    jax.tree.map(np.testing.assert_array_equal, (observation, state), (first, start))
    last = env.text_state(info["final_observation"])
    assert last.observation == "You move the apple 2 to the microwave 1."


def test_the_time_limit_truncates(house):
    env, params, _ = house
    params = params.replace(max_steps_in_episode=3)
    _, state = env.reset(_KEY, params)
    for time in range(1, 4):
        _, state, reward, terminated, truncated, _ = env.step(_KEY, state, 0, params)
        assert (float(reward), bool(terminated), bool(truncated)) == (0.0, False, time == 3)


def test_observations_cannot_be_listed(house):
    assert house[0].list_observations() is None


def test_observations_are_as_the_space_says(many):
    env, params = many
    observation, _ = env.reset(_KEY, params)
    space = env.observation_space(params)
    assert (observation.shape, observation.dtype) == (space.shape, space.dtype)
    assert env.action_space(params).n == env.num_actions
    assert env.name == "ALFWorld"


# --------------------------------------------------------------------------------- what is refused


def _with_action(domain: str, action: str) -> str:
    return domain.rstrip()[:-1] + action + ")"


_ACTION = "(:action Teleport :parameters (?a - agent) :precondition () :effect (checked ?a))"
_REFUSED = {
    "unknown action": (
        lambda game: game | {"pddl_domain": _with_action(game["pddl_domain"], _ACTION)},
        "PDDL actions that ALFWorld has not: teleport",
    ),
    "changed action": (
        lambda game: game | {"pddl_domain": game["pddl_domain"].replace("(isHot ?o)", "", 2)},
        "defines PDDL actions otherwise than ALFWorld: heatobject",
    ),
    "missing action": (
        lambda game: game | {"pddl_domain": "(define (domain alfred))"},
        "lacks PDDL actions of ALFWorld: look, inventory",
    ),
    "axioms": (
        lambda game: (
            game
            | {"pddl_domain": _with_action(game["pddl_domain"], "(:derived (near ?o) (holds ?o))")}
        ),
        "has a section ':derived'",
    ),
    "truncated domain": (
        lambda game: game | {"pddl_domain": game["pddl_domain"][:9000]},
        "PDDL domain is truncated",
    ),
    "truncated problem": (
        lambda game: game | {"pddl_problem": game["pddl_problem"][:3000]},
        "PDDL problem is truncated",
    ),
    "problem without a goal": (
        lambda game: game | {"pddl_problem": game["pddl_problem"].replace(":goal", ":wish")},
        "PDDL problem has no :goal",
    ),
    "no domain": (
        lambda game: {name: game[name] for name in ("pddl_problem", "grammar")},
        "no text 'pddl_domain'",
    ),
    "another goal": (
        lambda game: _game("(and (exists (?r - receptacle) (opened ?r)))"),
        r"its goal has \(exists \(\?r - receptacle\) \(opened \?r\)\)",
    ),
    "two agents": (
        lambda game: (
            game
            | {"pddl_problem": game["pddl_problem"].replace("agent1 - agent", "bob agent1 - agent")}
        ),
        "needs one agent at one location and has bob, agent1",
    ),
    "a receptacle at two places": (
        lambda game: (
            game
            | {
                "pddl_problem": game["pddl_problem"].replace(
                    "(:init", "(:init (receptacleAtLocation Drawer_bar_1 loc_bar_9)"
                )
            }
        ),
        "drawer_bar_1 is at 2 locations",
    ),
    "full hands": (
        lambda game: (
            game
            | {
                "pddl_problem": game["pddl_problem"].replace(
                    "(:init", "(:init (holds agent1 Mug_bar_1)"
                )
            }
        ),
        "starts with something in its hands",
    ),
    "an unknown thing": (
        lambda game: (
            game
            | {
                "pddl_problem": game["pddl_problem"].replace(
                    "(:init", "(:init (openable Door_bar_1)"
                )
            }
        ),
        "states openable of an unknown door_bar_1",
    ),
    "a thing out of place": (
        lambda game: (
            game
            | {
                "pddl_problem": game["pddl_problem"].replace(
                    "(:init", "(:init (openable Mug_bar_1)"
                )
            }
        ),
        "states openable of mug_bar_1; it is about receptacle",
    ),
    "no words for an action": (
        lambda game: game | {"grammar": game["grammar"].replace("action look {", "action gaze {")},
        "grammar has no words for look",
    ),
    "no words for the task": (
        lambda game: game | {"grammar": game["grammar"].replace('"task": [', '"job": [')},
        "grammar has no rule that applies to 'task'",
    ),
    "truncated grammar": (
        lambda game: game | {"grammar": game["grammar"][:5000]},
        "the grammar has ",
    ),
    "rules that are not JSON": (
        lambda game: game | {"grammar": game["grammar"].replace('"task": [', '"task": {')},
        "the grammar has rules that are not JSON",
    ),
    "a grammar that runs code": (
        lambda game: (
            game | {"grammar": game["grammar"].replace("{o.indefinite} {o.name}", "{print(o)}")}
        ),
        r"the grammar has the expression 'print\(o\)'",
    ),
    "a grammar that looks behind the scenes": (
        lambda game: (
            game | {"grammar": game["grammar"].replace("{o.indefinite} {o.name}", "{o.__class__}")}
        ),
        "the grammar has the expression 'o.__class__'",
    ),
    "text that depends on what is not kept": (
        lambda game: (
            game
            | {
                "grammar": game["grammar"].replace(
                    "openable(r:receptacle)", "checked(r:receptacle)"
                )
            }
        ),
        "checked is not kept",
    ),
    "text that depends on where PDDL says things are": (
        lambda game: (
            game
            | {
                "grammar": game["grammar"].replace(
                    "holdsany(a:agent)", "objectatlocation(o:object, l:location)"
                )
            }
        ),
        r"grammar asks objectatlocation\(o, l\)",
    ),
    "a task without end": (
        lambda game: game | {"grammar": game["grammar"].replace("Your task is to:", "#task#")},
        "rewrites a symbol without end",
    ),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_a_game_that_cannot_be_played_is_refused_by_name_with_the_reason(name, tmp_path):
    change, reason = _REFUSED[name]
    path = _write(tmp_path / "spoilt.tw-pddl", change(_game()))
    with pytest.raises(ValueError, match=rf"(?s)spoilt\.tw-pddl.*{reason}"):
        envs.make("ALFWorld", games=[path])


@pytest.mark.parametrize("keep", [0, 1, 1000, -1])
def test_a_truncated_file_is_refused_by_name(keep, tmp_path):
    path = tmp_path / "cut.tw-pddl"
    path.write_text(json.dumps(_game())[:keep])
    with pytest.raises(ValueError, match=r"cut\.tw-pddl: the file is damaged or truncated"):
        envs.make("ALFWorld", games=[path])


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    path = tmp_path / "noise.tw-pddl"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"noise\.tw-pddl: the file is damaged"):
        envs.make("ALFWorld", games=[path])


def test_a_deeply_nested_file_is_refused_by_name(tmp_path):
    for content in ("[" * 100_000, json.dumps(_game("(and " * 50_000 + ")" * 50_000))):
        path = tmp_path / "deep.tw-pddl"
        path.write_text(content)
        with pytest.raises(ValueError, match=r"deep\.tw-pddl: .*is nested too deeply"):
            envs.make("ALFWorld", games=[path])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tw-pddl"):
        envs.make("ALFWorld", games=[tmp_path / "nowhere.tw-pddl"])


@pytest.mark.parametrize("games", [{}, {"games": []}, {"games": "game.tw-pddl"}])
def test_no_games_are_refused_with_how_to_get_some(games):
    with pytest.raises(ValueError, match=r"list with at least one path.*launch\.make_games"):
        envs.make("ALFWorld", **games)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda observation: observation[:-1], r"observes i32\[\d+\]"),
        (lambda observation: observation.astype(np.float32), "got float32"),
        (lambda observation: np.r_[np.int32(9), observation[1:]], "its game is 9"),
        (lambda observation: np.r_[observation[:4], np.int32(-1), observation[5:]], "its place is"),
        (
            lambda observation: np.r_[observation[:8], np.full(len(observation) - 8, -1, np.int32)],
            "not there",
        ),
    ],
)
def test_what_is_no_observation_is_not_put_into_words(many, change, message):
    env, params = many
    observation, _ = env.reset(_KEY, params.replace(games=jnp.array([0])))
    with pytest.raises(ValueError, match=message):
        env.text_state(change(np.asarray(observation)))
