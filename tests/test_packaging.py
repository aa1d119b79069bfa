"""What is built: the wheel holds all that runs from it, and nothing that is only ours."""

import importlib
import subprocess
import sys
import tomllib
import zipfile

import pytest
from test_launch import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """The names of the files in the wheel."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize(
    "name",
    [
        "llmprior_jax/py.typed",
        "llmprior_jax/models/tiny/model.safetensors",
        "llmprior_jax/models/tiny/tokenizer.json",
        "launch/configs/quickstart.py",
    ],
)
def test_the_wheel_has(wheel, name):
    assert name in wheel


def test_the_wheel_has_no_tests_and_no_results(wheel):
    inside = {name.split("/")[0] for name in wheel if ".dist-info/" not in name}
    assert inside == {"llmprior_jax", "launch"}
    results = {name for name in wheel if name.startswith("launch/results")}
    # Experiments take settings from there.
    assert results <= {"launch/results/settings/results.json"}


@pytest.mark.parametrize("script", PROJECT["scripts"].values())
def test_a_script_names_a_function(script):
    module, function = script.split(":")
    assert callable(getattr(importlib.import_module(module), function))
