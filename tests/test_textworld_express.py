"""TextWorldExpress through the bridge: its games, its seeds, and what is missing."""

import contextlib
import os
import pathlib
import shutil

import pytest

pytest.importorskip("textworld_express")
if shutil.which("java") is None:
    pytest.skip("there is no java", allow_module_level=True)

from textworld_express import TextWorldExpressEnv

from llmprior_jax.envs import engines

TWC = "textworld_express:twc:train:numLocations=1,includeDoors=0"


@pytest.fixture(scope="module")
def pair():
    with engines.Bridge(num_environments=2, max_steps=60, timeout=60) as opened:
        yield opened


def solve(generator, fold, properties):
    """The seeds of a fold, the commands that solve its first game, and what the package says."""
    reference = TextWorldExpressEnv()
    reference.load(generator, properties)
    seeds = getattr(reference, f"getValidSeeds{fold.capitalize()}")()
    reference.reset(seed=seeds[0], gameFold=fold, generateGoldPath=True)
    commands = reference.getGoldActionSequence()
    said = [reference.step(command) for command in commands]
    reference.close()
    return seeds, commands, said


@pytest.mark.parametrize(
    ("generator", "fold", "properties"),
    [
        ("twc", "train", "numLocations=1,includeDoors=0"),
        ("cookingworld", "dev", "numLocations=1,numIngredients=2,includeDoors=0"),
        ("coin", "test", "numLocations=4,includeDoors=1"),
    ],
)
def test_a_game_is_played_as_the_package_plays_it(pair, generator, fold, properties):
    seeds, commands, said = solve(generator, fold, properties)
    game = f"textworld_express:{generator}:{fold}:{properties}"
    seen = pair.reset([game, game], seeds=[0, len(seeds)])
    assert seen.observations[0] == seen.observations[1], "the seeds of a fold begin again"
    for number, (command, (observation, reward, _, info)) in enumerate(
        zip(commands, said, strict=True)
    ):
        assert command in seen.commands[0]
        seen = pair.step([command, command])
        assert seen.observations[0] == " ".join(observation.split())
        assert seen.reward[0] == pytest.approx(reward)
        assert list(seen.commands[0]) == sorted(info["validActions"])
        is_last = number == len(commands) - 1
        assert (seen.won[0], seen.terminated[0]) == (is_last, is_last)
    assert seen.tasks[0] == said[0][3]["taskDescription"].strip()


@pytest.mark.parametrize("name", ["twc", "cookingworld", "coin"])
def test_games_for_training_and_for_tests_differ(pair, name):
    games = [f"textworld_express:{name}:{fold}" for fold in ("train", "test")]
    train, test = pair.reset(games, seeds=[1, 1]).observations
    assert train != test


def test_a_state_is_described_by_what_is_there_and_what_is_carried():
    _, commands, _ = solve("twc", "train", "numLocations=1,includeDoors=0")
    with engines.Bridge(num_environments=1, describe=True, timeout=60) as opened:
        first = opened.reset([TWC], seeds=[0]).observations[0]
        assert "Your inventory is currently empty" in first
        # To look is no change.
        assert opened.step(["look around"]).observations[0] == first
        taking = next(each for each in commands if each.startswith("take"))
        assert "currently empty" not in opened.step([taking]).observations[0]


@pytest.mark.parametrize(
    ("game", "message"),
    [
        ("twc:training", "its games are for train, dev, test, not 'training'"),
        ("tw:train", r"Unknown game \(tw\)"),
        ("twc:train:foo=3", r"Unrecognized property name \(foo\)"),
        ("twc:train:numLocations=many", "use GAME:FOLD or GAME:FOLD:PROPERTIES"),
    ],
)
def test_a_game_that_does_not_exist_is_refused(game, message):
    with (
        engines.Bridge(num_environments=1, timeout=60) as opened,
        pytest.raises(engines.GameError, match=message),
    ):
        opened.reset([f"textworld_express:{game}"])


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "runs in Java, and there is no `java`"),
        (
            """echo 'openjdk version "1.7.0_80"' >&2""",
            "is Java 7, and this TextWorldExpress needs 8",
        ),
        ("echo 'no such thing' >&2", "does not say its version"),
    ],
)
def test_a_java_that_is_missing_or_too_old_is_named(script, message, tmp_path, monkeypatch):
    if script is not None:
        (tmp_path / "java").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "java").chmod(0o755)
    # The shell that runs the script is named by its path.
    monkeypatch.setenv("PATH", str(tmp_path))
    assert os.path.exists("/bin/sh")
    with (
        engines.Bridge(num_environments=1, timeout=60) as opened,
        pytest.raises(engines.GameError, match=message),
    ):
        opened.reset([TWC])


def test_games_of_a_process_share_one_java():
    with engines.Bridge(num_environments=1, timeout=60) as opened:
        opened.reset([TWC])
        parent = opened._workers[0]._process.pid
        first = _children(parent)
        opened.reset(["textworld_express:coin:train"])
        assert first
        assert _children(parent) == first


def _children(parent: int) -> set[int]:
    found = set()
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.add(int(status.parent.name))
    return found


def test_a_lost_process_costs_its_own_episode_only(pair):
    pair.reset([TWC, TWC], seeds=[3, 4])
    pair._workers[0]._process.kill()
    seen = pair.step(["look around", "look around"])
    assert list(seen.lost) == [True, False]
    assert pair.reset([TWC, TWC], seeds=[3, 4]).observations[0]
