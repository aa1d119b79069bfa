"""The commands that are printed: apps have their flags, configs their fields; some are run."""

import ast
import functools
import os
import re
import shlex
import subprocess
import sys
import tomllib

import nbformat
import pytest
from ml_collections import ConfigDict
from test_launch import ROOT

from launch import app
from llmprior_jax import training

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python -m launch|llmprior-|make |pip install )[^`]+)`", re.DOTALL)
# In docstrings of apps and configs: indented by four, continued by a backslash.
INDENTED = re.compile(r"^    ((?:python -m launch\.|pip install )(?:.*\\\n)*.*)", re.MULTILINE)
OWN = re.compile(r"python -m launch\.|llmprior-|make |pip install ")


def commands() -> list[tuple[str, str]]:
    """Where a command stands, and the command."""
    found = []
    for page in PAGES:
        text = page.read_text()
        found += [(page.name, command) for command in INLINE.findall(text)]
        for block in FENCED.findall(text):
            found += [(page.name, command) for command in block.replace("\\\n", " ").splitlines()]
    for source in sorted((ROOT / "launch").rglob("*.py")):
        doc = ast.get_docstring(ast.parse(source.read_text()), clean=False) or ""
        found += [(source.name, text.replace("\\\n", " ")) for text in INDENTED.findall(doc)]
    for path in sorted((ROOT / "colab").glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        lines = [line for cell in cells for line in cell.source.splitlines()]
        found += [(path.name, line.lstrip("!% ")) for line in lines if line[:1] in "!%"]
    return [
        (where, " ".join(command.split()))
        for where, command in dict.fromkeys(found)
        if OWN.match(" ".join(command.split()))
    ]


COMMANDS = commands()


@functools.cache
def flags_of(module: str) -> dict[str, str]:
    """The flags that an app defines, in itself and in what it imports of `launch`: their kinds."""
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        return {}
    kinds: dict[str, str] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("launch"):
            for alias in node.names:
                kinds |= flags_of(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kind = node.func.attr
            if kind.startswith("DEFINE_") and isinstance(node.args[0], ast.Constant):
                kinds[str(node.args[0].value)] = kind.removeprefix("DEFINE_")
    return kinds


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
    kinds = flags_of(module)
    assert kinds, f"there is no app {module}"
    for word in rest:
        if word.startswith("--"):
            _check_flag(word[2:], kinds)


def _check_flag(word: str, kinds: dict[str, str]) -> None:
    name, equals, value = word.partition("=")
    if name.startswith("config."):
        assert "config" in kinds
        _check_field(name.removeprefix("config."))
    elif kinds.get(name.removeprefix("no")) == "bool":
        assert not equals
    else:
        assert name in kinds, f"there is no flag --{name}; there are {', '.join(kinds)}"
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


@pytest.mark.parametrize("beginning", ["python -m launch.prior show", "python -m launch.inspect"])
def test_a_quick_command_of_the_docs_runs(tmp_path, beginning):
    command = next(
        command
        for where, command in COMMANDS
        if where.endswith(".md") and command.startswith(beginning) and "workdir" not in command
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    }
    words = [sys.executable, *shlex.split(command, comments=True)[1:]]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, capture_output=True)
