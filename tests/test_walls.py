"""The walls between packages: imports run downward only, and the equations stand alone."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from llmprior_jax import training

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "llmprior_jax"
EQUATIONS = {"posterior", "bellman", "elbo", "refine"}
# What everybody may import.
LEAVES = EQUATIONS | {
    *("errors", "examples", "files", "progress", "ranges", "registry"),
    *("settings", "stopping"),
    "types",
}
BELOW_PLAY = {"agents", "datasets", "distributed", "envs", "models", "priors"}
# What each room may import beside the leaves and itself: imports run downward.
ALLOWED = {
    "datasets.py": set(),
    "distributed": set(),
    "models": {"distributed"},
    "priors": {"datasets", "distributed", "models"},
    "envs": set(),
    "agents": set(),
    "play": BELOW_PLAY,
    "learning": BELOW_PLAY | {"play"},
    "training": BELOW_PLAY | {"play", "learning"},
}
MOST_MODULES = 16
CONFIG_FIELDS = sorted(training.default_config())
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))
INITS = sorted(path for room in (PACKAGE, "launch") for path in (ROOT / room).rglob("__init__.py"))


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
    return {child for child in children if is_module(ROOT / PACKAGE / child)}


def is_module(path: pathlib.Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").exists()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    room = path.relative_to(ROOT / PACKAGE).parts[0]
    if room in ALLOWED:
        assert rooms(path) <= LEAVES | ALLOWED[room] | {room}
    assert "launch" not in {name.split(".")[0] for name in imported(path)}


def is_import(node: ast.stmt) -> bool:
    """Whether a statement imports, if only for the type checker."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return all(map(is_import, node.body)) and not node.orelse
    return isinstance(node, (ast.Import, ast.ImportFrom))


def is_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


@pytest.mark.parametrize("path", INITS, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_init_holds_a_docstring_imports_and_its_public_names_only(path):
    tree = ast.parse(path.read_text())
    body = tree.body if ast.get_docstring(tree) is None else tree.body[1:]
    does_more = not all(is_import(node) or is_all(node) for node in body)
    assert not does_more


def test_no_folder_holds_more_modules_than_a_reader_takes_in():
    # But for one of configs, each of which is read by itself, by its name.
    folders = {path.parent for path in [*MODULES, *(ROOT / "launch").rglob("*.py")]}
    folders -= {ROOT / "launch" / "configs"}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert not {folder: size for folder, size in sizes.items() if size > MOST_MODULES}


def test_one_module_knows_what_a_configuration_is_made_of():
    uses = {
        path.relative_to(ROOT / PACKAGE).as_posix()
        for path in MODULES
        if "ml_collections" in {name.split(".")[0] for name in imported(path)}
    }
    assert uses == {"training/config.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_below_training_mentions_a_configuration(path):
    if path.relative_to(ROOT / PACKAGE).parts[0] not in ("training", "__init__.py"):
        assert f"{PACKAGE}.training" not in {".".join(n.split(".")[:2]) for n in imported(path)}
        # A model's `config` is another thing: its field names are those of no run.
        text = path.read_text()
        assert not re.search(rf"config\.({'|'.join(CONFIG_FIELDS)})\b", text)
        if path.name != "settings.py":  # Which says who reads one.
            assert "configuration" not in text


@pytest.mark.parametrize("name", sorted(EQUATIONS))
def test_the_equations_import_jax_and_chex_only(name):
    outside = {module.split(".")[0] for module in imported(ROOT / PACKAGE / f"{name}.py")}
    assert outside - sys.stdlib_module_names <= {"jax", "chex", PACKAGE}
    assert rooms(ROOT / PACKAGE / f"{name}.py") <= EQUATIONS


def test_importing_the_agents_loads_nothing_that_knows_text():
    script = """
import sys
import llmprior_jax.agents
others = {f"llmprior_jax.{room}" for room in (
    "priors", "models", "envs", "datasets", "play", "learning", "training"
)}
text = {"sqlite3", "transformers", "tokenizers", "safetensors"}
loaded = {name for name in sys.modules if {name, ".".join(name.split(".")[:2])} & (others | text)}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("room", ["envs", "agents"])
def test_no_language_model_library_in(room):
    for path in (ROOT / PACKAGE / room).rglob("*.py"):
        used = {name.split(".")[0] for name in imported(path)}
        assert not used & {"transformers", "tokenizers", "safetensors"}, path


def test_torch_is_imported_by_tests_and_by_the_benchmark_that_compares_with_it_only():
    comparison = ROOT / "launch" / "benchmarks" / "scoring_torch.py"
    for path in {*MODULES, *(ROOT / "launch").rglob("*.py")} - {comparison}:
        assert "torch" not in {name.split(".")[0] for name in imported(path)}, path
