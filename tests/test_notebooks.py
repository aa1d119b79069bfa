"""The notebooks run from top to bottom, with the embedded model, on a CPU."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
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
