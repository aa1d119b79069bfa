"""What training raises beside Python's own errors; nothing is imported to name them."""


class RestoreError(RuntimeError):
    """No checkpoint of a directory can be read."""


class OutOfMemoryError(RuntimeError):
    """A device had too little memory; the message says what to lower."""


class InterruptedRunError(RuntimeError):
    """Training was asked to stop; the work directory holds all that was learned until then."""


class FirstProcessError(RuntimeError):
    """The first process failed, and says why; this one cannot go on without it."""
