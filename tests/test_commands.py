"""The commands that are printed: they have their flags, configs their fields, and they run."""

import ast
import functools
import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import NamedTuple

import nbformat
import pytest
from absl import flags
from ml_collections import ConfigDict
from test_launch import ROOT

from launch.common import app
from llmprior_jax import training
from llmprior_jax.registry import unknown

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "llmprior_jax").rglob("*.md")),
]
FENCED = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python -m launch|llmprior-|make |pip install )[^`]+)`", re.DOTALL)
# In docstrings of commands and configs, and in pages: indented by four, continued by a backslash.
INDENTED = re.compile(r"^    ((?:python -m launch\.|pip install )(?:.*\\\n)*.*)", re.MULTILINE)
OWN = re.compile(r"python -m launch\.|llmprior-|make |pip install ")


def commands() -> list[tuple[str, str]]:
    """Where a command stands, and the command."""
    found = []
    for page in PAGES:
        text = page.read_text()
        found += [(page.name, command) for command in INLINE.findall(text)]
        found += [(page.name, text.replace("\\\n", " ")) for text in INDENTED.findall(text)]
        for block in FENCED.findall(text):
            found += [(page.name, command) for command in block.replace("\\\n", " ").splitlines()]
    for source in sorted((ROOT / "launch").rglob("*.py")):
        doc = ast.get_docstring(ast.parse(source.read_text()), clean=False) or ""
        found += [(source.name, text.replace("\\\n", " ")) for text in INDENTED.findall(doc)]
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            found += [(path.name, command) for command in INLINE.findall(cell.source)]
            lines = [line.strip() for line in cell.source.splitlines()]
            found += [(path.name, line.lstrip("!%")) for line in lines if line[:1] in ("!", "%")]
    return [
        (where, " ".join(command.split()))
        for where, command in dict.fromkeys(found)
        if OWN.match(" ".join(command.split()))
    ]


COMMANDS = commands()


def flags_of(module: str) -> flags.FlagValues:
    """The flags that a command defines."""
    found = importlib.util.find_spec(module)
    assert found, f"there is no command {module}"
    if found.submodule_search_locations:
        module += ".__main__"
    return importlib.import_module(module).FLAGS


def check(command: str) -> None:
    """Raises if a command could not be given as it stands."""
    # Optional parts stand in brackets, and what comes after a mark is no part of it.
    words = shlex.split(command.replace("[--", "--").replace("] ", " ").rstrip("]"), comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
        return
    if words[:2] == ["pip", "install"]:
        extras = [e for word in words for m in re.findall(r"\[(.*)\]", word) for e in m.split(",")]
        own = [word for word in words if word.startswith((".", "llmprior"))]
        assert not own or set(extras) <= set(PROJECT["optional-dependencies"])
        return
    if words[0].startswith("llmprior-"):
        module, rest = PROJECT["scripts"][words[0]].partition(":")[0], words[1:]
    else:
        assert words[:2] == ["python", "-m"]
        module, rest = words[2], words[3:]
    own = flags_of(module)
    for word in rest:
        if word.startswith("--"):
            _check_flag(word[2:], own)


def _check_flag(word: str, own: flags.FlagValues) -> None:
    name, equals, value = word.partition("=")
    positive = name.removeprefix("no")
    if name.startswith("config."):
        assert "config" in own
        _check_field(name.removeprefix("config."))
    elif positive in own and own[positive].boolean:
        assert not equals
    else:
        assert name in own, unknown("flag", name, own)
        assert equals, f"--{name} needs a value"
    if name == "config" and re.fullmatch(r"[\w/]+(\.py)?", value):
        app.find_config(value)
    if name == "set":
        _check_field(value.partition("=")[0])


def _check_field(name: str) -> None:
    field = training.default_config()
    for part in name.split("."):
        assert isinstance(field, ConfigDict)
        field = getattr(field, part)


def test_there_are_commands():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("where", "command"), COMMANDS, ids=lambda text: text[:60])
def test_a_printed_command_is_one(where, command):
    del where
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "python -m launch.train --config=quickstart --workdri=runs/a",
        "python -m launch.train --config=quickstart --config.agent.alhpa=1",
        "python -m launch.sweep --config=quickstart --workdir=a --set=agent.alhpa=1",
        "python -m launch.tarin --config=quickstart",
        "python -m launch.train --config=quickstrat",
        "make trian",
        "pip install 'llmprior-jax[alfwrld]'",
    ],
)
def test_a_command_that_is_none_is_noticed(command):
    with pytest.raises((AssertionError, AttributeError, FileNotFoundError)):
        check(command)


class Run(NamedTuple):
    """How a printed command is run here.

    Attributes:
      smaller: flags that come after those that are printed, so that it ends within seconds.
      after: printed commands that are run before it, in the same directory.
      leaves: patterns of files that it writes.
      is_long: whether the test is one of the long ones.
    """

    smaller: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    is_long: bool = True


QUICKSTART = "python -m launch.train --config=quickstart --workdir=runs/quickstart"
COLLECT = (
    "python -m launch.collect --env=Overcooked-TomatoLettuceSalad --behavior=expert@0.7 "
    "--success_share=0.75 --transitions=32000 --out=data/salad.parquet"
)
SALADS = "python -m launch.make_textworld --games=4 --out=data/salads"
RUNS = {
    QUICKSTART: Run(
        (  # As in test_experiment, so that the programs are compiled for both.
            "--config.env=FrozenLake-4x4",
            "--config.agents=('dqn_prior',)",
            "--config.num_seeds=2",
            "--config.num_steps=320",
            "--config.eval_every=160",
            "--config.eval_episodes=16",
        ),
        leaves=("runs/quickstart/summary.json",),
        is_long=False,
    ),
    "python -m launch.watch --workdir=runs/quickstart": Run(
        after=(QUICKSTART,),
        leaves=("runs/quickstart/watch/episode.html", "runs/quickstart/watch/episode.gif"),
        is_long=False,
    ),
    "python -m launch.inspect_prior --workdir=runs/quickstart": Run(
        ("--states=1", "--out=compared.html"), (QUICKSTART,), ("compared.html",)
    ),
    'python -m launch.inspect_prior --env=Overcooked-TomatoLettuceSalad --match="You hold" '
    "--out=prior.html": Run(leaves=("prior.html",)),
    "python -m launch.survey --prior=tiny --env=Overcooked-TomatoSalad --prompts=plain "
    "--normalizations=sum,token,word": Run(
        ("--normalizations=sum", "--episodes=8"), leaves=("survey/survey.json", "survey/*.png")
    ),
    "python -m launch.prior show": Run(after=(QUICKSTART,), is_long=False),
    "python -m launch.prior remove --model=tiny": Run(after=(QUICKSTART,), is_long=False),
    COLLECT: Run(("--transitions=400",), leaves=("data/salad.parquet",)),
    "python -m launch.train --config=overcooked_cql_prior --workdir=runs/offline": Run(
        (
            "--config.agents=('cql_prior',)",
            "--config.offline.size=200",
            "--config.num_seeds=1",
            "--config.num_steps=20",
            "--config.eval_every=20",
            "--config.eval_episodes=2",
        ),
        (COLLECT,),
        ("runs/offline/summary.json",),
    ),
    SALADS: Run(("--games=1",), leaves=("data/salads/*.z8",)),
    "python -m launch.train --config=textworld_free_form --workdir=runs/salads": Run(
        (
            "--config.agents=('dqn_prior',)",
            "--config.freeform.k=4",
            "--config.loop.num_envs=1",
            "--config.loop.warmup_steps=4",
            "--config.num_seeds=1",
            "--config.num_steps=12",
            "--config.eval_every=12",
            "--config.eval_episodes=1",
        ),
        (SALADS,),
        ("runs/salads/summary.json",),
    ),
}
# What the other commands do, by their kinds, these tests do with less ...
ELSEWHERE = {
    "launch.train overcooked_dqn_prior": "test_experiment",
    "launch.train overcooked_gflan_prior": "test_policy_run",
    "launch.train alfworld_pick": "test_alfworld_training",
    "launch.train alfworld_examine": "test_alfworld_training",
    "launch.train alfworld_pick_refine": "test_refinement",
    "launch.train overcooked_mem_q": "test_mem_q",
    "launch.train overcooked_search_prior": "test_search",
    "launch.paper.draw": "test_draw",
    "launch.paper.overestimation": "test_overestimation",
    "launch.paper.refinement": "test_refined_priors",
    "launch.evaluate": "test_experiment",
    "launch.import_dataset": "test_import_dataset",
    "launch.make_games": "test_make_games",
    "launch.sweep": "test_sweep",
    "launch.report": "test_report",
    "launch.search_settings": "test_search_settings",
    "launch.real_models": "test_real_models",
    "launch.trust": "test_trust_report",
    "launch.prior fill": "test_store",
    "launch.prior export": "test_store",
    "launch.prior import": "test_store",
    "launch.benchmark accelerator": "test_scoring_benchmark",
    "launch.benchmark envs": "test_envs_benchmark",
    "launch.benchmark train": "test_envs_benchmark",
    "launch.benchmark scoring": "test_scoring_benchmark",
    "launch.benchmark generation": "test_scoring_benchmark",
}
# ... or it is run by hand: it takes minutes, or needs a network.
BY_HAND = {
    *("make train", "make test", "make clean", "make package", "make versions", "make docs"),
    *("pip install", "launch.pretrain", "launch.reproduce", "launch.train babyai_go_to_local"),
    *("launch.train paper_dqn_prior", "launch.train paper_dqn"),
    *("launch.train paper_cql_prior", "launch.train paper_cql"),
    "launch.train textworld_commonsense",
}


def kind(command: str) -> str:
    """What a command does: its module, and the config that it trains or the word that says what."""
    words = shlex.split(command, comments=True)
    if words[0] != "python":
        return " ".join(words[:2])
    config = re.search(r"--config=(?:launch/configs/)?(\w+)", command)
    if words[2] == "launch.train" and config:
        return f"{words[2]} {config[1]}"
    return " ".join(word for word in words[2:4] if not word.startswith("-"))


@pytest.mark.parametrize("what", sorted({kind(command) for _, command in COMMANDS}))
def test_what_a_printed_command_does_is_run(what):
    assert what in BY_HAND | ELSEWHERE.keys() | {kind(command) for command in RUNS}
    assert what not in ELSEWHERE or (ROOT / "tests" / f"{ELSEWHERE[what]}.py").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Where the commands are run, one after another."""
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def run(folder) -> Callable[[str], None]:
    """Runs a printed command and those before it, each once."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    @functools.cache
    def run_once(command: str) -> None:
        for earlier in RUNS[command].after:
            run_once(earlier)
        words = [sys.executable, *shlex.split(command)[1:], *RUNS[command].smaller]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"

    return run_once


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.long] if RUNS[command].is_long else [])
        for command in RUNS
    ],
    ids=lambda command: command[:60],
)
def test_a_printed_command_runs(folder, run, command):
    assert any(printed.partition(" #")[0] == command for _, printed in COMMANDS)
    if "textworld" in command:
        pytest.importorskip("textworld")
    run(command)
    for pattern in RUNS[command].leaves:
        assert list(folder.glob(pattern)), f"there is no {pattern}"
