"""Trains many runs, in one process or in several that share them.

Whoever trains a run holds a lock on it, which the operating system lifts however the process ends.
So a command that is given twice, or by several processes, trains no run twice.
"""

import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable, Generator, Mapping

import filelock
import jax

from launch.common import app
from llmprior_jax import progress, training
from llmprior_jax.training.config import check_workdir

SECONDS_FILE = "seconds.jsonl"
_POLL_SECONDS = 0.5
_STOPPED = "stopped; the same command goes on in {}"


def train(workdir: pathlib.Path, configs: Mapping[str, training.Config], jobs: int = 1) -> None:
    """Trains the runs that are not finished, apart from those that another process is at.

    Args:
      workdir: has a directory for each run.
      configs: of the runs, by the names of their directories.
      jobs: processes that share them. More than one say what they do in `process*.log`.

    Raises:
      ConfigMismatchError: a directory is that of another run.
      InterruptedRunError: Ctrl-C or SIGTERM; the runs that were under way can go on.
      SystemExit: a process failed.
    """
    with app.StopSignal() as should_stop:
        if jobs == 1:
            _train(workdir, configs, should_stop)
        else:
            _supervise(workdir, configs, jobs, should_stop)


@contextlib.contextmanager
def timed(workdir: pathlib.Path, name: str) -> Generator[None]:
    """Adds the time that something takes to what is known of it, whether it ends or is stopped."""
    started = time.monotonic()
    try:
        yield
    finally:
        workdir.mkdir(parents=True, exist_ok=True)
        with (workdir / SECONDS_FILE).open("a") as file:
            told = {"name": name, "seconds": round(time.monotonic() - started, 1)}
            file.write(json.dumps(told) + "\n")


def _train(
    workdir: pathlib.Path,
    configs: Mapping[str, training.Config],
    should_stop: Callable[[], bool],
) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    for name, config in progress.bar(configs.items(), desc="runs"):
        if should_stop():
            raise training.InterruptedRunError(_STOPPED.format(workdir))
        check_workdir(workdir / name, config)
        with _claim(workdir / f"{name}.lock") as is_ours:
            if not is_ours or _is_finished(workdir, name):
                continue
            with timed(workdir, name):
                training.run(config, workdir / name, should_stop=should_stop)
            jax.clear_caches()  # Programs are kept on disk, and nothing else would free them.


@contextlib.contextmanager
def _claim(path: pathlib.Path) -> Generator[bool]:
    """Whether no other process holds a lock; it is held until the end."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _is_finished(workdir: pathlib.Path, name: str) -> bool:
    return (workdir / name / training.SUMMARY_FILE).exists()


def _supervise(
    workdir: pathlib.Path,
    configs: Mapping[str, training.Config],
    jobs: int,
    should_stop: Callable[[], bool],
) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    # A process with JAX's threads is not to be forked.
    spawn = multiprocessing.get_context("spawn")
    logs = [workdir / f"process{number}.log" for number in range(jobs)]
    processes = [spawn.Process(target=_work, args=(workdir, configs, log)) for log in logs]
    asked = False

    def ask_to_stop() -> None:
        for process in processes:
            if process.is_alive():
                process.terminate()

    try:
        for process in processes:
            process.start()
        with progress.bar(total=len(configs), desc="runs", unit="run") as bar:
            while any(process.is_alive() for process in processes):
                time.sleep(_POLL_SECONDS)
                bar.update(sum(_is_finished(workdir, name) for name in configs) - bar.n)
                if should_stop() and not asked:
                    ask_to_stop()
                    asked = True
    finally:
        ask_to_stop()  # Those that are still there: a second signal, which stops them at once.
    failed = [str(log) for process, log in zip(processes, logs, strict=True) if process.exitcode]
    if failed and should_stop():
        raise training.InterruptedRunError(_STOPPED.format(workdir))
    if failed:
        sys.exit(f"error: {len(failed)} of {jobs} processes failed; see {', '.join(failed)}")


def _work(workdir: pathlib.Path, configs: Mapping[str, training.Config], log: pathlib.Path) -> None:
    # In a session of its own: Ctrl-C reaches the first process alone, which asks this one to end.
    os.setsid()
    # Left open: what is to be said of an exception is said when this function is over.
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    with app.guard(), app.StopSignal() as should_stop:
        _train(workdir, configs, should_stop)
