"""Work that can be stopped at any moment, with all that it gave until then.

Python hears Ctrl-C and signals between two steps of its main thread, and loading or asking a
language model is one such step, of a minute maybe. So the work is done in a thread beside, while
the main thread waits and listens.
"""

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

_Result = TypeVar("_Result")

# Seconds: how often somebody is asked whether to stop, and how long what is under way may still
# take then, so that it is not lost.
_BETWEEN_QUESTIONS = 0.1
_PATIENCE = 3.0


class StoppedError(RuntimeError):
    """Work was stopped before its end."""


class TerminatedError(SystemExit):
    """A signal is to end this process at once.

    Another thread may still be at work. Python does not wait for it when it shuts down, and aborts
    if it comes back from a device meanwhile. So who catches this leaves by `os._exit(status)`.

    Attributes:
      status: what shells report of a process that the signal ended.
    """

    def __init__(self, number: int):
        self.status = 128 + number
        super().__init__(self.status)


def run(
    work: Callable[[], Iterable[_Result]],
    take: Callable[[_Result], None],
    should_stop: Callable[[], bool],
) -> None:
    """Takes each result of some work, which is done in another thread.

    Once it is to stop, what is under way has a few seconds to be finished; after that it is left
    to itself and ends with the process. So the work may do nothing but compute: all that must not
    be cut short belongs into `take`, which is called in this thread. An exception in this thread,
    as Ctrl-C and SIGTERM raise, stops the work, too.

    Examples:
      >>> from llmprior_jax import stopping
      >>> taken = []
      >>> stopping.run(lambda: iter([1, 2]), taken.append, should_stop=lambda: False)
      >>> taken
      [1, 2]

    Args:
      work: gives the results, one after the other.
      take: called with each.
      should_stop: asked while the work is done.

    Raises:
      StoppedError: `should_stop` said so before the last result.
      Exception: what the work raises.
    """
    # A `SimpleQueue` may wait for ever where a signal's handler outlasts the timeout.
    said: queue.Queue[tuple[str, Any]] = queue.Queue()
    over = threading.Event()

    def do() -> None:
        try:
            for result in work():
                said.put(("result", result))
                if over.is_set():
                    return
            said.put(("end", None))
        except BaseException as error:  # It is raised where somebody waits.
            said.put(("error", error))

    threading.Thread(target=do, name="stoppable work", daemon=True).start()
    until = None
    try:
        with _terminable():
            while True:
                if until is None and should_stop():
                    until = time.monotonic() + _PATIENCE
                try:
                    kind, value = said.get(timeout=_BETWEEN_QUESTIONS)
                except queue.Empty:
                    if until is not None and time.monotonic() >= until:
                        raise StoppedError from None
                    continue
                if kind == "error":
                    raise value
                if kind == "end":
                    return
                take(value)
                if until is not None:
                    raise StoppedError
    finally:
        over.set()


@contextlib.contextmanager
def _terminable() -> Generator[None]:
    """Lets SIGTERM raise a TerminatedError, where nobody else minds it, so that what is done can
    be kept."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: object) -> None:
        del frame
        raise TerminatedError(number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
