"""A store on disk of what language models were asked and said, shared by all runs of a machine.

A frozen model says the same of the same text, so it is asked once. The store is one SQLite file in
WAL mode: any number of processes read it while one writes, writers take turns, a commit is whole or
not there, and a process killed at any moment loses no more than it had not committed.

An entry is one prompt with the actions that it has been scored with, under the model's fingerprint
(its weights, config, tokenizer and dtype, and the version of what computes its numbers). What is
kept of an action is what depends on nothing else: the summed log-probability of its tokens, their
number, and the hidden state, to the last bit of what was used when it was new. Normalization,
temperature and whitening are applied to what is read, so a change of them needs no query; the
template is in the prompt's text, so a change of it finds nothing old. A prompt that comes back with
other actions is asked about those alone that are new.

The first score computed is kept; later rounding differs: a pass over several prompts rounds
otherwise than a pass over others (`scoring`: within 1e-5). What is kept never changes. A
run that meets an empty store, or one that it filled itself, ends with the very bits of a run
without a store, as long as no two of its states are put into the same words at different times.

Nothing in a file is trusted: arrays are plain little-endian bytes whose sizes are checked
(`stored_scores`), and each entry has a hash. One that does not match it counts as not there, so
that it is asked about again; a warning names it once, and all others stay. Older schemas are read:
entries of one without hashes are taken as they are, and get one when they are next written.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from absl import logging

from llmprior_jax.files import check_text, digest, parse_json
from llmprior_jax.priors.stored_scores import COLUMNS, SINGLE, StoredScores, pack, unpack

_SCHEMA = 3
_DAMAGE = (AttributeError, RecursionError, TypeError, ValueError)
_APPLICATION = 0x4C4D5052  # "LMPR", which `file` and SQLite's own header know the file by.
_SECONDS_TO_WAIT = 60
_KEYS_PER_QUERY = 500
_PERMISSIONS = "see to its permissions, and its directory's"
_DAMAGED = "it is damaged, or no store: move it away"
_LOCKED = f"another process has kept it locked for {_SECONDS_TO_WAIT} s; end that"
_NETWORK = (
    "its disk fails, or is a network file system, which lacks the locks: put it on a local disk"
)
# What to do, by SQLite's primary result codes.
_ADVICE = {
    sqlite3.SQLITE_FULL: (
        "make room on its disk (`python -m launch.prior show` lists what it holds)"
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), _PERMISSIONS
    ),
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), _LOCKED),
    **dict.fromkeys(
        (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT), _DAMAGED
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS), _NETWORK
    ),
}
_ANOTHER = "use another store (prior.store=PATH, or none)"
_Read = TypeVar("_Read")


class _Column(NamedTuple):
    """A column that a later schema brought.

    Attributes:
      schema: that one.
      tables: where it is.
      name: of it.
      kind: its type, with what older entries have in it.
      old: the same as an expression, for a file that cannot get the column.
    """

    schema: int
    tables: tuple[str, ...]
    name: str
    kind: str
    old: str


_ADDED = (
    _Column(2, ("scores", "proposals"), "digest", "BLOB", "NULL"),
    _Column(3, ("scores",), "format", f"TEXT NOT NULL DEFAULT '{SINGLE}'", f"'{SINGLE}'"),
)
_TABLES = f"""
CREATE TABLE models (
  id INTEGER PRIMARY KEY,
  fingerprint TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  found INTEGER NOT NULL DEFAULT 0,
  not_found INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE scores (
  id INTEGER PRIMARY KEY,
  model INTEGER NOT NULL REFERENCES models,
  key BLOB NOT NULL UNIQUE,
  prompt TEXT NOT NULL,
  actions TEXT NOT NULL,
  log_probs BLOB NOT NULL,
  num_tokens BLOB NOT NULL,
  features BLOB NOT NULL,
  digest BLOB,
  format TEXT NOT NULL DEFAULT '{SINGLE}'
);
CREATE TABLE proposals (
  id INTEGER PRIMARY KEY,
  model INTEGER NOT NULL REFERENCES models,
  key BLOB NOT NULL UNIQUE,
  prompt TEXT NOT NULL,
  settings TEXT NOT NULL,
  answer TEXT NOT NULL,
  digest BLOB
);
CREATE INDEX scores_of_model ON scores (model);
CREATE INDEX proposals_of_model ON proposals (model);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_SCHEMA};
"""


class StoreError(ValueError):
    """The store cannot be used; the message says why and what to do."""


class ModelUsage(NamedTuple):
    """What the store contains for one model, and how often it was used.

    Examples:
      >>> with priors.PriorStore("usage.sqlite") as store:
      ...     store.count("1a2b", "tiny", found=3, not_found=1)
      ...     store.usage()[0].found
      3

    Attributes:
      fingerprint: the model's fingerprint.
      name: by what name it was loaded first.
      prompts: prompts with scores.
      actions: actions scored, over all prompts.
      proposals: sampled answers.
      bytes: size of what is kept, without what SQLite adds.
      found: prompts that were asked for and were there.
      not_found: prompts that were asked for and were not there.
    """

    fingerprint: str
    name: str
    prompts: int
    actions: int
    proposals: int
    bytes: int
    found: int
    not_found: int

    @property
    def bytes_per_prompt(self) -> float:
        """Size of what is kept of a prompt, on average; 0 where there is none."""
        return self.bytes / self.prompts if self.prompts else 0.0


class PriorStore:
    """One store, open; use as a context manager, from one thread.

    Examples:
      >>> scores = priors.StoredScores(
      ...     (" wait",), np.float32([-1.5]), np.int32([1]), np.zeros((1, 4), np.float32)
      ... )
      >>> with priors.PriorStore("priors.sqlite") as store:
      ...     store.put_scores("1a2b", "tiny", {"Task: make tea.": scores})
      ...     store.get_scores("1a2b", ["Task: make tea.", "Task: sleep."])[1] is None
      True
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True):
        """Opens the store at `path`, or makes it there; `~` is the home directory.

        A file that may not be written is opened for reading (`read_only`).

        Args:
          path: of the file.
          create: make the store, and its directory, where there is none.

        Raises:
          StoreError: the file is no store, damaged, or of a newer version of this package, or
            neither can be made nor read; or there is none, and it is not to be made.
        """
        self.path = pathlib.Path(path).expanduser()
        self.read_only = False
        self._named: set[bytes] = set()  # Keys of damaged entries that were warned of.
        self._lacking: dict[str, str] = {}  # Columns of later schemas, and what stands for them.
        # SQLite takes an empty file for an empty database, and would make the tables in it.
        if not create and not (self.path.exists() and self.path.stat().st_size):
            raise StoreError(f"there is no store {self.path}; name the file of one")
        with self._explained("be opened"):
            self._connection = self._open()

    def __enter__(self) -> "PriorStore":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what was put is there already."""
        self._connection.close()

    def get_scores(self, fingerprint: str, prompts: Sequence[str]) -> list[StoredScores | None]:
        """What is known of each prompt's actions; None where nothing is, or where it is damaged.

        Raises:
          StoreError: the file cannot be read.
        """
        keys = [_key(fingerprint, prompt) for prompt in prompts]
        with self._explained("be read"):
            known = self._known_scores(dict(zip(keys, prompts, strict=True)))
        return [known.get(key) for key in keys]

    def put_scores(self, fingerprint: str, name: str, scores: Mapping[str, StoredScores]) -> None:
        """Keeps scores, all in one commit. What is known of an action already stays as it is.

        Args:
          fingerprint: the model's fingerprint.
          name: the model's name, for people.
          scores: for each prompt what the model said of its actions.

        Raises:
          ValueError: scores are none that a model can have said (`StoredScores.check`), or have
            another number of features than those that are kept of the prompt. It names the prompt
            and what is wrong; nothing of this call is kept.
          StoreError: the file cannot be written: it is read-only, locked for long, damaged, or the
            disk is full. Nothing of this call is kept, and all that was kept before is.
        """
        for prompt, new in scores.items():
            try:
                check_text(prompt, "it")
                new.check()
            except ValueError as error:
                raise _refused(prompt, str(error)) from error
        keys = {prompt: _key(fingerprint, prompt) for prompt in scores}
        with self._writing() as connection:
            model = self._model(fingerprint, name)
            known = self._known_scores({key: prompt for prompt, key in keys.items()})
            for prompt, key in keys.items():
                new = scores[prompt]
                if key in known:
                    held, D = known[key], new.features.shape[1]
                    if held.features.shape[1] != D:
                        raise _refused(
                            prompt, f"{D} features, where {held.features.shape[1]} are kept"
                        )
                    new = held.merge(new)
                columns = pack(new)
                connection.execute(
                    f"INSERT INTO scores (model, key, prompt, {', '.join(COLUMNS)}, digest) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                    "actions = excluded.actions, log_probs = excluded.log_probs, "
                    "num_tokens = excluded.num_tokens, features = excluded.features, "
                    "format = excluded.format, digest = excluded.digest",
                    (model, key, prompt, *columns, digest(key, *_hashed(columns))),
                )

    def get_proposals(
        self, fingerprint: str, prompts: Sequence[str], settings: Mapping[str, Any]
    ) -> list[Any]:
        """Answers sampled before; None where there are none, or they are damaged.

        Args:
          fingerprint: the model's fingerprint.
          prompts: B texts.
          settings: all that the answers depend on beside the model and the prompt: seed, number,
            temperature, longest length. JSON.

        Raises:
          StoreError: the file cannot be read.
        """
        written = _json(settings)
        keys = [_key(fingerprint, prompt, written) for prompt in prompts]
        with self._explained("be read"):
            known = self._known_answers(dict(zip(keys, prompts, strict=True)))
        return [known.get(key) for key in keys]

    def put_proposals(
        self,
        fingerprint: str,
        name: str,
        settings: Mapping[str, Any],
        answers: Mapping[str, Any],
    ) -> None:
        """Keeps sampled answers, all in one commit; those that are there already stay.

        Args:
          fingerprint: the model's fingerprint.
          name: the model's name, for people.
          settings: see `get_proposals`.
          answers: for each prompt what was sampled; JSON.

        Raises:
          ValueError: a prompt has half of a character.
          StoreError: see `put_scores`.
        """
        written = _json(settings)
        for prompt in answers:
            check_text(prompt, "a prompt")
        with self._writing() as connection:
            model = self._model(fingerprint, name)
            keys = {_key(fingerprint, prompt, written): prompt for prompt in answers}
            known = self._known_answers(keys)
            for key, prompt in keys.items():
                if key not in known:
                    answer = _json(answers[prompt])
                    # What is there in spite of that is damaged.
                    connection.execute(
                        "INSERT INTO proposals (model, key, prompt, settings, answer, digest) "
                        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                        "answer = excluded.answer, digest = excluded.digest",
                        (model, key, prompt, written, answer, digest(key, answer)),
                    )

    def count(self, fingerprint: str, name: str, found: int, not_found: int) -> None:
        """Adds to the numbers of prompts that were there when asked for, and that were not.

        Raises:
          StoreError: see `put_scores`.
        """
        with self._writing() as connection:
            connection.execute(
                "UPDATE models SET found = found + ?, not_found = not_found + ? WHERE id = ?",
                (found, not_found, self._model(fingerprint, name)),
            )

    def all_scores(self) -> Iterator[tuple[str, str, str, StoredScores]]:
        """All scores, as `(fingerprint, name of the model, prompt, scores)`.

        Entries that are damaged are left out, and a warning names each.
        """
        for key, fingerprint, name, prompt, *row in self._all("scores", COLUMNS):
            try:
                _check_key(key, fingerprint, prompt)
                scores = _read_scores(key, row)
            except _DAMAGE as error:
                self._warn(key, prompt, error)
                continue
            yield fingerprint, name, prompt, scores

    def all_proposals(self) -> Iterator[tuple[str, str, str, str, str]]:
        """All answers, as `(fingerprint, name of the model, prompt, settings, answer)`, in JSON.

        Entries that are damaged are left out, and a warning names each.
        """
        for key, fingerprint, name, prompt, settings, *row in self._all(
            "proposals", ("settings", "answer")
        ):
            try:
                _check_key(key, fingerprint, prompt, settings)
                _answer(key, row)
            except _DAMAGE as error:
                self._warn(key, prompt, error)
                continue
            yield fingerprint, name, prompt, settings, row[0]

    def usage(self, fingerprint: str | None = None) -> list[ModelUsage]:
        """What the store holds, by model, in the order in which they came.

        Args:
          fingerprint: of the one model that is wanted; None are all.
        """
        of_model = "" if fingerprint is None else "WHERE fingerprint = ?"
        with self._explained("be read"):
            rows = self._connection.execute(
                f"""
                SELECT fingerprint, name,
                  (SELECT COUNT(*) FROM scores WHERE model = models.id),
                  (SELECT COALESCE(SUM(LENGTH(log_probs)), 0) / 4 FROM scores
                   WHERE model = models.id),
                  (SELECT COUNT(*) FROM proposals WHERE model = models.id),
                  (SELECT COALESCE(SUM(LENGTH(prompt) + LENGTH(actions) + LENGTH(log_probs)
                   + LENGTH(num_tokens) + LENGTH(features)), 0) FROM scores
                   WHERE model = models.id)
                  + (SELECT COALESCE(SUM(LENGTH(prompt) + LENGTH(settings) + LENGTH(answer)), 0)
                   FROM proposals WHERE model = models.id),
                  found, not_found
                FROM models {of_model} ORDER BY id
                """,
                [] if fingerprint is None else [fingerprint],
            ).fetchall()
        return [ModelUsage(*row) for row in rows]

    def remove(self, fingerprint: str) -> None:
        """Removes all that one model said, and gives the space back to the disk.

        Raises:
          StoreError: see `put_scores`.
        """
        with self._writing() as connection:
            of_model = "(SELECT id FROM models WHERE fingerprint = ?)"
            for table in ("scores", "proposals"):
                connection.execute(f"DELETE FROM {table} WHERE model = {of_model}", [fingerprint])
            connection.execute("DELETE FROM models WHERE fingerprint = ?", [fingerprint])
        with self._explained("be made smaller"):
            # As a script: `execute` takes one step of a statement without columns, a single page.
            self._connection.executescript(
                "PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);"
            )

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path}: its directory cannot be made ({error}); {_ANOTHER}"
            ) from error
        # A file that others may write to, though not we, has to be opened so.
        may_write = [os.access(path, os.W_OK) for path in (self.path, self.path.parent)]
        self.read_only = self.path.exists() and not all(may_write)
        how = "mode=ro" if self.read_only else "mode=rwc"
        # Even to read, SQLite makes files beside a database, unless it is told that nobody writes;
        # who does has left one of them there.
        if self.read_only and not may_write[1] and not pathlib.Path(f"{self.path}-wal").exists():
            how += "&immutable=1"
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{how}",
            uri=True,
            timeout=_SECONDS_TO_WAIT,
            isolation_level=None,
        )
        # A text that is damaged is not to hide those beside it; its hash tells.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        try:
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        """Makes the tables in a new file; refuses what this version cannot read."""
        if not self.read_only:
            # In this order: tables of a store that another process makes come with their version.
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if _pragma(connection, "user_version") == 0:
                if tables:
                    raise StoreError(f"{self.path} is another program's database; {_ANOTHER}")
                self._make_tables(connection)
        if _pragma(connection, "application_id") != _APPLICATION:
            raise StoreError(f"{self.path} is another program's database; {_ANOTHER}")
        version = _pragma(connection, "user_version")
        if version > _SCHEMA:
            raise StoreError(
                f"{self.path} was made by a newer version of llmprior_jax (schema {version}, this "
                f"version reads {_SCHEMA}); update llmprior_jax, or {_ANOTHER}"
            )
        if version < _SCHEMA:
            if self.read_only:
                new = [column for column in _ADDED if column.schema > version]
                self._lacking = {column.name: column.old for column in new}
            else:
                self._add_columns(connection)
        # With WAL this loses nothing when a process is killed, and the last commits, whole ones,
        # when the machine is.
        connection.execute("PRAGMA synchronous = NORMAL")

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _switch_to_wal(connection)
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been first.
        if _pragma(connection, "user_version") == 0:
            for statement in _TABLES.split(";"):
                connection.execute(statement)
        connection.execute("COMMIT")

    def _add_columns(self, connection: sqlite3.Connection) -> None:
        """Brings a store of an older schema up to this one."""
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been first.
        version = _pragma(connection, "user_version")
        for column in _ADDED:
            if column.schema > version:
                for table in column.tables:
                    connection.execute(
                        f"ALTER TABLE {table} ADD COLUMN {column.name} {column.kind}"
                    )
        connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        connection.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """One commit: all of it or nothing."""
        with self._explained("be written"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _explained(self, what: str) -> Generator[None]:
        """Turns SQLite's errors into ours."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # by who calls
        except sqlite3.Error as error:
            # An extended code has the primary one in its last eight bits.
            advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
            advice = f"{advice}, or {_ANOTHER}" if advice else _ANOTHER
            raise StoreError(f"{self.path} cannot {what} ({error}): {advice}") from error

    def _model(self, fingerprint: str, name: str) -> int:
        """The number of a model, which gets one when it is new (within a commit)."""
        self._connection.execute(
            "INSERT INTO models (fingerprint, name) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (fingerprint, name),
        )
        found = self._connection.execute(
            "SELECT id FROM models WHERE fingerprint = ?", [fingerprint]
        )
        return found.fetchone()[0]

    def _known_scores(self, prompts: Mapping[bytes, str]) -> dict[bytes, StoredScores]:
        """What is kept of prompts and whole, by key; what is damaged is named."""
        return self._known("scores", COLUMNS, prompts, _read_scores)

    def _known_answers(self, prompts: Mapping[bytes, str]) -> dict[bytes, Any]:
        """As `_known_scores`, of answers."""
        return self._known("proposals", ("answer",), prompts, _answer)

    def _known(
        self,
        table: str,
        columns: Sequence[str],
        prompts: Mapping[bytes, str],
        read: Callable[[bytes, Sequence[Any]], _Read],
    ) -> dict[bytes, _Read]:
        known: dict[bytes, _Read] = {}
        keys = list(prompts)
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            places = ", ".join("?" * len(some))
            query = f"SELECT key, {self._listed(columns)} FROM {table} WHERE key IN ({places})"
            for key, *row in self._connection.execute(query, some):
                try:
                    known[key] = read(key, row)
                except _DAMAGE as error:
                    self._warn(key, prompts.get(key, ""), error)
        return known

    def _all(self, table: str, columns: Sequence[str]) -> Iterator[Any]:
        """All rows: key, fingerprint and name of the model (None without it), prompt, columns."""
        with self._explained("be read"):
            yield from self._connection.execute(
                f"SELECT key, fingerprint, name, prompt, {self._listed(columns)} FROM {table} "
                f"LEFT JOIN models ON models.id = {table}.model ORDER BY {table}.id"
            )

    def _listed(self, columns: Sequence[str]) -> str:
        """Columns and the hash of their row, as SQL."""
        return ", ".join(self._lacking.get(name, name) for name in (*columns, "digest"))

    def _warn(self, key: bytes, prompt: str, error: Exception) -> None:
        """Names a damaged entry, once."""
        if key not in self._named:
            self._named.add(key)
            logging.warning(
                "%s: what is kept of the prompt %.60r is damaged, and counts as not there: %s",
                self.path,
                prompt,
                error,
            )


def _check_key(key: bytes, *texts: str | None) -> None:
    """Raises an error if a model or a prompt is not that which an entry was made for."""
    there = [text for text in texts if text is not None]
    if len(there) < len(texts) or _key(*there) != key:
        raise ValueError("its model or its prompt is another than that of its key")


def _check_digest(key: bytes, columns: Sequence[Any], kept: bytes | None) -> None:
    """Raises an error if the columns of a row are not those that its hash was made of."""
    if kept is not None and kept != digest(key, *columns):
        raise ValueError("it does not match the hash that is kept with it")


def _hashed(columns: Sequence[Any]) -> Sequence[Any]:
    """What the hash of a row of scores is made of: there were hashes before there was a format."""
    return columns[:-1] if columns[-1] == SINGLE else columns


def _read_scores(key: bytes, row: Sequence[Any]) -> StoredScores:
    """Checks and reads one row of scores."""
    *columns, kept = row
    _check_digest(key, _hashed(columns), kept)
    return unpack(columns)


def _answer(key: bytes, row: Sequence[Any]) -> Any:
    """Checks and reads one row of answers."""
    answer, kept = row
    _check_digest(key, [answer], kept)
    return parse_json(answer, "its answer")


def _refused(prompt: str, why: str) -> ValueError:
    return ValueError(f"what is said of the prompt {prompt[:60]!r} cannot be kept: {why}")


def _key(*texts: str) -> bytes:
    """SHA-256 of some texts, each with its length, so that no two lists run together."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    # Of processes that do this at once, SQLite refuses some without waiting.
    deadline = time.monotonic() + _SECONDS_TO_WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
