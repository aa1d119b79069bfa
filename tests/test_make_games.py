"""The generated ALFWorld games: chosen fairly, laid out as the official ones, won in the engine."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("alfworld")

from llmprior_jax.envs import engines
from llmprior_jax.envs.alfworld import game_maker
from llmprior_jax.envs.alfworld.tasks import (
    SPLITS,
    TASK_TYPES,
    choose_tasks,
    feasible_tasks,
    is_held_out,
)

_SEED = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """One training game of each task."""
    out = tmp_path_factory.mktemp("alfworld")
    game_maker.make_games(out, train=1, unseen=0, seed=_SEED)
    return out


@pytest.fixture(scope="module")
def game_files(data) -> dict[str, pathlib.Path]:
    """Task type -> its game file."""
    return {
        path.parent.parent.name.split("-")[0]: path
        for path in (data / "json_2.1.1" / "train").glob("*/*/game.tw-pddl")
    }


# ------------------------------------------------------------------------------- what is asked for


@pytest.fixture(scope="module")
def chosen():
    return choose_tasks(tuple(TASK_TYPES), train=28, unseen=26, seed=0)


def test_every_task_gets_as_many_games_as_asked(chosen):
    counts = {key: len(tasks) for key, tasks in chosen.items()}
    assert counts == {
        (split, name): count
        for split, count in (("train", 28), ("valid_unseen", 26))
        for name in TASK_TYPES
    }


def test_training_never_has_a_pair_of_an_unseen_game(chosen):
    pairs = {
        split: {
            (task.target, task.receptacle)
            for (of_split, _), tasks in chosen.items()
            if of_split == split
            for task in tasks
        }
        for split in SPLITS
    }
    assert not pairs["train"] & pairs["valid_unseen"]


def test_a_pair_is_unseen_whatever_the_seed_and_the_counts(chosen):
    """So that what is trained on before the games are made can leave it out."""
    unseen = {
        task.pair
        for (split, _), tasks in chosen.items()
        if split == "valid_unseen"
        for task in tasks
    }
    assert all(is_held_out(*pair) for pair in unseen)
    assert all(is_held_out(*(name.lower() for name in pair)) for pair in unseen)
    for counts in ({"train": 9, "unseen": 2}, {"train": 2, "unseen": 9}):
        other = choose_tasks(tuple(TASK_TYPES), seed=5, **counts)
        for (split, _), tasks in other.items():
            for task in tasks:
                assert is_held_out(*task.pair) == (split == "valid_unseen")


def test_unseen_games_play_in_alfreds_test_floor_plans(chosen):
    for (split, _), tasks in chosen.items():
        for task in tasks:
            # ALFRED tests in the first 6 of each kind of room's 30 floor plans.
            assert (task.plan % 100 <= 6) == (split == "valid_unseen")


def test_pairs_repeat_only_when_all_have_come_up(chosen):
    for tasks in chosen.values():
        pairs = [(task.target, task.receptacle) for task in tasks]
        counts = {pairs.count(pair) for pair in pairs}
        assert max(counts) - min(counts) <= 1


def test_another_seed_chooses_other_games(chosen):
    assert chosen != choose_tasks(tuple(TASK_TYPES), train=28, unseen=26, seed=1)


@pytest.mark.parametrize(
    ("task", "rooms", "never_to"),
    [
        ("examine", {2, 3}, None),
        ("clean", {0, 4}, "SinkBasin"),
        ("heat", {0}, "Microwave"),
        ("cool", {0}, "Fridge"),
    ],
)
def test_tasks_are_asked_for_where_they_can_be_done(task, rooms, never_to):
    possible = [
        one for plan in (8, 203, 305, 410) for one in feasible_tasks(TASK_TYPES[task], plan)
    ]
    assert {one.plan // 100 for one in possible} == rooms
    assert never_to not in {one.receptacle for one in possible}


def test_nothing_is_to_be_put_where_it_does_not_fit():
    pairs = {task.pair for task in feasible_tasks("pick_and_place_simple", 8)}
    assert ("Egg", "Microwave") in pairs
    assert ("Spoon", "Microwave") not in pairs
    assert ("Fridge", "CounterTop") not in pairs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tasks": ["pick", "wash"]},
            r"no task 'wash'; did you mean .* There are pick",
        ),
        ({"tasks": []}, "at least one task: there are pick, examine"),
        ({"train": -1}, "Cannot make -1 training"),
        ({"train": 0, "unseen": 0}, "Cannot make 0 training"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message):
    with pytest.raises(engines.GameError, match=message):
        game_maker.make_games(tmp_path / "out", **arguments)


@pytest.mark.long
def test_games_are_not_mixed_into_those_already_there(data):
    with pytest.raises(engines.GameError, match="already exists"):
        game_maker.make_games(data, train=1, unseen=0)


# -------------------------------------------------------------------------------- what is written


def test_each_task_has_its_game(game_files):
    assert set(game_files) == set(TASK_TYPES.values())


def test_the_layout_is_that_of_the_official_data(data):
    files = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    assert {"logic/alfred.pddl", "logic/alfred.twl2"} < files
    trial = re.compile(
        r"json_2\.1\.1/train/[a-z_]+-[A-Za-z]+-None-[A-Za-z]+-\d+/trial_T\w+/"
        r"(game\.tw-pddl|initial_state\.pddl|traj_data\.json)"
    )
    assert all(trial.fullmatch(file) for file in files if not file.startswith("logic/"))
    assert len(files) == 2 + 3 * len(TASK_TYPES)


def test_the_files_of_a_game_agree(game_files):
    for task_type, path in game_files.items():
        game = json.loads(path.read_text())
        told = json.loads(path.with_name("traj_data.json").read_text())
        assert game["pddl_problem"] == path.with_name("initial_state.pddl").read_text()
        assert told["task_type"] == task_type
        _, target, _, receptacle, plan = path.parent.parent.name.split("-")
        goal = "toggle_target" if task_type == "look_at_obj_in_light" else "parent_target"
        assert told["pddl_params"]["object_target"] == target
        assert told["pddl_params"][goal] == receptacle
        assert told["scene"]["scene_num"] == int(plan)
        assert f"Your task is to: {told['template']['task_desc']}." in game["grammar"]
        assert target.lower() in told["template"]["task_desc"]
        assert receptacle.lower() in told["template"]["task_desc"]


def test_nothing_starts_where_the_task_wants_it(game_files):
    used = {
        "pick_clean_then_place_in_recep": "Sink",
        "pick_heat_then_place_in_recep": "Microwave",
        "pick_cool_then_place_in_recep": "Fridge",
    }
    for task_type, path in game_files.items():
        _, target, _, receptacle, _ = path.parent.parent.name.split("-")
        banned = used.get(task_type, receptacle)
        problem = path.with_name("initial_state.pddl").read_text()
        homes = re.findall(rf"\(inReceptacle {target}_bar_\S+ ([A-Za-z]+)_bar_", problem)
        assert len(homes) >= (2 if task_type == "pick_two_obj_and_place" else 1)
        assert banned not in homes


def test_rooms_hold_about_as_much_as_the_official_ones(game_files):
    for path in game_files.values():
        problem = path.with_name("initial_state.pddl").read_text()
        assert 5 <= problem.count("(receptacleType ") <= 60
        assert 10 <= problem.count("(inReceptacle ") <= 80


def test_every_walkthrough_wins_with_its_last_command(game_files):
    with engines.Bridge(num_environments=1) as player:
        for path in game_files.values():
            seen = player.reset([path])
            for command in json.loads(path.read_text())["walkthrough"]:
                assert not seen.won[0], path
                assert command in seen.commands[0], path
                seen = player.step([command])
            assert seen.won[0], path


@pytest.fixture
def alfred_environment(data, monkeypatch):
    """Opens ALFWorld's own environment on some tasks, by ALFWorld's numbers for them."""
    from alfworld.agents.environment import alfred_tw_env

    monkeypatch.setattr(sys, "argv", sys.argv[:])  # the engine's translator leaves its own there

    def opened(task_numbers):
        config = {
            "env": {
                "goal_desc_human_anns_prob": 0,
                "task_types": task_numbers,
                "domain_randomization": False,
                "expert_type": "planner",
            },
            "dataset": {"data_path": str(data / "json_2.1.1" / "train"), "num_train_games": -1},
            "general": {"training_method": "dqn"},
            "rl": {"training": {"max_nb_steps_per_episode": 50}},
        }
        return alfred_tw_env.AlfredTWEnv(config, train_eval="train")

    return opened


def test_alfworlds_own_environment_finds_the_games(alfred_environment, game_files):
    found = alfred_environment([1, 2, 3, 4, 5, 6]).game_files
    assert set(found) == {str(path) for path in game_files.values()}


@pytest.mark.long
def test_alfworlds_own_environment_plays_the_games(alfred_environment):
    environment = alfred_environment([1, 2]).init_env(batch_size=1)
    for _ in range(2):
        _, infos = environment.reset()
        game = json.loads(pathlib.Path(infos["extra.gamefile"][0]).read_text())
        for command in game["walkthrough"]:
            assert not infos["won"][0]
            assert command in infos["admissible_commands"][0]
            _, _, _, infos = environment.step([command])
        assert infos["won"][0], infos["extra.gamefile"]
    environment.close()


@pytest.mark.long
def test_the_command_makes_the_same_bytes_again(game_files, tmp_path):
    command = [sys.executable, "-m", "launch.make_games", "--tasks=pick", "--train=1"]
    command += ["--unseen=0", f"--seed={_SEED}", f"--out={tmp_path / 'again'}"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (again,) = engines.find_games(tmp_path / "again")
    path = game_files["pick_and_place_simple"]
    assert pathlib.Path(again).parts[-5:] == path.parts[-5:]
    for name in ("game.tw-pddl", "initial_state.pddl", "traj_data.json"):
        assert pathlib.Path(again).with_name(name).read_bytes() == path.with_name(name).read_bytes()
