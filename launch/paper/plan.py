"""What is measured, and with which settings: the experiments of `launch.reproduce` as data."""

from launch.paper import alfworld, kitchens, text_worlds
from launch.paper.experiments import Experiment, Inputs, Scale


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """All experiments by name, in the order in which they are run.

    Args:
      scale: their sizes.
      inputs: the files that they read; what cannot be run here is `left_out`.
    """
    return {
        **kitchens.make(scale, inputs),
        **text_worlds.make(scale, inputs),
        **({} if inputs.games is None else alfworld.make(scale, inputs)),
    }


def left_out(inputs: Inputs) -> list[str]:
    """Which experiments are left out here, and what they need: a line each."""
    lines = []
    if not text_worlds.has_engine():
        lines.append("without TextWorld Commonsense: needs the extra `textworld_express`, and Java")
    if inputs.games is None:
        lines.append("without ALFWorld: its games need the extra `alfworld`")
    return lines
