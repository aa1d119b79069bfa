"""Trains many runs, each once: in this process, or in several that share them.

Whoever trains a run holds the lock on its directory, which the operating system lifts however the
process ends. So a command that is given twice, or by several processes, trains no run twice.
"""

import collections
import contextlib
import json
import multiprocessing.connection
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence

import jax

from launch.common import app, children
from llmprior_jax import progress, stopping, training
from llmprior_jax.errors import InUseError
from llmprior_jax.files import append
from llmprior_jax.training.config import check_workdir
from llmprior_jax.training.work_directory import locked

SECONDS_FILE = "seconds.jsonl"
LOG_FILE = "log.txt"

_POLL_SECONDS = 0.5


def train_here(workdir: pathlib.Path, configs: Mapping[str, training.Config]) -> None:
    """Trains the runs in this process, apart from those that another process is at.

    Args:
      workdir: has a directory for each run.
      configs: of the runs, by the names of their directories.

    Raises:
      ConfigMismatchError: a directory is that of another run.
      InterruptedRunError: Ctrl-C or SIGTERM; the run that was under way can go on.
      Exception: whatever ended a run.
    """
    unfinished = _unfinished(workdir, configs)
    with app.StopSignal() as should_stop:
        for name in progress.bar(unfinished, desc="runs", unit="run"):
            if should_stop():
                raise _interruption(workdir)
            _train(workdir, name, configs[name], should_stop)


def train_in_processes(
    workdir: pathlib.Path, configs: Mapping[str, training.Config], jobs: int
) -> list[str]:
    """Trains the runs in processes that share them, apart from those that others are at.

    What is printed of a run is in `log.txt` in its directory. A run that fails stops no other, even
    if its process dies of it. The processes end with this one, however it ends.

    Args:
      workdir: has a directory for each run.
      configs: of the runs, by the names of their directories.
      jobs: how many processes.

    Returns:
      The names of the runs that failed.

    Raises:
      ConfigMismatchError: a directory is that of another run.
      InterruptedRunError: Ctrl-C or SIGTERM; the runs that were under way can go on.
    """
    waiting = collections.deque(_unfinished(workdir, configs))
    workers: list[_Worker] = []
    failed: list[str] = []

    def give_next(worker: _Worker) -> None:
        name = waiting.popleft()
        worker.train(name, configs[name])

    with (
        app.StopSignal() as should_stop,
        progress.bar(total=len(waiting), desc="runs", unit="run") as bar,
    ):
        asked = False
        try:
            while waiting or workers:
                if should_stop() and not asked:
                    waiting.clear()
                    _terminate(workers)
                    asked = True
                while waiting and len(workers) < jobs:
                    workers.append(_Worker(workdir))
                    give_next(workers[-1])
                for worker in _ready(workers):
                    has_failed = worker.failed()
                    if has_failed:
                        failed.append(worker.run)
                    bar.update()
                    # One that failed may have been told to stop, and would end the next run, too.
                    if waiting and not has_failed:
                        give_next(worker)
                    else:
                        worker.close()
                        workers.remove(worker)
        finally:
            _terminate(workers)  # A second signal, which stops them at once.
    if asked:
        raise _interruption(workdir)
    return failed


def describe_failures(failed: Sequence[str], num_runs: int) -> str:
    """What a command says that ends with failed runs."""
    return f"error: {len(failed)} of {num_runs} runs failed; see {LOG_FILE} in {', '.join(failed)}"


def is_finished(workdir: pathlib.Path, name: str) -> bool:
    """Whether a run has come to its end."""
    return (workdir / name / training.SUMMARY_FILE).exists()


@contextlib.contextmanager
def timed(workdir: pathlib.Path, name: str) -> Generator[None]:
    """Adds the time that something takes to `seconds.jsonl`, whether it ends or is stopped."""
    started = time.monotonic()
    try:
        yield
    finally:
        workdir.mkdir(parents=True, exist_ok=True)
        line = {"name": name, "seconds": round(time.monotonic() - started, 1)}
        append(workdir / SECONDS_FILE, json.dumps(line))


def _unfinished(workdir: pathlib.Path, configs: Mapping[str, training.Config]) -> list[str]:
    """The runs that are still to be trained; makes their common directory.

    Raises:
      ConfigMismatchError: a directory is that of another run.
    """
    for name, config in configs.items():
        check_workdir(workdir / name, config)
    workdir.mkdir(parents=True, exist_ok=True)
    return [name for name in configs if not is_finished(workdir, name)]


def _interruption(workdir: pathlib.Path) -> training.InterruptedRunError:
    return training.InterruptedRunError(f"stopped; the same command goes on in {workdir}")


def _train(
    workdir: pathlib.Path, name: str, config: training.Config, should_stop: Callable[[], bool]
) -> None:
    """Trains a run, unless it is finished or another process is at it."""
    directory = workdir / name
    directory.mkdir(exist_ok=True)
    with contextlib.ExitStack() as opened:
        try:
            opened.enter_context(locked(directory))
        except InUseError:
            return
        if not is_finished(workdir, name):
            with timed(workdir, name):
                training.run(config, directory, should_stop=should_stop)
            jax.clear_caches()  # Programs are kept on disk, and nothing else would free them.


class _Worker:
    """A process that trains runs, one after another, as long as it is given any.

    Attributes:
      connection: is ready once a run has ended, or the process has.
      run: the name of the last run that it was given.
      process: it itself.
    """

    def __init__(self, workdir: pathlib.Path):
        self.connection, its_end = children.SPAWN.Pipe()
        self.run = ""
        self.process = children.start(_work, workdir, its_end)
        its_end.close()  # Or nobody would notice that the process has ended.

    def train(self, name: str, config: training.Config) -> None:
        self.run = name
        with contextlib.suppress(BrokenPipeError):  # It was killed, as `failed` will find.
            self.connection.send((name, config))

    def failed(self) -> bool:
        """Whether the run failed; waits for its end."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):  # The process was killed.
            self.process.join()  # So that it is known to be dead.
            return True

    def close(self) -> None:
        """Ends the process, which waits for another run."""
        self.connection.close()
        self.process.join()


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Those whose run, or whose process, has ended; waits a moment for one."""
    ready = multiprocessing.connection.wait([each.connection for each in workers], _POLL_SECONDS)
    return [worker for worker in workers if worker.connection in ready]


def _terminate(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()


def _work(workdir: pathlib.Path, connection: multiprocessing.connection.Connection) -> None:
    """What a worker does: trains runs and says of each whether it failed."""
    sys.stdout = sys.stderr  # It is written line by line.
    app.set_up()
    should_stop = app.StopSignal()
    try:
        with should_stop, contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                name, config = connection.recv()
                _print_to(workdir / name / LOG_FILE)
                connection.send(_fails(workdir, name, config, should_stop))
    except stopping.TerminatedError as termination:
        app.leave(termination.status)
    if should_stop():  # What was stopped may have left work to another thread.
        app.leave(0)


def _print_to(path: pathlib.Path) -> None:
    """Appends to a file what this process prints, and what libraries and its children do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)


def _fails(
    workdir: pathlib.Path, name: str, config: training.Config, should_stop: Callable[[], bool]
) -> bool:
    """Trains a run and returns whether it failed or was stopped; prints why."""
    try:
        _train(workdir, name, config, should_stop)
    except training.InterruptedRunError as interruption:
        print(interruption)
        return True
    except Exception as error:  # Whatever it was, the other runs go on.
        said = app.told(error)
        if said is None:
            traceback.print_exc()
        else:
            print(f"error: {said}")
        return True
    return False
