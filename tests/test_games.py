"""Games by name and by directory."""

import pathlib

import pytest

from llmprior_jax import training
from llmprior_jax.envs.engines import list_games


def test_a_game_stands_for_itself_and_a_directory_for_the_games_in_it(tmp_path):
    for name in ("b.z8", "a.z8", "c.ulx", "a.json", "a.ni"):
        (tmp_path / name).touch()
    assert list_games(["gymnasium:Corridor-v0", str(tmp_path), "x/game.tw-pddl"]) == [
        "gymnasium:Corridor-v0",
        *(str(tmp_path / name) for name in ("a.z8", "b.z8", "c.ulx")),
        "x/game.tw-pddl",
    ]


def test_a_split_of_alfworld_is_listed_as_alfworld_lists_it(tmp_path):
    for task, content in (("pick-Mug-None-Shelf-1", "true"), ("pick-Cup-None-Shelf-1", "false")):
        folder = tmp_path / "json_2.1.1" / "valid_unseen" / task / "trial"
        folder.mkdir(parents=True)
        (folder / "traj_data.json").write_text('{"task_type": "pick_and_place_simple"}')
        (folder / "game.tw-pddl").write_text(f'{{"solvable": {content}}}')
    (game,) = list_games([str(tmp_path / "json_2.1.1" / "valid_unseen")])
    assert pathlib.Path(game).parts[-3] == "pick-Mug-None-Shelf-1"


@pytest.mark.parametrize("name", ["empty", "json_2.1.1/train"])
def test_a_directory_without_games_is_named(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"{name}"):
        list_games([str(tmp_path / name)])


def test_a_game_named_twice_is_refused(tmp_path):
    (tmp_path / "a.z8").touch()
    with pytest.raises(ValueError, match=r"a\.z8 is named twice"):
        list_games([str(tmp_path), str(tmp_path / "a.z8")])


def test_games_for_an_environment_without_games_are_refused(tmp_path):
    config = training.default_config()
    config.games.train = ("somewhere.tw-pddl",)
    with pytest.raises(TypeError, match="has no settings; leave 'games' out"):
        training.run(config, tmp_path)
