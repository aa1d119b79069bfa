"""Whatever is damaged is noticed: the same result, a message and what is left, or one line.

Files of each kind that is read are damaged at random places, in ways that disks and people have,
and read as a command reads them. A file that has no hash may say something else afterwards; what
none may do is end in a traceback, or say something else without a word where it has one.
"""

import functools
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from small_lm import TINY
from test_datasets import rows, write

from launch.common import app
from llmprior_jax import datasets, files, models, priors, training
from llmprior_jax.play.row_files import RowFiles, Rows
from llmprior_jax.priors.parquet import export_parquet, import_parquet
from llmprior_jax.priors.prompts import Example, read_examples, write_examples
from llmprior_jax.priors.whitening import Whitening
from llmprior_jax.settings import Settings
from llmprior_jax.training import Checkpoints, examples
from llmprior_jax.training.config import claim_workdir, flat, parse_config
from llmprior_jax.training.metrics import MetricsWriter, read_metrics
from llmprior_jax.training.validation import RANGES, validate

EPISODES = [
    Example("tidy up", (("A cup.", "take the cup"), ("A shelf.", "put it there"))),
    Example("make tea", (("Empty.", "fill it"),), (("fill it", "wait"),)),
]
PROMPTS = [f"You see {what}.\nNext:" for what in ("a cup", "a door", "nothing", "a lamp")]
# What stands in JSON where something else is expected.
ODD = [None, True, -1, 7.5, 1e39, 10**30, "", "\ud800", [], [None], {}, {"a": []}, "x" * 1000]


class Kind(NamedTuple):
    """Files of one kind.

    Attributes:
      make: writes them into a directory; None where a fixture has them.
      read: gives what they hold, for people to compare.
      pattern: which files are damaged.
      hashed: whether nothing may change without a word.
      weight: of its number of cases, where one takes longer.
    """

    make: Callable[[pathlib.Path], object] | None
    read: Callable[[pathlib.Path], Any]
    pattern: str = "*"
    hashed: bool = True
    weight: float = 1.0


def scores(number: int) -> priors.StoredScores:
    rng = np.random.default_rng(number)
    return priors.StoredScores(
        (" go", " wait"),
        rng.normal(size=2).astype(np.float32),
        np.int32([1, 2]),
        rng.normal(size=(2, 8)).astype(np.float32),
    )


def fill(path: pathlib.Path) -> None:
    with priors.PriorStore(path) as store:
        kept = {prompt: scores(number) for number, prompt in enumerate(PROMPTS)}
        store.put_scores("1a2b", "tiny", kept)
        store.put_proposals("1a2b", "tiny", {"k": 2}, {each: [["go"], [2]] for each in PROMPTS})


def read_store(path: pathlib.Path) -> list[Any]:
    with priors.PriorStore(path, create=False) as store:
        said = store.get_scores("1a2b", PROMPTS)
        return [*said, *store.get_proposals("1a2b", PROMPTS, {"k": 2})]


def export(directory: pathlib.Path) -> None:
    fill(directory / "store.sqlite")
    with priors.PriorStore(directory / "store.sqlite") as store:
        export_parquet(store, directory / "export.parquet")


def read_export(directory: pathlib.Path) -> Any:
    copy = directory / "copy.sqlite"
    copy.unlink(missing_ok=True)
    import_parquet(copy, directory / "export.parquet")
    return read_store(copy)


def write_dataset(name: str) -> Callable[[pathlib.Path], None]:
    def make(directory: pathlib.Path) -> None:
        dataset = datasets.read(write(directory / "theirs.jsonl", rows()))
        datasets.write(directory / name, dataset)
        (directory / "theirs.jsonl").unlink()

    return make


def write_rows(directory: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    kept = RowFiles(directory)
    kept.write_whitening(Whitening(*(np.float32(rng.normal(size=(3, 2))),) * 2), "1a2b")
    for first in (0, 3):
        parts = (rng.integers(9, size=(3, 2)), rng.normal(size=(3, 4)), rng.normal(size=(3, 4, 2)))
        kinds = (np.int32, np.float32, np.float32)
        kept.append(first, Rows(*(p.astype(k) for p, k in zip(parts, kinds, strict=True))))


def read_rows(directory: pathlib.Path) -> Any:
    kept = RowFiles(directory, read_only=True)
    return kept.read_whitening(lambda: "1a2b"), kept.read(6)


def write_metrics(directory: pathlib.Path) -> None:
    with MetricsWriter(directory, -1, -1) as metrics:
        for segment in range(5):
            rates = {"success_rate": np.array([0.25, 0.5]), "return": np.array([1.0, segment])}
            metrics.write(segment, 8 * segment, **rates, loss=float("nan"))
    shutil.rmtree(directory / "tensorboard")


def write_checkpoints(directory: pathlib.Path) -> None:
    with Checkpoints(directory / "checkpoints", 2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {"step": step})


def read_checkpoints(directory: pathlib.Path) -> Any:
    with Checkpoints(directory / "checkpoints", 2, read_only=True) as checkpoints:
        found = checkpoints.restore_latest(state_of(0))
    assert found is None or found[2] == {"step": found[0]}
    return found


def state_of(step: int) -> dict[str, jax.Array]:
    return {"weights": jax.numpy.full((4, 8), step, jax.numpy.float32)}


def claim(directory: pathlib.Path) -> None:
    claim_workdir(directory, training.default_config())


def copy_model(directory: pathlib.Path) -> None:
    shutil.copytree(TINY, directory / "model")


def read_model(directory: pathlib.Path) -> Any:
    return models.load(str(directory / "model")).fingerprint


def read_games(directory: pathlib.Path) -> Any:
    from llmprior_jax.envs import engines
    from llmprior_jax.envs.alfworld.game_files import read_game

    return list(map(read_game, engines.find_games(directory / "data", "valid_unseen")))


KINDS = {
    "store": Kind(
        lambda directory: fill(directory / "store.sqlite"),
        lambda directory: read_store(directory / "store.sqlite"),
    ),
    "export": Kind(export, read_export, "*.parquet"),
    "parquet dataset": Kind(
        write_dataset("data.parquet"), lambda directory: datasets.read(directory / "data.parquet")
    ),
    "jsonl dataset": Kind(
        write_dataset("data.jsonl"), lambda directory: datasets.read(directory / "data.jsonl")
    ),
    "examples": Kind(
        lambda directory: write_examples(directory / "shown.jsonl", EPISODES),
        lambda directory: read_examples(directory / "shown.jsonl"),
        hashed=False,
    ),
    "examples of a run": Kind(
        lambda directory: examples.write(directory, EPISODES),
        lambda directory: examples.read(directory),
    ),
    "rows": Kind(write_rows, read_rows),
    "metrics": Kind(write_metrics, read_metrics),
    "configuration": Kind(
        claim, lambda directory: flat(training.to_settings(training.read_config(directory)))
    ),
    "checkpoints": Kind(write_checkpoints, read_checkpoints, "checkpoints/2/**/*", weight=0.5),
    "model": Kind(copy_model, read_model, "model/*[!D].*[!d]", hashed=False, weight=0.25),
    "game": Kind(None, read_games, "data/*/valid_unseen/**/*.*", hashed=False, weight=0.4),
}


def flip(content: bytearray, rng: np.random.Generator) -> None:
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))


def cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[rng.integers(len(content)) :]


def take_out(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    del content[start : start + rng.integers(1, 100)]


def put_in(content: bytearray, rng: np.random.Generator) -> None:
    start = rng.integers(len(content))
    content[start:start] = rng.bytes(int(rng.integers(1, 20)))


def zero(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(len(content)))
    size = min(len(content) - start, int(rng.integers(1, 4096)))
    content[start : start + size] = bytes(size)


def replace_value(content: bytearray, rng: np.random.Generator) -> None:
    """Puts something odd in the place of a value of JSON, if it is any."""
    lines = bytes(content).split(b"\n") if content.count(b"\n{") else [bytes(content)]
    number = int(rng.integers(len(lines)))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return flip(content, rng)
    holder: Any = [value]
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = list(holder)[rng.integers(len(holder))] if isinstance(holder, dict) else None
        key = int(rng.integers(len(holder))) if key is None else key
    odd = ODD[rng.integers(len(ODD))]
    if holder[key] is value:
        value = odd
    else:
        holder[key] = odd
    if isinstance(value, dict) and rng.random() < 0.5:  # As earlier versions wrote it.
        value.pop(files.DIGEST, None)
    lines[number] = json.dumps(value).encode()
    content[:] = b"\n".join(lines)


def nest(content: bytearray, rng: np.random.Generator) -> None:
    content[:] = (b"[", b'{"a":')[rng.integers(2)] * 100_000


WAYS = (flip, flip, flip, cut, take_out, put_in, zero, replace_value, replace_value, nest)


def damage(directory: pathlib.Path, pattern: str, rng: np.random.Generator) -> pathlib.Path:
    """Damages one file; returns which."""
    there = sorted(path for path in directory.glob(pattern) if path.is_file())
    path = there[rng.integers(len(there))]
    content = bytearray(path.read_bytes())
    if not content or rng.random() < 0.05:
        path.unlink()
        return path
    way = WAYS[rng.integers(len(WAYS))]
    way(content, rng)
    path.write_bytes(content)
    return path


def hashes(path: pathlib.Path) -> int:
    return path.read_bytes().count(files.DIGEST.encode())


def answer(act: Callable[[], Any], caplog) -> tuple[Any, str, str]:
    """What a command would do: the value, what it ended with, and what it warned of."""
    caplog.clear()
    got: list[Any] = []
    try:
        app.guard(lambda: got.append(act()))
    except SystemExit as end:
        return None, str(end.code), caplog.text
    return got[0], "", caplog.text


def same(left: Any, right: Any) -> bool:
    leaves, others = jax.tree.leaves(left), jax.tree.leaves(right)
    return jax.tree.structure(left) == jax.tree.structure(right) and all(
        np.array_equal(a, b) for a, b in zip(leaves, others, strict=True)
    )


def problem(
    kind: Kind, name: str, whole: Any, told: tuple[Any, str, str], path: str, has_hash: bool
) -> str:
    """What is wrong with an answer; empty for nothing."""
    got, end, warned = told
    if end:
        is_line = end.startswith("error: ") and len(end) < 3000
        return "" if is_line and path in end else f"it ends with {end!r}"
    if same(got, whole) or path in warned or not (kind.hashed and has_hash):
        return ""
    # What is not found is asked again, and what a kill cut off is computed again.
    if name == "store" and all(a is None or same(a, b) for a, b in zip(got, whole, strict=True)):
        return ""
    if name == "metrics" and got == whole[: len(got)]:
        return ""
    return f"it is read as {got!r:.200}"


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_noticed_or_harmless(name, tmp_path, caplog, is_longest, request):
    kind = KINDS[name]
    original = tmp_path / "original"
    original.mkdir()
    if kind.make is None:
        shutil.copytree(request.getfixturevalue("alfworld_data"), original / "data")
    else:
        kind.make(original)
    whole = kind.read(original)
    problems: list[str] = []
    for seed in range(int((500 if is_longest else 20) * kind.weight)):
        copy = tmp_path / "damaged"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        path = damage(copy, kind.pattern, np.random.default_rng([seed, len(name)]))
        # What is not there was never written, and what has no hash is of an earlier version.
        has_hash = path.exists() and hashes(path) == hashes(original / path.relative_to(copy))
        try:
            told = answer(lambda copy=copy: kind.read(copy), caplog)
            wrong = problem(kind, name, whole, told, str(copy), has_hash)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error!s:.300}"
        if wrong:
            problems.append(f"case {seed}, {path.relative_to(copy)}: {wrong}")
    assert not problems, "\n".join(problems)


# What may stand for a field of the settings, by mistake or to see what happens.
FUZZ = [*ODD, 0, 1, 2, 2**31, 2**63, -(10**30), 1e-300, -1e39, float("nan"), float("inf"), "\0"]
FIELDS = flat(Settings())


def with_field(name: str, value: Any) -> bytes:
    """The file of a configuration in which one field has a value."""
    inner: Any = value
    for part in reversed(name.split(".")):
        inner = {part: inner}
    return json.dumps(inner).encode()


def check(content: bytes) -> None:
    """What is done to a configuration before anything is loaded or written."""
    config = parse_config(content, pathlib.Path("run/config.json"))
    settings = training.to_settings(config)
    validate(settings)
    for name, value in flat(settings).items():
        for number in value if isinstance(value, list) else [value]:
            assert name not in RANGES or number is None or number in RANGES[name], name


def refusal(act: Callable[[], object]) -> str:
    """How a command would end, empty if it would go on."""
    try:
        app.guard(lambda: act() and None)
    except SystemExit as end:
        return str(end.code)
    return ""


@pytest.mark.parametrize("name", FIELDS)
def test_whatever_a_field_of_the_settings_is_it_is_taken_or_refused(name, is_longest):
    rng = np.random.default_rng(list(name.encode()))
    some = range(len(FUZZ)) if is_longest else rng.choice(len(FUZZ), 6, replace=False)
    for value in (FUZZ[number] for number in some):
        end = refusal(lambda value=value: check(with_field(name, value)))
        assert not end or end.startswith("error: "), value


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_must_be_set_and_is_not_is_named(name):
    config = training.default_config()
    *parts, last = name.split(".")
    holder = functools.reduce(getattr, parts, config)
    with holder.ignore_type():
        holder[last] = None
    end = refusal(lambda: validate(training.to_settings(config)))
    assert not end or f"config.{name} is None" in end or f"{last} is None" in end


# Fields that change what a small run computes, and what each is drawn from beside its range.
DRAWN = {
    "agent.alpha": (1e-30, 0.03, 1.0, 1e30),
    "agent.beta": (0.0, 1e30),
    "agent.backup": ("posterior", "soft", "max"),
    "agent.num_candidates": (None, 1, 8),
    "agent.discount": (0.0, 0.95, 1.0),
    "agent.target_rate": (0.0, 0.01, 1.0),
    "agent.target_kl": (None, 1e-30, 1e30),
    "agent.max_grad_norm": (1e-30, 10.0, 1e30),
    "agent.hidden_sizes": ((), (1,), (8, 8)),
    "agent.trust": ("learned", "fixed"),
    "prior.temperature": (1e-30, 1.0, 1e30),
    "prior.uniform_share": (0.0, 0.2, 1.0),
    "prior.num_features": (1, 64),
    "loop.warmup_steps": (0, 4, 2**31 - 1),
    "loop.batch_size": (1, 32),
    "seed": (0, 2**32 - 1),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.longest) for seed in range(1, 20))]
)
def test_a_run_of_any_settings_is_refused_before_it_writes_or_has_finite_numbers(seed, tmp_path):
    rng = np.random.default_rng(seed)
    drawn = {name: values[rng.integers(len(values))] for name, values in DRAWN.items()}
    small = {"env": "FrozenLake-4x4", "num_seeds": 1, "num_steps": 80, "eval_every": 80}
    fields = {**small, "eval_episodes": 2, "agents": ("dqn_prior",), "prior.store": "", **drawn}
    config = training.default_config()
    config.update_from_flattened_dict(fields)
    end = refusal(lambda: training.run(config, tmp_path / "run"))
    if end:
        assert not (tmp_path / "run").exists() or "has diverged" in end, end
        return
    for record in read_metrics(tmp_path / "run" / "dqn_prior"):
        assert np.isfinite([*record["success_rate"], *record["return"]]).all()
