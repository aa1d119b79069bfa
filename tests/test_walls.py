"""The walls between packages: imports run downward only, and the equations stand alone."""

import ast
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "llmprior_jax"
EQUATIONS = {"posterior", "bellman", "elbo"}
LEAVES = EQUATIONS | {"types", "progress"}
# What each package may import beside the leaves and itself.
ALLOWED = {
    "models": set(),
    "envs": set(),
    "priors": {"models"},
    "agents": {"priors", "envs", "models"},
    "training": {"agents", "priors", "envs", "models"},
}
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))


def imported(path: pathlib.Path) -> set[str]:
    """Full names of all modules that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(path: pathlib.Path) -> set[str]:
    """The direct children of our package that a file imports."""
    parts = (name.split(".") for name in imported(path))
    children = {part[1] for part in parts if part[0] == PACKAGE and len(part) > 1}
    return {child for child in children if (ROOT / PACKAGE / child).exists() or child in LEAVES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    room = path.relative_to(ROOT / PACKAGE).parts[0]
    if room in ALLOWED:
        assert rooms(path) <= LEAVES | ALLOWED[room] | {room}
    assert "launch" not in {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_the_equations_import_jax_and_chex_only(name):
    outside = {module.split(".")[0] for module in imported(ROOT / PACKAGE / f"{name}.py")}
    assert outside - sys.stdlib_module_names <= {"jax", "chex", PACKAGE}
    assert rooms(ROOT / PACKAGE / f"{name}.py") <= EQUATIONS


@pytest.mark.parametrize("room", ["envs", "agents"])
def test_no_language_model_library_in(room):
    for path in (ROOT / PACKAGE / room).rglob("*.py"):
        used = {name.split(".")[0] for name in imported(path)}
        assert not used & {"transformers", "tokenizers", "safetensors"}, path


def test_torch_is_imported_by_tests_and_by_the_benchmark_that_compares_with_it_only():
    comparison = ROOT / "launch" / "benchmarks" / "scoring_torch.py"
    for path in {*MODULES, *(ROOT / "launch").rglob("*.py")} - {comparison}:
        assert "torch" not in {name.split(".")[0] for name in imported(path)}, path
