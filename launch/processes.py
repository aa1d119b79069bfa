"""Taking part in a run of several processes, on one host or on many. Importing this joins them.

Every process is started with the same command. `--distributed` finds the others by what Slurm, Open
MPI, Cloud TPU or GKE say in the environment; elsewhere three flags say where they are. Without any
of them a command runs by itself, whatever it was started by.

JAX wants this before anything uses a device, and importing gymnax does: hence at import, from
`sys.argv`, and before the other imports of a command.
"""

import sys

import jax
from absl import flags

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, found as Slurm, Open MPI or a TPU says."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of the first of several processes."
)
_NUMBER = flags.DEFINE_integer(
    "num_processes", None, "How many processes there are.", lower_bound=1
)
_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


def _join() -> None:
    """Joins the other processes, if the flags say that there are any.

    Raises:
      flags.Error: a flag cannot be parsed.
      ValueError: the flags, or the environment, do not say who they are.
    """
    own = flags.FlagValues()
    for holder in (_DISTRIBUTED, _COORDINATOR, _NUMBER, _ID):
        own[holder.name] = flags.FLAGS[holder.name]
    own(sys.argv, known_only=True)
    coordinator, number, process = (own[h.name].value for h in (_COORDINATOR, _NUMBER, _ID))
    named = [value is not None for value in (coordinator, number, process)]
    if any(named):
        if not all(named):
            raise ValueError(
                "--coordinator_address, --num_processes and --process_id go together; give all "
                "three, or --distributed alone"
            )
        jax.distributed.initialize(coordinator, number, process)
    elif own[_DISTRIBUTED.name].value:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                f"--distributed found no other processes ({error}); start the command with srun or "
                "mpirun, or give --coordinator_address, --num_processes and --process_id"
            ) from error


try:
    _join()
except (flags.Error, ValueError) as error:
    sys.exit(f"error: {error}")


def is_first() -> bool:
    """Whether this is the process that prints."""
    return jax.process_index() == 0
