"""Exceptions that training raises; nothing is imported to name them."""


class RestoreError(RuntimeError):
    """No checkpoint of a directory can be read."""


class OutOfMemoryError(RuntimeError):
    """A device had too little memory; the message says what to lower."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of a device or of the host."""
    # Devices say the first; CPUs, depending on where they notice it, the second.
    says = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in says or "Out of memory" in says


class DivergedError(ArithmeticError):
    """A loss or a parameter is no longer finite; the message says since when, and what to lower."""


class InterruptedRunError(RuntimeError):
    """Training was asked to stop; the work directory has everything learned up to then."""


class InterruptedScoringError(InterruptedRunError):
    """Scoring was asked to stop; what was scored until then is kept.

    Attributes:
      done: how many prompts, from the first one on, can be scored again without the model.
    """

    def __init__(self, message: str, done: int = 0):
        super().__init__(message)
        self.done = done


class InUseError(RuntimeError):
    """Another process writes where this one was to; the message says which, if that is known."""


class FirstProcessError(RuntimeError):
    """The first process failed, and says why; this one cannot go on without it."""
