"""The evaluations of agents that runs have trained, as far as they are."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llmprior_jax import training
from llmprior_jax.training import summary
from llmprior_jax.training.config import step_unit
from llmprior_jax.training.metrics import read_metrics


class AgentResult(NamedTuple):
    """What is known of an agent of a run.

    Attributes:
      records: its evaluations, as `read_metrics` gives them; at least one.
      unit: what their steps are.
      num_seeds: of the run.
      modes: how the agent acted in its evaluations.
    """

    records: Sequence[Mapping[str, Any]]
    unit: str
    num_seeds: int
    modes: Sequence[str]


def read(workdirs: Iterable[pathlib.Path]) -> dict[str, AgentResult]:
    """The agents of some runs that have been evaluated, by the run's directory and their own name.

    Raises:
      FileNotFoundError: a directory holds no run.
    """
    found = {}
    for workdir in workdirs:
        config = training.read_config(workdir)
        for agent in config.agents:
            if records := read_metrics(workdir / agent):
                found[f"{workdir.name} {agent}"] = AgentResult(
                    records, step_unit(config), config.num_seeds, config.eval_modes
                )
    return found


def summarize(found: Mapping[str, AgentResult]) -> dict[str, Any]:
    """The statistics of each agent, as `summary.table` takes them.

    They are computed anew: the summary in a run's directory may be another version's.
    """
    return {
        name: summary.summarize(agent.records, agent.unit, agent.modes)
        for name, agent in found.items()
    }


def common_num_seeds(found: Mapping[str, AgentResult]) -> int | None:
    """The number of seeds of all runs, or None where it differs."""
    numbers = {agent.num_seeds for agent in found.values()}
    return numbers.pop() if len(numbers) == 1 else None
