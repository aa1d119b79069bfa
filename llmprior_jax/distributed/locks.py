"""Locks on files, which the operating system lifts however the process ends that holds one."""

import contextlib
import errno
import os
import pathlib
import socket
import sys
from collections.abc import Generator

import filelock
from absl import logging

from llmprior_jax.errors import InUseError

# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_LONGEST_NAME = 1024


@contextlib.contextmanager
def hold(path: pathlib.Path, of: object, wait: bool = False) -> Generator[None]:
    """Holds the lock on a file, which is made if need be and stays.

    The file says who holds it. A thread that holds a lock may hold it again. On a file system that
    has no locks a warning says so, and nothing is held.

    Examples:
      >>> from llmprior_jax.distributed import locks
      >>> with locks.hold(pathlib.Path(".lock"), of="this directory"):
      ...     pathlib.Path(".lock").read_text().endswith(f" {os.getpid()}")
      True

    Args:
      path: of the file.
      of: what the lock is on, to name it.
      wait: wait for another process to let go of it, and say so.

    Raises:
      InUseError: another process holds it, or another thread.
      OSError: the file cannot be made.
    """
    # With a hook there is no fallback to a lock that a killed process would leave behind.
    lock = filelock.FileLock(path, is_singleton=True, fallback_to_soft=False, on_acquired=_sign)
    try:
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            told = f"{of} is in use by {_holder(path)}"
            if not wait:
                raise InUseError(f"{told}: wait for its end, or write elsewhere") from None
            print(f"{told}: waiting for its end", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning(
            "the file system of %s has no locks (%s): see that no other process writes it",
            of,
            error.strerror,
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _sign(file: int) -> None:
    """Says in the file whose lock it is."""
    os.truncate(file, 0)
    os.write(file, f"{socket.gethostname()} {os.getpid()}".encode())


def _holder(path: pathlib.Path) -> str:
    """Who holds a lock, as far as the file says."""
    with contextlib.suppress(OSError, ValueError):
        host, process = path.read_bytes()[:_LONGEST_NAME].decode().split()
        return f"process {int(process)} on {host}"
    return "another process"
