"""Processes that end with the one that started them, however that ends.

A child waits for the end of its parent in a thread, and then tells itself to stop, as SIGTERM does.
It has a session of its own: Ctrl-C reaches the parent alone, which ends its children as it will.
"""

import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from typing import Any

# A process with JAX's threads is not to be forked.
SPAWN = multiprocessing.get_context("spawn")


def start(target: Callable[..., None], *arguments: Any) -> SpawnProcess:
    """Starts a process that calls a function of a module.

    Args:
      target: the function.
      *arguments: its arguments, which are pickled.
    """
    process = SPAWN.Process(target=_live, args=(sys.orig_argv, target, *arguments))
    process.start()
    return process


def run(module: str, *arguments: str) -> None:
    """Runs a command, `python -m module`, to its end; an exception in here ends it, too.

    Raises:
      ChildProcessError: it failed; it has said why.
    """
    process = start(become, module, arguments)
    try:
        process.join()
    except BaseException:
        process.terminate()
        process.join()
        raise
    if process.exitcode:
        raise ChildProcessError(f"`python -m {shlex.join([module, *arguments])}` failed, see above")


def become(module: str, arguments: Sequence[str]) -> None:
    """Runs a command, `python -m module`, in this process."""
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def follow_parent() -> None:
    """Has this process, which multiprocessing started in another way, end with its parent, too."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()


def _live(command: list[str], target: Callable[..., None], *arguments: Any) -> None:
    os.setsid()
    follow_parent()
    sys.orig_argv = command  # For those who ask what led to a run.
    target(*arguments)


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
