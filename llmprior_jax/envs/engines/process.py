"""One worker process of the bridge, as this process sees it."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from llmprior_jax.envs.engines import worker


class EngineProcess:
    """A process that plays one game at a time; `worker` says what is asked and answered."""

    def __init__(self) -> None:
        """Starts the process."""
        # The script is run by its path, and its folder left out of Python's (-P), so that the
        # process never imports this package, nor JAX. The engine is found where it would be here.
        path = os.pathsep.join([*filter(None, sys.path), os.getcwd()])
        # Temporary files of the process end with it, however it ends.
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=os.environ | {"PYTHONPATH": path, "TMPDIR": self._folder.name},
            text=True,
            encoding="utf-8",
        )
        # A `SimpleQueue` may wait for ever where a signal's handler outlasts the timeout.
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def send(self, request: dict[str, Any]) -> None:
        """Sends a request; that the process has ended is for `receive` to say."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass

    def receive(self, deadline: float) -> dict[str, Any] | None:
        """The answer to a request; None where the process has ended.

        Raises:
          TimeoutError: there is none yet at the deadline, a time of `time.monotonic`.
        """
        try:
            line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        return None if line is None else json.loads(line)

    def last_words(self) -> str:
        """The end of what the process wrote to standard error."""
        self._words.seek(0)
        return self._words.read()[-500:].decode("utf-8", "replace").strip()

    def kill(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        self._words.close()
        self._folder.cleanup()
