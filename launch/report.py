"""Turns work directories into learning curves with intervals, and a table.

    python -m launch.report --out=report runs/quickstart runs/alpha/agent.alpha=0.1

Every agent of every run is a curve and a row, named for its directory and itself. Runs may have
other numbers of seeds, and need not be finished. `--out` gets `learning_curves.png` and
`summary.json`.
"""

import json
import pathlib
from collections.abc import Sequence

import rich.console
from absl import flags

from launch.common import app
from llmprior_jax import training
from llmprior_jax.files import write_atomically
from llmprior_jax.learning.run import step_unit
from llmprior_jax.training import summary
from llmprior_jax.training.metrics import read_metrics

_OUT = flags.DEFINE_string("out", None, "Directory of the report.", required=True)


def main(argv: Sequence[str]) -> None:
    if len(argv) < 2:
        raise ValueError("name one or more work directories")
    records, units, seeds = {}, {}, set()
    for directory in map(pathlib.Path, argv[1:]):
        config = training.read_config(directory)
        seeds.add(config.num_seeds)
        for agent in config.agents:
            told = read_metrics(directory / agent)
            if told:
                name = f"{directory.name} {agent}"
                records[name], units[name] = told, step_unit(config)
    if not records:
        raise ValueError(f"no agent of {', '.join(argv[1:])} has been evaluated yet")
    results = {name: summary.summarize(told, units[name]) for name, told in records.items()}
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "summary.json", json.dumps(results, indent=2) + "\n")
    unit = " or ".join(sorted(set(units.values())))
    summary.plot(records, out / "learning_curves.png", unit)
    rich.console.Console().print(summary.table(results, seeds.pop() if len(seeds) == 1 else None))
    print(f"learning_curves.png and summary.json are in {out}")


if __name__ == "__main__":
    app.run(main, max_arguments=1_000)
