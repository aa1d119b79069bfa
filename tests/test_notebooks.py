"""The notebooks run from top to bottom, with the embedded model, on a CPU."""

import ast
import importlib.metadata
import os
import re
import sys
import tomllib

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_launch import ROOT

# A real model takes many minutes on a CPU.
_MARKS = {"real_model": pytest.mark.longest}
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=_MARKS.get(path.stem, pytest.mark.long)) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if path.stem == "quickstart":  # A notebook is no terminal, and shows progress nevertheless.
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        told = "".join(output.text for output in outputs if output.get("name") == "stderr")
        assert "dqn_prior: 100%" in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def required(names: set[str]) -> set[str]:
    """Distributions, and all that these require without an extra."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            wanted = map(Requirement, importlib.metadata.requires(name) or ())
            waiting += [
                canonicalize_name(each.name)
                for each in wanted
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_what_it_imports(path):
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = {Requirement(each).name for each in dependencies}
    imported: set[str] = set()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for line in re.findall(r"%pip install (.*)", cell.source):
            installed |= {word for word in line.split() if word.isidentifier()}
        python = re.sub(r"%pip .*", "pass", re.sub(r"^%%writefile .*", "", cell.source))
        for node in ast.walk(ast.parse(python)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    # Notebooks have IPython; what a notebook writes itself is no distribution.
    imported -= {*sys.stdlib_module_names, "IPython", "llmprior_jax", "launch"}
    distributions = importlib.metadata.packages_distributions()
    there = required(installed)
    for module in imported & distributions.keys():
        owners = {canonicalize_name(name) for name in distributions[module]}
        assert owners & there, f"{module} is not installed with the library on Colab"
