"""Taking part in a run of several processes, on one host or on many.

Every process is started with the same command. `--distributed` finds the others by what Slurm, Open
MPI, Cloud TPU or GKE say in the environment; elsewhere three flags say where they are. Without any
of them a command runs by itself, whatever it was started by.
"""

import math
import socket
import sys
import time

import jax

from launch.common.app import Flags

# On a busy day, cluster managers start processes minutes apart.
_SECONDS_TO_WAIT = 300
_SECONDS_BETWEEN = 0.2


def define_flags(own: Flags) -> None:
    """Defines the flags that say who the other processes are."""
    own.boolean(
        "distributed", False, "One of several processes, found as Slurm, Open MPI or a TPU says."
    )
    own.string("coordinator_address", None, "HOST:PORT of the first of several processes.")
    own.integer("num_processes", None, "How many processes there are.", lower_bound=1)
    own.integer("process_id", None, "Which of them this is, from 0.")


def join(own: Flags) -> None:
    """Joins the other processes, if the flags say that there are any.

    JAX wants this before anything uses a device, and importing gymnax does.

    Args:
      own: has the flags of `define_flags`.

    Raises:
      ValueError: the flags, or the environment, do not say who they are, or they cannot be joined.
    """
    named = own.coordinator_address, own.num_processes, own.process_id
    if any(value is not None for value in named):
        connect(*named)
    elif own.distributed:
        _say("waiting for the other processes", _SECONDS_TO_WAIT)
        try:
            jax.distributed.initialize(initialization_timeout=_SECONDS_TO_WAIT)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"--distributed could not join other processes ({error}); start the command with "
                "srun or mpirun, or give --coordinator_address, --num_processes and --process_id, "
                "and see that the file of --config imports nothing that uses devices"
            ) from error


def connect(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    seconds: float = _SECONDS_TO_WAIT,
) -> None:
    """Joins the processes that meet at an address.

    Raises:
      ValueError: an argument is missing or out of its range, or nobody is there.
    """
    if coordinator is None or num_processes is None or process_id is None:
        raise ValueError(
            "--coordinator_address, --num_processes and --process_id go together; give all three, "
            "or --distributed alone"
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"--coordinator_address is {coordinator!r}; write it like 10.0.0.1:8476, HOST:PORT"
        )
    if process_id >= num_processes:
        raise ValueError(
            f"--process_id is {process_id}, and --num_processes is {num_processes}; number them "
            f"from 0 to {num_processes - 1}"
        )
    _say(f"waiting for {num_processes} processes at {coordinator}", seconds)
    until = time.monotonic() + seconds
    if process_id:
        _wait_for(host.strip("[]"), int(port), seconds)
    left = max(math.ceil(until - time.monotonic()), 1)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=left,
            coordinator_bind_address=None if process_id else _bound(host, port),
        )
    except RuntimeError as error:
        # Devices are in use before that only where a config imports what uses them.
        raise ValueError(
            f"process {process_id} cannot join the others at {coordinator} ({error}); see that the "
            "port is free where process 0 runs, that as many processes are started as "
            "--num_processes says, and that the file of --config imports nothing that uses devices"
        ) from error


def _bound(host: str, port: str) -> str | None:
    """Where process 0 listens: at the address named, if it is one of this machine's.

    JAX's coordinator asks nobody who they are, so it is not to listen anywhere else.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), 0, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as probe:
            probe.bind(found[0][4])
    except OSError:
        print(
            f"{host} is no address of this machine, as where it is translated; the coordinator "
            "listens at all of its addresses, so see that only the other processes reach them",
            file=sys.stderr,
            flush=True,
        )
        return None
    return f"{host}:{port}"


def _wait_for(host: str, port: int, seconds: float) -> None:
    """Returns once somebody listens; where nobody comes, JAX would abort the process."""
    until = time.monotonic() + seconds
    while True:
        try:
            left = max(until - time.monotonic(), 0.1)
            socket.create_connection((host, port), timeout=min(left, 5)).close()
            return
        except OSError as error:
            if time.monotonic() >= until:
                raise ValueError(
                    f"nobody answers at --coordinator_address={host}:{port} after {seconds:g} "
                    f"seconds ({error}); start process 0 with the same command there, and see that "
                    "the port can be reached from here"
                ) from error
        time.sleep(_SECONDS_BETWEEN)


def _say(what: str, seconds: float) -> None:
    # Where some never come, JAX aborts with a report of its own that does not say so.
    print(f"{what}, for {seconds:g} seconds at most", file=sys.stderr, flush=True)
