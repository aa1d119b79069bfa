"""Datasets of transitions, as text: Parquet or JSONL files, read with care.

A state is its text. It is all that an agent can know of a state, since prior and features are made
from it, so nothing else is needed to learn from a file, and any environment or person can write
one. A file has one row per transition, those of an episode after one another in order:

| column | Parquet type | |
|---|---|---|
| `task` | string | what is to be achieved |
| `observation` | string | what was seen |
| `action` | string | what was done, one of `admissible_actions` |
| `reward` | double | finite in float32, in which it is learned from |
| `next_observation` | string | what was seen then; also where the episode ended |
| `terminated` | bool | the episode ended for good |
| `truncated` | bool | a time limit ended the episode: the state has a value nevertheless |
| `admissible_actions` | list of strings | all that could have been done, each once |
| `next_admissible_actions` | list of strings | for the next state; may be empty if terminated |
| `episode` | int64 | number of the episode |

JSONL files hold the same fields, one object per line, in UTF-8; empty lines and other columns are
ignored. The past of a state is not stored: it is the rows before, and `read` adds as much of it as
is asked for.

A Parquet file that `write` made has a hash of its rows in its metadata, which `read` compares, and
each line of a JSONL file has one of its fields. A line is easily changed by hand: one that does not
match its hash is read as it is, and a warning names it. Files that others made need no hashes.
"""

import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmprior_jax import files
from llmprior_jax.files import write_atomically
from llmprior_jax.types import TextState

_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "task": pa.string(),
        "observation": pa.string(),
        "action": pa.string(),
        "reward": pa.float64(),
        "next_observation": pa.string(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "admissible_actions": _TEXTS,
        "next_admissible_actions": _TEXTS,
        "episode": pa.int64(),
    }
)
UNITS = ("transition", "episode")


class _Row(TypedDict):
    """A row as `SCHEMA` has it."""

    task: str
    observation: str
    action: str
    reward: float
    next_observation: str
    terminated: bool
    truncated: bool
    admissible_actions: list[str]
    next_admissible_actions: list[str]
    episode: int


_LARGEST_REWARD = float(np.finfo(np.float32).max)


class Dataset(NamedTuple):
    """N transitions between M distinct states (host side).

    Examples:
      >>> state = TextState("Make tea.", "The kettle is empty.", (), ("fill the kettle", "wait"))
      >>> row, number, flag = np.array([0]), np.float32([1.0]), np.array([True])
      >>> dataset = datasets.Dataset((state,), row, row, number, flag, ~flag, row, row)
      >>> dataset.num_transitions, dataset.num_episodes
      (1, 1)

    Attributes:
      states: M states.
      row: i32[N], the state of each transition, an index into `states`.
      action: i32[N], an index into the state's actions.
      reward: f32[N].
      terminated: bool[N].
      truncated: bool[N].
      next_row: i32[N], the state reached.
      episode: i32[N], 0 for the first episode, 1 for the next.
    """

    states: tuple[TextState, ...]
    row: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_row: np.ndarray
    episode: np.ndarray

    @property
    def num_transitions(self) -> int:
        """N."""
        return len(self.row)

    @property
    def num_episodes(self) -> int:
        """How many episodes there are."""
        return int(self.episode[-1]) + 1


def write(path: str | pathlib.Path, dataset: Dataset) -> None:
    """Writes a dataset, as Parquet, or as JSONL if `path` ends in `.jsonl`.

    Raises:
      ValueError: `path` ends in neither `.parquet` nor `.jsonl`.
    """
    path = pathlib.Path(path)
    table = pa.Table.from_pylist(list(_rows(dataset)), schema=SCHEMA)
    if _is_parquet(path):
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, SCHEMA, compression="zstd") as writer:
            writer.write_table(table)
            # Of the file and not of the table, so that who reads, changes and writes it loses it.
            writer.add_key_value_metadata({files.DIGEST: _hash(table.to_pylist())})
        write_atomically(path, sink.getvalue().to_pybytes())
    else:
        rows = map(files.sealed, table.to_pylist())
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(path: str | pathlib.Path, history: int = 0) -> Dataset:
    """Reads a dataset and checks it.

    Args:
      path: a `.parquet` or `.jsonl` file.
      history: give each state the last so many (observation, action) pairs of its episode.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or breaks the format. The message names the file and the row
        (of a JSONL file the line), counted from 1.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no dataset {path}; python -m launch.collect makes one")
    rows = _read_parquet(path) if _is_parquet(path) else _read_jsonl(path)
    if not rows:
        raise ValueError(f"{path} has no rows")

    index_of: dict[TextState, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in Dataset._fields if name != "states"}
    numbers: set[int] = set()
    past: tuple[tuple[str, str], ...] = ()
    before, last = None, 0
    for number, row in rows:
        where = f"{path}, row {number}"
        _check_row(where, row)
        if before is None or before["episode"] != row["episode"]:
            _check_ended(f"{path}, row {last}", before)
            if row["episode"] in numbers:
                raise ValueError(
                    f"{where}: episode {row['episode']} goes on after another one began; the rows "
                    "of an episode must follow one another"
                )
            numbers.add(row["episode"])
            past = ()
        else:
            _check_chain(where, before, row)
        actions = tuple(row["admissible_actions"])
        state = TextState(row["task"], row["observation"], _last(past, history), actions)
        past = (*_last(past, history), (row["observation"], row["action"]))
        reached = TextState(
            row["task"],
            row["next_observation"],
            _last(past, history),
            tuple(row["next_admissible_actions"]),
        )
        columns["row"].append(index_of.setdefault(state, len(index_of)))
        columns["action"].append(actions.index(row["action"]))
        columns["reward"].append(row["reward"])
        columns["terminated"].append(row["terminated"])
        columns["truncated"].append(row["truncated"])
        columns["next_row"].append(index_of.setdefault(reached, len(index_of)))
        columns["episode"].append(len(numbers) - 1)
        before, last = row, number
    _check_ended(f"{path}, row {last}", before)
    return from_columns(tuple(index_of), **columns)


def from_columns(states: tuple[TextState, ...], **columns: Any) -> Dataset:
    """A dataset from its states and anything that numpy takes for the other fields."""
    types = {"reward": np.float32, "terminated": bool, "truncated": bool}
    return Dataset(
        states,
        **{name: np.asarray(value, types.get(name, np.int32)) for name, value in columns.items()},
    )


def digest(dataset: Dataset) -> str:
    """What identifies a dataset's content: SHA-256 over its states and transitions."""
    hashed = hashlib.sha256(json.dumps(dataset.states).encode())
    for name, column in zip(dataset._fields[1:], dataset[1:], strict=True):
        hashed.update(f"{name} {column.dtype} {column.shape}".encode())
        hashed.update(np.ascontiguousarray(column).tobytes())
    return hashed.hexdigest()


def count_actions(dataset: Dataset) -> dict[TextState, dict[str, int]]:
    """By state and action, how often a dataset shows it."""
    counts: dict[TextState, dict[str, int]] = {}
    for row, action in zip(dataset.row.tolist(), dataset.action.tolist(), strict=True):
        state = dataset.states[row]
        of_state = counts.setdefault(state, {})
        text = state.actions[action]
        of_state[text] = of_state.get(text, 0) + 1
    return counts


def subset_order(dataset: Dataset, unit: str, seed: int | Sequence[int]) -> np.ndarray:
    """An order of the transitions whose beginnings are the nested subsets of a dataset.

    Args:
      dataset: N transitions.
      unit: "transition" shuffles transitions, "episode" whole episodes.
      seed: the same seed gives the same order.

    Returns:
      i32[N]: the first `count_transitions(dataset, size, unit, order)` of these indices are the
      subset of `size` units. A larger subset contains every smaller one.
    """
    check_unit(unit)
    rng = np.random.default_rng(seed)
    if unit == "transition":
        return rng.permutation(dataset.num_transitions).astype(np.int32)
    place = np.argsort(rng.permutation(dataset.num_episodes))
    return np.argsort(place[dataset.episode], kind="stable").astype(np.int32)


def count_transitions(dataset: Dataset, size: int | None, unit: str, order: np.ndarray) -> int:
    """How many transitions at the beginning of `order` the subset of `size` units has.

    Args:
      dataset: N transitions.
      size: in units; None for all.
      unit: "transition" or "episode".
      order: see `subset_order`.

    Raises:
      ValueError: the dataset has fewer than `size` units.
    """
    check_size(dataset, size, unit)
    if size in (None, _available(dataset, unit)):
        return dataset.num_transitions
    if unit == "transition":
        return size
    episodes = dataset.episode[order]
    begins = np.flatnonzero(np.diff(episodes, prepend=-1))
    return int(begins[size])


def check_path(path: str | pathlib.Path) -> None:
    """Raises a ValueError unless `path` ends as a dataset's does."""
    if pathlib.Path(path).suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"a dataset is a .parquet or a .jsonl file; got {path}")


def check_size(dataset: Dataset, size: int | None, unit: str) -> None:
    """Raises a ValueError unless the dataset has `size` units."""
    check_unit(unit)
    available = _available(dataset, unit)
    if size is not None and not 1 <= size <= available:
        raise ValueError(
            f"a subset of {size:,} {unit}s was asked for; the dataset has {available:,}"
        )


def check_unit(unit: str) -> None:
    """Raises a ValueError unless `unit` is one of `UNITS`."""
    if unit not in UNITS:
        raise ValueError(f"the unit of a subset is {unit!r}; use one of {', '.join(UNITS)}")


def _available(dataset: Dataset, unit: str) -> int:
    return dataset.num_transitions if unit == "transition" else dataset.num_episodes


def _rows(dataset: Dataset) -> Iterator[dict[str, Any]]:
    for row, action, reward, terminated, truncated, next_row, episode in zip(
        *(column.tolist() for column in dataset[1:]), strict=True
    ):
        state, reached = dataset.states[row], dataset.states[next_row]
        yield {
            "task": state.task,
            "observation": state.observation,
            "action": state.actions[action],
            "reward": reward,
            "next_observation": reached.observation,
            "terminated": terminated,
            "truncated": truncated,
            "admissible_actions": list(state.actions),
            "next_admissible_actions": list(reached.actions),
            "episode": episode,
        }


def _is_parquet(path: pathlib.Path) -> bool:
    check_path(path)
    return path.suffix == ".parquet"


def _read_parquet(path: pathlib.Path) -> list[tuple[int, _Row]]:
    try:
        with pq.ParquetFile(path) as file:
            table, about = file.read(), file.metadata.metadata or {}
        missing = [name for name in SCHEMA.names if name not in table.column_names]
        rows = [] if missing else table.select(SCHEMA.names).cast(SCHEMA).to_pylist()
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a dataset: {error}") from error
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}")
    kept = about.get(files.DIGEST.encode())
    if kept is not None and kept != _hash(rows).encode():
        raise ValueError(
            f"{path} is damaged: its rows do not match the hash kept with them; collect them again"
        )
    return [(number, _typed(row, f"{path}, row {number}")) for number, row in enumerate(rows, 1)]


def _typed(row: dict[str, Any], where: str) -> _Row:
    try:
        return files.typed(_Row, row)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _hash(rows: Sequence[dict[str, Any]]) -> str:
    """A hash of rows whose fields are those of `SCHEMA`, in that order."""
    hashed = b""
    for row in rows:
        hashed = files.digest(hashed, json.dumps(row))
    return hashed.hex()


def _read_jsonl(path: pathlib.Path) -> list[tuple[int, _Row]]:
    return list(files.parse_lines(path.read_bytes(), path, _Row, unit="row"))


def _check_row(where: str, row: _Row) -> None:
    """Checks one row by itself."""
    if not abs(row["reward"]) <= _LARGEST_REWARD:
        raise ValueError(f"{where}: reward is {row['reward']}; rewards must be finite in float32")
    if row["terminated"] and row["truncated"]:
        raise ValueError(f"{where}: terminated and truncated; an episode ends in one way")
    for name in ("admissible_actions", "next_admissible_actions"):
        actions = row[name]
        if len(set(actions)) != len(actions):
            twice = next(action for action in actions if actions.count(action) > 1)
            raise ValueError(f"{where}: {name} has {twice!r} twice; name each action once")
    if row["action"] not in row["admissible_actions"]:
        raise ValueError(
            f"{where}: the action {row['action']!r} is none of the admissible actions, "
            f"{', '.join(map(repr, row['admissible_actions']))}"
        )
    if not row["next_admissible_actions"] and not row["terminated"]:
        raise ValueError(
            f"{where}: next_admissible_actions is empty; only a terminated episode has none"
        )


def _check_chain(where: str, before: _Row, row: _Row) -> None:
    """Checks that a row goes on where the one before it, of the same episode, left off."""
    if before["terminated"] or before["truncated"]:
        raise ValueError(
            f"{where}: episode {row['episode']} goes on after the row before ended it; "
            "give the next episode a number of its own"
        )
    for earlier, later in (
        ("task", "task"),
        ("next_observation", "observation"),
        ("next_admissible_actions", "admissible_actions"),
    ):
        if before[earlier] != row[later]:
            raise ValueError(
                f"{where}: episode {row['episode']} does not chain: {later} is {row[later]!r}, "
                f"but {earlier} of the row before is {before[earlier]!r}"
            )


def _check_ended(where: str, row: _Row | None) -> None:
    """Checks that the last row of an episode says how it ended."""
    if row is not None and not (row["terminated"] or row["truncated"]):
        raise ValueError(
            f"{where}: episode {row['episode']} ends here, neither terminated nor truncated; "
            "an episode that was cut off is truncated"
        )


def _last(past: Sequence[tuple[str, str]], history: int) -> tuple[tuple[str, str], ...]:
    return tuple(past[-history:]) if history else ()
