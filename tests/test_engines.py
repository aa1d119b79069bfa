"""Engines: what each answers, a batch that outlives its processes, and engines of one's own."""

import json
import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import z_code

pytest.importorskip("alfworld")
pytest.importorskip("gymnasium")

from launch import make_textworld
from llmprior_jax.envs import engines
from llmprior_jax.envs.alfworld import game_maker
from llmprior_jax.envs.engines import alfworld_engine, games
from llmprior_jax.envs.engines.worker import Answer, MalformedAnswerError, check_answer
from llmprior_jax.registry import Registry

# A Gymnasium environment in text that can be told to fail in every way.
_CORRIDOR = '''
import os, time
import gymnasium
from gymnasium import spaces

class Corridor(gymnasium.Env):
    """Walk right three times; the first reset draws the length of the step."""

    observation_space = spaces.Text(100)
    action_space = spaces.Text(20)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.draw = 0, int(self.np_random.integers(10**6))
        return self.text(), self.info()

    def step(self, action):
        if action == "die":
            os._exit(3)
        if action == "hang":
            time.sleep(60)
        if action == "fail":
            raise RuntimeError("the corridor collapsed")
        print("noise from the engine")
        self.place += action == "right"
        won = self.place == 3
        reward = {"nothing": None, "nan": float("nan"), "much": 1e300}.get(action, float(won))
        return self.text(), reward, won, action == "give up", self.info()

    def text(self):
        return f"You are at {self.place}; the number is {self.draw}."

    def info(self):
        commands = ["left", "right"] if self.place else ["right"]
        return {"task": "walk right", "admissible_commands": commands, "won": self.place == 3}

class Numbered(Corridor):
    action_space = spaces.Discrete(2)

    def get_action_meanings(self):
        return ["left", "right"]

    def step(self, action):
        return super().step(["left", "right"][action])

    def info(self):
        return {}

class Pictures(Corridor):
    observation_space = spaces.Box(0, 1, (2, 2))

gymnasium.register("Corridor-v0", Corridor, disable_env_checker=True)
gymnasium.register("Numbered-v0", Numbered, disable_env_checker=True)
gymnasium.register("Pictures-v0", Pictures, disable_env_checker=True)
'''

# One that is made of what its methods return, to have each of them wrong.
_DOORS = """
import gymnasium
import numpy as np
from gymnasium import spaces

class Doors(gymnasium.Env):
    observation_space = spaces.Text(100)

    def __init__(self, names=("left", "right"), start=0, info={}, first=None, then=None):
        self.action_space = spaces.Discrete(2, start=start) if names else spaces.Text(20)
        self.names, self.info, self.first, self.then = names, info, first, then

    def get_action_meanings(self):
        return self.names

    def reset(self, *, seed=None, options=None):
        return self.first or ("Two doors.", self.info)

    def step(self, action):
        return self.then or (f"You opened {action}.", 1.0, False, False, self.info)

def register(name, limit=None, **kwargs):
    gymnasium.register(f"{name}-v0", Doors, max_episode_steps=limit, kwargs=kwargs)

register("Doors")
register("FromOne", start=1)
register("Twins", names=["left", "left"])
register("Few", names=["left"])
register("Spelled", names="lr")
register("OldReset", first="Two doors.")
register("NoInfo", first=("Two doors.", None))
register("Bytes", first=(b"Two doors.", {}))
register("NoTask", info={"task": None})
register("Letters", info={"admissible_commands": "left"})
register("Digits", info={"admissible_commands": [0, 1]})
register("Nowhere", info={"admissible_commands": ["left", "up"]})
register("Masked", info={"action_mask": np.array([0, 1], np.int8)})
register("MaskedTwice", info={"action_mask": [True, False],
                              "admissible_commands": ["right", "left"]})
register("ShortMask", info={"action_mask": np.array([1])})
register("OddMask", info={"action_mask": [0, 2]})
register("MaskedTexts", names=None, info={"action_mask": [0, 1]})
register("OldStep", then=("A wall.", 1.0, False, {}))
register("OldStepWithLimit", limit=9, then=("A wall.", 1.0, False, {}))
register("NoReward", then=("A wall.", None, False, False, {}))
register("NoFlag", then=("A wall.", 1.0, "no", False, {}))
register("Numpy", then=("A wall.", np.float32(0.5), np.bool_(False), 1, {"won": np.True_}))
"""

_GAME = "gymnasium:text_corridor:Corridor-v0"


@pytest.fixture(scope="module")
def corridor(tmp_path_factory):
    """Makes the environments importable, here and so in the engines' processes."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "text_corridor.py").write_text(_CORRIDOR)
    (folder / "text_doors.py").write_text(_DOORS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture
def pair(corridor):
    with engines.Bridge(num_environments=2, max_steps=5, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def single():
    with engines.Bridge(num_environments=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A data directory of two small games."""
    out = tmp_path_factory.mktemp("alfworld")
    game_maker.make_games(out, ["pick", "examine"], train=1, unseen=0, seed=3)
    return out


@pytest.fixture(scope="module")
def game_files(data) -> list[str]:
    return engines.find_games(data)


# ---------------------------------------------------------------------------------------- a batch


def test_a_batch_shows_what_the_environments_show(pair):
    seen = pair.reset([_GAME, _GAME])
    assert seen.tasks == ("walk right", "walk right")
    assert seen.observations[0].startswith("You are at 0; the number is ")
    assert seen.commands == (("right",), ("right",))
    assert not seen.done.any()

    seen = pair.step(["right", "right"])
    assert seen.observations[1].startswith("You are at 1;")
    assert seen.commands[1] == ("left", "right")
    np.testing.assert_array_equal(seen.reward, [0, 0])

    pair.step(["right", None])
    seen = pair.step(["right", "give up"])
    np.testing.assert_array_equal(seen.won, [True, False])
    np.testing.assert_array_equal(seen.terminated, [True, False])
    np.testing.assert_array_equal(seen.truncated, [False, True])
    np.testing.assert_array_equal(seen.reward, [1, 0])
    assert seen.reward.dtype == np.float32


def test_environments_left_alone_stay_as_they_are(pair):
    before = pair.reset([_GAME, _GAME])
    for _ in range(3):
        seen = pair.step(["right", None])
    assert seen.observations[1] == before.observations[1]
    seen = pair.reset([None, _GAME])
    assert seen.won[0]
    assert seen.reward[0] == 0


def test_the_states_are_what_prompts_are_made_of(pair):
    seen = pair.reset([_GAME, _GAME])
    state = seen.text_states()[1]
    assert state == ("walk right", seen.observations[1], (), ("right",))


def test_a_time_limit_truncates(pair):
    pair.reset([_GAME, _GAME])
    for step in range(1, 6):
        seen = pair.step(["left", "right" if step > 2 else "left"])
        assert seen.truncated[0] == (step == 5)
    # The other one won on that very step.
    assert seen.terminated[1]
    assert not seen.truncated[1]


def test_chance_follows_the_seed(corridor):
    numbers = []
    for seed in (0, 0, 1):
        with engines.Bridge(num_environments=2, seed=seed) as opened:
            first = opened.reset([_GAME, _GAME]).observations
            numbers.append(first + opened.reset([_GAME, _GAME]).observations)
    assert numbers[0] == numbers[1]
    assert numbers[0] != numbers[2]
    assert len(set(numbers[0])) == 4


def test_numbered_actions_go_by_their_names(pair):
    game = "gymnasium:text_corridor:Numbered-v0"
    assert pair.reset([game, None]).commands[0] == ("left", "right")
    assert pair.step(["right", None]).observations[0].startswith("You are at 1;")


def test_an_episode_that_is_over_takes_no_command(pair):
    with pytest.raises(ValueError, match="environment 0 is over"):
        pair.step(["right", None])
    pair.reset([_GAME, _GAME])
    pair.step([None, "give up"])
    with pytest.raises(ValueError, match="environment 1 is over"):
        pair.step([None, "right"])


def test_a_batch_of_another_size_is_refused(pair):
    with pytest.raises(ValueError, match="3 games for 2 environments"):
        pair.reset([_GAME] * 3)
    with pytest.raises(ValueError, match="1 seeds for 2 environments"):
        pair.reset([_GAME] * 2, seeds=[0])
    with pytest.raises(ValueError, match="0 environments"):
        engines.Bridge(num_environments=0)


# --------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("failure", ["die", "fail"])
def test_a_lost_process_costs_its_own_episode_only(pair, failure):
    pair.reset([_GAME, _GAME])
    before = pair.step(["right", "right"])
    seen = pair.step([failure, "right"])
    np.testing.assert_array_equal(seen.truncated, [True, False])
    assert not seen.terminated[0]
    assert seen.observations[0] == before.observations[0]
    assert seen.observations[1].startswith("You are at 2;")
    assert pair.restarts == 1
    seen = pair.reset([_GAME, None])
    assert seen.observations[0].startswith("You are at 0;")
    assert pair.step(["right", "right"]).won[1]


def test_a_process_killed_from_outside_is_replaced(pair):
    pair.reset([_GAME, _GAME])
    pair._workers[1]._process.kill()
    seen = pair.step(["right", "right"])
    np.testing.assert_array_equal(seen.truncated, [False, True])
    pair._workers[1]._process.kill()
    seen = pair.reset([None, _GAME])
    assert seen.observations[1].startswith("You are at 0;")
    assert pair.restarts == 2


def test_processes_that_hang_are_given_up_after_one_timeout(corridor):
    with engines.Bridge(num_environments=2, timeout=30) as opened:
        opened.reset([_GAME, _GAME])
        opened._timeout = 5
        start = time.monotonic()
        assert opened.step(["hang", "hang"]).lost.all()
        assert time.monotonic() - start < 9
        assert opened.restarts == 2


def test_games_that_hang_on_starting_are_given_up_after_one_timeout(nim):
    with engines.Bridge(num_environments=2, timeout=1) as opened:
        with pytest.raises(engines.GameError, match="did not answer within 1 seconds on starting"):
            opened.reset(["engine:matches:Hang:1"] * 2)
        assert opened.restarts == 2, "no second try"


def test_a_game_that_cannot_be_started_leaves_the_others_begun(pair):
    pair.reset([_GAME, _GAME])
    with pytest.raises(engines.GameError, match="Twins"):
        pair.reset([_doors("Twins"), _GAME])
    assert pair.step([None, "right"]).observations[1].startswith("You are at 1;")
    with pytest.raises(ValueError, match="environment 0 is over"):
        pair.step(["right", None])


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("nowhere.z8", "nowhere.z8: there is no such file"),
        ("textworld:nowhere.z8", "textworld:nowhere.z8: there is no such file"),
        ("engine:chess.py:Engine:1", "Engine:1: name the class of the engine"),
        ("notes.txt", r"notes.txt: no engine plays this.*\.tw-pddl"),
        ("gymnasum:Nothing-v0", "no engine 'gymnasum'; did you mean 'gymnasium'"),
        ("engine:chess", "chess: name the class of the engine and what it plays"),
        ("gymnasium:Nothing-v0", "gymnasium:Nothing-v0: .*Nothing"),
        ("gymnasium:text_corridor:Pictures-v0", "Pictures-v0: its observation is Box.*not text"),
    ],
)
def test_a_game_that_cannot_be_played_is_named(pair, game, message):
    with pytest.raises(engines.GameError, match=message):
        pair.reset([game, None])


def _spoil(game: str, folder: pathlib.Path, change) -> pathlib.Path:
    path = folder / "spoiled.tw-pddl"
    path.write_text(change(pathlib.Path(game).read_text()))
    return path


def _with(field: str, change):
    def changed(text: str) -> str:
        game = json.loads(text)
        game[field] = change(game[field])
        return json.dumps(game)

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:1000], "damaged or cut short"),
        (lambda text: "", "damaged or cut short"),
        (lambda text: "[]", "not an ALFWorld game"),
        (lambda text: "{}", "not an ALFWorld game"),
        (_with("pddl_problem", lambda problem: problem[:2000]), "spoiled.tw-pddl: "),
        (_with("pddl_problem", lambda problem: problem.replace("inReceptacle", "isIn")), "isin"),
        (_with("grammar", lambda grammar: grammar[:3000]), "spoiled.tw-pddl: "),
    ],
)
def test_a_damaged_game_file_is_named(single, game_files, tmp_path, change, message):
    path = _spoil(game_files[0], tmp_path, change)
    with pytest.raises(engines.GameError, match=message) as error:
        single.reset([path])
    assert str(path) in str(error.value)
    assert single.restarts == 0


def test_a_grammar_cannot_run_code(single, game_files, tmp_path):
    trace = tmp_path / "ran"
    attack = f"{{__import__('pathlib').Path('{trace}').touch()}}"
    path = _spoil(
        game_files[0],
        tmp_path,
        _with("grammar", lambda text: text.replace("{r.indefinite} {r.name or r.id}", attack)),
    )
    with pytest.raises(engines.GameError, match="which no ALFWorld grammar needs"):
        single.reset([path])
    assert not trace.exists()


@pytest.mark.parametrize(
    "expression",
    ["open('f')", "__import__('os')", "o.name.format(o)", "o['x']", "o.__class__", "x"],
)
def test_only_what_grammars_need_is_evaluated(expression):
    with pytest.raises(ValueError, match="no ALFWorld grammar needs"):
        alfworld_engine.evaluate(expression, {"o": pathlib.Path("mug 1")})


def test_expressions_of_the_grammar_are_evaluated():
    mug = pathlib.Path("mug 1")  # has a name
    assert alfworld_engine.evaluate("'a' + ' ' + o.name", {"o": mug}) == "a mug 1"
    assert alfworld_engine.evaluate("o.name or o.id", {"o": mug}) == "mug 1"
    assert alfworld_engine.evaluate(" o ", {"o": mug}) is mug


# -------------------------------------------------------------------------------------- Gymnasium


def _doors(name: str) -> str:
    return f"gymnasium:text_doors:{name}-v0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Twins", r"its actions \[0, 1\] are all called 'left'.* a name of its own"),
        ("Few", r"returns 1 names, \['left'\], for 2 actions"),
        ("Spelled", "get_action_meanings returns 'lr', which must be a list of str"),
        ("OldReset", r"its reset returns 'Two doors.', .* 2 values: \(observation, info\)"),
        ("NoInfo", "its info is None, which must be a dict"),
        ("Bytes", "b'Two doors.' as 'observation', which must be a str"),
        ("NoTask", "None as 'task', which must be a str"),
        ("Letters", "'left' as 'admissible_commands', which must be a list of str"),
        ("Digits", r"\[0, 1\] as 'admissible_commands', which must be a list of str"),
        ("Nowhere", r"'up' in 'admissible_commands', .* its actions: \['left', 'right'\]"),
        ("ShortMask", r"array\(\[1\]\) as 'action_mask', .* array of 2 flags"),
        ("OddMask", r"\[0, 2\] as 'action_mask', .* array of 2 flags"),
        ("MaskedTexts", "'action_mask', but its actions are texts .* 'admissible_commands'"),
    ],
)
def test_what_an_environment_begins_with_is_checked(pair, name, message):
    with pytest.raises(engines.GameError, match=f"^{_doors(name)}: .*{message}"):
        pair.reset([_doors(name), None])
    assert pair.restarts == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("OldStep", r"its step returns 4 values, .* \(observation, reward, terminated, truncated"),
        ("OldStepWithLimit", "its step returns 4 values, which must be 5 values"),
        ("NoReward", "None as 'reward', which must be a float"),
        ("NoFlag", "'no' as 'terminated', which must be a bool"),
    ],
)
def test_what_a_step_of_an_environment_returns_is_checked(pair, name, message):
    pair.reset([_doors(name), None])
    with pytest.raises(engines.GameError, match=f"^{_doors(name)}: .*{message}"):
        pair.step(["left", None])
    assert pair.restarts == 0


def test_a_command_that_is_no_action_is_refused_and_costs_nothing(pair):
    pair.reset([_doors("Doors"), _doors("Doors")])
    for _ in range(9):  # The time limit is 5.
        with pytest.raises(engines.GameError, match=r"no action 'jump'; .* \['left', 'right'\]"):
            pair.step(["jump", None])
    seen = pair.step(["right", "left"])
    assert seen.observations == ("You opened 1.", "You opened 0.")
    assert not seen.done.any()
    assert pair.restarts == 0


def test_the_number_of_an_action_begins_where_its_space_does(pair):
    pair.reset([_doors("FromOne"), _doors("FromOne")])
    seen = pair.step(["left", "right"])
    assert seen.observations == ("You opened 1.", "You opened 2.")


@pytest.mark.parametrize(("name", "commands"), [("Masked", ("right",)), ("MaskedTwice", ("left",))])
def test_actions_that_are_masked_are_not_admissible(pair, name, commands):
    assert pair.reset([_doors(name), None]).commands[0] == commands
    assert pair.step(["right", None]).commands[0] == commands


def test_numbers_and_flags_may_be_those_of_numpy(pair):
    pair.reset([_doors("Numpy"), None])
    seen = pair.step(["left", None])
    values = seen.reward[0], seen.terminated[0], seen.truncated[0], seen.won[0]
    assert values == (0.5, False, True, True)


# --------------------------------------------------------------------------- engines of one's own

# An engine that imports nothing, and some that are none.
_NIM = '''
import sys, time

class Nim:
    """Take one or two matches; whoever takes the last one wins, and nobody else plays."""

    def __init__(self, argument):
        self.start = int(argument)

    def reset(self, seed, describe):
        self.left, self.seed, self.describe = self.start, seed, describe
        return self.answer(0)

    def step(self, command):
        if command == "cheat":
            return {"task": "", "observation": "", "commands": []}
        self.left -= int(command.removeprefix("take "))
        return self.answer(1.0 if self.left == 0 else 0.0)

    def answer(self, reward):
        return {
            "task": "Take the last match.",
            "observation": f"{self.left} of {self.start}, {self.seed}, {self.describe}",
            "commands": [f"take {number}" for number in (1, 2) if number <= self.left],
            "reward": reward,
            "won": self.left == 0,
            "terminated": self.left == 0,
            "truncated": False,
        }

class Modules(Nim):
    def answer(self, reward):
        return {**super().answer(reward), "observation": " ".join(sys.modules)}

class File(Nim):
    def __init__(self, argument):
        self.start = int(open(argument).read())

class Hang(Nim):
    def reset(self, seed, describe):
        time.sleep(60)

class Silent(Nim):
    def answer(self, reward):
        return None

class Mute:
    def __init__(self, argument):
        pass

    def reset(self, seed, describe):
        pass
'''


@pytest.fixture(scope="module")
def nim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    (folder / "matches.py").write_text(_NIM)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture
def one(nim):
    with engines.Bridge(num_environments=1, timeout=60) as opened:
        yield opened


@pytest.fixture
def own_names(monkeypatch):
    """What is registered in a test is gone after it."""
    names = Registry("engine", {name: games._ENGINES[name] for name in games._ENGINES})
    monkeypatch.setattr(games, "_ENGINES", names)


def test_an_engine_of_ones_own_plays_by_its_import_path(one):
    seen = one.reset(["engine:matches:Nim:3"], seeds=[7])
    assert seen.tasks == ("Take the last match.",)
    assert seen.observations == ("3 of 3, 7, False",)
    assert seen.commands == (("take 1", "take 2"),)
    assert seen.reward[0] == 0
    seen = one.step(["take 2"])
    assert seen.commands == (("take 1",),)
    seen = one.step(["take 1"])
    assert (seen.reward[0], seen.won[0], seen.terminated[0]) == (1, True, True)


def test_an_engine_of_ones_own_plays_by_the_name_it_was_given(one, own_names):
    engines.register("nim", "matches:Nim")
    engines.register("nim", "".join(["matches", ":Nim"]))  # A notebook's cell is run again.
    assert one.reset(["nim:2"]).observations[0].startswith("2 of 2")


def test_an_engine_is_told_to_describe_the_state(nim):
    with engines.Bridge(num_environments=1, describe=True) as opened:
        assert opened.reset(["engine:matches:Nim:3"]).observations[0].endswith(", True")


def test_an_argument_may_have_colons_and_be_empty():
    assert games.locate("engine:my.module:Engine:a:b") == ("my.module:Engine", "a:b")
    assert games.locate("engine:my.module:Engine:") == ("my.module:Engine", "")
    assert games.locate("engine:my.module:Engine") == ("my.module:Engine", "")


def test_a_process_loads_an_engine_and_nothing_else_of_ours(one):
    (modules,) = one.reset(["engine:matches:Modules:1"]).observations
    own_script = "llmprior_jax.envs.engines.worker"
    roots = {name.partition(".")[0] for name in modules.split() if name != own_script}
    assert "matches" in roots
    assert not roots & {"jax", "numpy", "gymnax", "llmprior_jax", "games", "bridge", "process"}


def test_a_file_that_has_changed_is_opened_anew(one, tmp_path):
    path = tmp_path / "start.txt"
    for start in ("3", "12"):
        path.write_text(start)
        seen = one.reset([f"engine:matches:File:{path}"])
        assert seen.observations[0].startswith(f"{start} of {start}")


@pytest.mark.parametrize(
    ("name", "engine", "message"),
    [
        ("textworld", "matches:Nim", "the engine 'textworld' is there already"),
        ("engine", "matches:Nim", "no engine can be called 'engine'"),
        ("ni:m", "matches:Nim", "with a colon"),
        ("nim", "matches.Nim", "'matches.Nim' is no import path"),
        ("nim", "matches.py:", "'matches.py:' is no import path"),
        ("nim", "matches.py:Nim", "'matches.py:Nim' is no import path"),
    ],
)
def test_a_name_or_a_path_that_is_none_is_refused(own_names, name, engine, message):
    with pytest.raises(ValueError, match=message):
        engines.register(name, engine)


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("engine:nowhere:Nim:3", "nowhere:Nim cannot be imported: No module named 'nowhere'"),
        ("engine:matches:Gnim:3", "matches:Gnim cannot be imported: the module has no 'Gnim'"),
        ("engine:matches:Nim:many", r"invalid literal.*\(ValueError\)"),
        ("engine:matches:Mute:3", "matches:Mute is no engine, it has no method 'step'"),
        ("engine:matches:Silent:3", "matches:Silent answered None, which is no dict"),
    ],
)
def test_an_engine_that_is_none_is_named(one, game, message):
    with pytest.raises(engines.GameError, match=f"^{game}: .*{message}"):
        one.reset([game])
    assert one.restarts == 0


def test_an_engine_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    (tmp_path / "gymnasium.py").write_text("raise ImportError('no such library')")
    monkeypatch.syspath_prepend(tmp_path)
    message = r"no such library; it comes with: pip install 'llmprior-jax\[alfworld\]'"
    with (
        engines.Bridge(num_environments=1) as opened,
        pytest.raises(engines.GameError, match=message),
    ):
        opened.reset(["gymnasium:Corridor-v0"])


def test_an_answer_that_is_none_is_an_error_in_an_episode_too(one):
    one.reset(["engine:matches:Nim:3"])
    with pytest.raises(engines.GameError, match="Nim:3: the answer of matches:Nim has no 'reward'"):
        one.step(["cheat"])


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nothing", "None as 'reward', which must be a float"),
        ("nan", "nan as 'reward', which must be finite in float32"),
        ("much", r"1e\+300 as 'reward', which must be finite in float32"),
    ],
)
def test_a_reward_that_is_no_number_is_refused_by_the_name_of_the_game(corridor, command, message):
    with engines.Bridge(num_environments=1, timeout=60) as opened:
        opened.reset([_GAME])
        with pytest.raises(engines.GameError, match=f"^{_GAME}: .* {message}"):
            opened.step([command])
        assert opened.restarts == 0


def test_an_answer_that_is_none_leaves_the_other_environments_where_they_are(nim):
    with engines.Bridge(num_environments=2, timeout=60) as opened:
        opened.reset(["engine:matches:Nim:3"] * 2)
        with pytest.raises(engines.GameError, match="has no 'reward'"):
            opened.step(["cheat", "take 1"])
        with pytest.raises(ValueError, match="episode of environment 0 is over: reset it first"):
            opened.step(["take 1", None])
        assert opened.step([None, "take 1"]).observations[1].startswith("1 of 3")
        assert opened.step([None, None]).observations[1].startswith("1 of 3")


_ANSWER: Answer = {
    "task": "Take the last match.",
    "observation": "1 of 3",
    "commands": ["take 1"],
    "reward": 0.5,
    "won": False,
    "terminated": True,
    "truncated": False,
}


def test_an_answer_is_passed_on_without_what_is_no_field_of_it():
    assert check_answer("matches:Nim", _ANSWER | {"score": object()}) == _ANSWER
    assert engines.Answer.__annotations__.keys() == _ANSWER.keys()


@pytest.mark.parametrize("reward", [1, np.float32(1), np.int64(1)])
def test_a_reward_may_be_any_number(reward):
    answer = check_answer("matches:Nim", {**_ANSWER, "reward": reward})
    assert type(answer["reward"]) is float
    assert answer["reward"] == 1


@pytest.mark.parametrize("field", list(_ANSWER))
def test_an_answer_without_a_field_is_malformed(field):
    answer = {name: value for name, value in _ANSWER.items() if name != field}
    with pytest.raises(MalformedAnswerError, match=f"answer of matches:Nim has no '{field}'"):
        check_answer("matches:Nim", answer)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", None, "None as 'task', which must be a str, not NoneType"),
        ("observation", 3, "3 as 'observation', which must be a str"),
        ("commands", "take 1", "as 'commands', which must be a list of str, not str"),
        ("commands", ["take 1", 2], "as 'commands', which must be a list of str"),
        ("reward", "1", "as 'reward', which must be a float"),
        ("reward", True, "as 'reward', which must be a float, not bool"),
        ("reward", float("-inf"), "-inf as 'reward', which must be finite"),
        ("reward", 10**400, "as 'reward', which must be finite"),
        ("won", 1, "1 as 'won', which must be a bool"),
        ("terminated", None, "as 'terminated', which must be a bool"),
        ("truncated", np.bool_(False), "as 'truncated', which must be a bool"),
    ],
)
def test_an_answer_with_a_field_of_another_type_is_malformed(field, value, message):
    with pytest.raises(MalformedAnswerError, match=f"answer of matches:Nim has .*{message}"):
        check_answer("matches:Nim", {**_ANSWER, field: value})


# ---------------------------------------------------------------------------------------- ALFWorld


def test_alfworld_answers_as_its_own_engine_does(single, game_files, monkeypatch):
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    monkeypatch.setattr(sys, "argv", sys.argv[:])  # the engine's translator leaves its own there
    request = textworld.EnvInfos(won=True, admissible_commands=True)
    engine = AlfredDemangler(PddlEnv(request), shuffle=False)
    engine.load(game_files[0])
    expected = engine.reset()
    rng = random.Random(0)
    seen = single.reset([game_files[0]])
    assert seen.tasks[0] == expected["feedback"].splitlines()[-1]
    for _ in range(60):
        assert seen.observations[0] == expected["feedback"]
        assert list(seen.commands[0]) == expected["admissible_commands"]
        assert seen.won[0] == expected["won"]
        if seen.done[0]:
            break
        # An inadmissible command now and then, too.
        command = rng.choice([*seen.commands[0], "open sesame"])
        expected, _, _ = engine.step(command)
        seen = single.step([command])


def test_walkthroughs_win_in_a_batch_of_different_games(game_files):
    plans = [json.loads(pathlib.Path(path).read_text())["walkthrough"] for path in game_files]
    with engines.Bridge(num_environments=len(plans)) as opened:
        seen = opened.reset(game_files)
        for step in range(max(map(len, plans))):
            seen = opened.step([plan[step] if step < len(plan) else None for plan in plans])
        assert seen.won.all()
        assert seen.terminated.all()
        assert not opened.reset(game_files).done.any()


def test_games_are_found_by_split_and_task(data, game_files):
    assert len(game_files) == 2
    (path,) = engines.find_games(data, task_types=["look_at_obj_in_light"])
    assert "look_at_obj_in_light" in path
    with pytest.raises(engines.GameError, match="No solvable game of"):
        engines.find_games(data, task_types=["pick_two_obj_and_place"])


def test_the_data_directory_is_that_of_the_variable(data, game_files, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(data))
    assert engines.find_games() == game_files


def test_a_missing_data_directory_says_how_to_get_one(tmp_path):
    with pytest.raises(engines.GameError, match=r"alfworld-download.*launch\.make_games"):
        engines.find_games(tmp_path, split="valid_seen")


def test_games_that_alfworld_leaves_out_are_left_out(game_files, tmp_path):
    trial = pathlib.Path(game_files[0]).parent
    for task, solvable in (
        ("pick_and_place_simple-Mug-None-Shelf-1", False),
        ("pick_and_place_with_movable_recep-Mug-Pot-Shelf-1", True),
        ("pick_and_place_simple-AppleSliced-None-Shelf-1", True),
        ("pick_and_place_simple-Cup-None-Shelf-1", True),
    ):
        folder = tmp_path / "json_2.1.1" / "train" / task / "trial_T1"
        folder.mkdir(parents=True)
        (folder / "traj_data.json").write_text((trial / "traj_data.json").read_text())
        (folder / "game.tw-pddl").write_text(json.dumps({"solvable": solvable}))
    assert [path.split("/")[-3] for path in engines.find_games(tmp_path)] == [
        "pick_and_place_simple-Cup-None-Shelf-1"
    ]


@pytest.mark.parametrize("name", ["game.tw-pddl", "traj_data.json"])
def test_a_damaged_file_of_a_data_directory_is_named(game_files, tmp_path, name):
    trial = pathlib.Path(game_files[0]).parent
    folder = tmp_path / "json_2.1.1" / "train" / "pick_and_place_simple-Cup-None-Shelf-1" / "t"
    folder.mkdir(parents=True)
    for file in ("traj_data.json", "game.tw-pddl"):
        text = (trial / file).read_text()
        (folder / file).write_text(text[: len(text) // 2] if file == name else text)
    with pytest.raises(engines.GameError, match=rf"{name}: damaged or cut short"):
        engines.find_games(tmp_path)


# --------------------------------------------------------------------------------------- TextWorld


@pytest.fixture(scope="module")
def salad(tmp_path_factory) -> str:
    """A game of which the first wanted food is the carrot."""
    path = tmp_path_factory.mktemp("textworld") / "salad.z8"
    make_textworld.make_game(path, 2, random.Random("0 0"))
    return str(path)


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty working directory, for the processes, too, that a bridge starts in it."""
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _story(folder: pathlib.Path, code: bytes) -> pathlib.Path:
    path = folder / "story.z8"
    path.write_bytes(z_code.story(code))
    return path


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((name, name) for name in ("save", "restore", "script", "quit", "restart", "undo")),
        ("  SAVE  ", "save"),
        ("transcripts on", "transcript"),  # A game looks at nine letters.
        ("q", "q"),
        ("look. save", "save"),
        ("look, save", "save"),
        ("look then save", "save"),
        ("oops save", "save"),
        ("superbrief", "superbrief"),
        ("restrict commands", "restrict commands"),
        ("tw-print version", "tw-print"),
    ],
)
def test_what_is_not_for_the_game_is_answered_and_not_passed_on(single, salad, command, name):
    before = single.reset([salad])
    seen = single.step([command])
    assert seen.observations == (f'"{name}" is no command of this game.',)
    assert seen.commands == before.commands
    assert not seen.done[0]
    seen = single.step(["inventory"])
    assert seen.observations == ("You are carrying nothing.",)


@pytest.mark.parametrize("command", ["look\nlook", "look\rlook", "look\0look", "\x10", "\\help"])
def test_a_command_is_one_line_of_text(single, salad, command):
    single.reset([salad])
    assert single.step([command]).observations == (
        "A command is one line of text, without backslashes.",
    )
    assert single.step(["inventory"]).observations == ("You are carrying nothing.",)
    assert single.restarts == 0


@pytest.mark.parametrize("command", ["é" * 300, "\ud800", "save the carrots", "take o", ""])
def test_any_text_is_a_command(single, salad, command):
    single.reset([salad])
    assert single.step([command]).observations[0]
    assert single.step(["inventory"]).observations == ("You are carrying nothing.",)
    assert single.restarts == 0


def test_what_is_not_passed_on_is_a_step_and_leaves_the_description(single, salad, monkeypatch):
    monkeypatch.setattr(single, "_describe", True)
    monkeypatch.setattr(single, "_max_steps", 2)
    first = single.reset([salad])
    for last in (False, True):
        seen = single.step(["save"])
        assert seen.observations == first.observations
        assert seen.truncated[0] == last


def test_no_episode_restores_another(single, salad):
    single.reset([salad])
    assert single.step(["take carrot"]).reward[0] == 1
    single.step(["save"])
    single.reset([salad])
    assert single.step(["restore"]).reward[0] == 0
    assert single.step(["inventory"]).observations == ("You are carrying nothing.",)


def test_files_of_a_game_end_with_its_episode(own_folder):
    game = _story(own_folder, 3 * z_code.READ + z_code.SAVE)
    with engines.Bridge(num_environments=1) as opened:
        folder = pathlib.Path(opened._workers[0]._folder.name)
        opened.reset([game.name])
        for _ in range(3):
            opened.step(["wait"])
        assert list(folder.rglob("story*"))
        opened.reset([game.name])
        assert not list(folder.rglob("story*"))
    assert not folder.exists()
    assert list(own_folder.iterdir()) == [game]


def test_a_halted_emulator_is_a_lost_process(single, tmp_path):
    before = single.restarts
    seen = single.reset([_story(tmp_path, 3 * z_code.READ + z_code.ILLEGAL)])
    while not seen.done[0]:
        seen = single.step(["wait"])
    assert seen.lost[0]
    assert not seen.terminated[0]
    assert single.restarts == before + 1


def test_a_game_that_halts_on_starting_is_named(single, tmp_path):
    before = single.restarts
    with pytest.raises(engines.GameError, match=r"story\.z8: the emulator halted"):
        single.reset([_story(tmp_path, z_code.ILLEGAL)])
    assert single.restarts == before


def test_a_damaged_game_that_hangs_takes_one_timeout(single, salad, tmp_path, monkeypatch):
    single.reset([salad])  # TextWorld is loaded.
    before = single.restarts
    monkeypatch.setattr(single, "_timeout", 1)
    game = _story(tmp_path, z_code.HANG)
    with pytest.raises(engines.GameError, match=r"story\.z8: .* did not answer within 1 seconds"):
        single.reset([game])
    assert single.restarts == before + 1, "no second try"


def test_only_textworlds_own_games_are_described(single, tmp_path, monkeypatch):
    monkeypatch.setattr(single, "_describe", True)
    with pytest.raises(engines.GameError, match=r"own games only.*engine\.describe"):
        single.reset([_story(tmp_path, z_code.READ)])


@pytest.mark.long
def test_textworlds_own_games_play(single, tmp_path):
    path = tmp_path / "game.z8"
    maker = pathlib.Path(sys.executable).with_name("tw-make")
    command = [str(maker), "custom", "--world-size=2", "--nb-objects=3", "--quest-length=2"]
    subprocess.run(
        [*command, "--seed=1", f"--output={path}"], check=True, capture_output=True, timeout=300
    )
    walkthrough = json.loads(path.with_suffix(".json").read_text())["metadata"]["walkthrough"]
    seen = single.reset([path])
    assert seen.tasks[0].startswith("Welcome to TextWorld!")
    assert seen.observations[0].startswith(seen.tasks[0])
    for command in walkthrough:
        assert command in seen.commands[0]
        seen = single.step([command])
    assert seen.won[0]
    assert seen.terminated[0]
    assert seen.reward[0] == 1

    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(engines.GameError, match=r"game\.z8: "):
        single.reset([path])
