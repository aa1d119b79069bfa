"""What is measured, and with which settings: the experiments of `launch.reproduce` as data."""

from launch.paper import alfworld, kitchens, text_worlds
from launch.paper.experiments import Experiment, Inputs, Scale


def make(scale: Scale, inputs: Inputs) -> dict[str, Experiment]:
    """All experiments by name, in the order in which they are run.

    Args:
      scale: their sizes.
      inputs: the files that they read; what reads games is left out where these cannot be made.
    """
    return {
        **kitchens.make(scale, inputs),
        **text_worlds.make(scale, inputs),
        **({} if inputs.games is None else alfworld.make(scale, inputs)),
    }
