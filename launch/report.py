"""Turns work directories into learning curves with intervals, and a table.

    python -m launch.report --out=report runs/quickstart runs/alpha/agent.alpha=0.1

Every agent of every run is a curve and a row, named by its directory and agent. Runs may have
different numbers of seeds, and need not be finished. `learning_curves.png` and `summary.json` are
written to `--out`.
"""

import json
import pathlib
from collections.abc import Sequence

import rich.console

from launch.common import app, results
from llmprior_jax.files import write_atomically
from llmprior_jax.training import summary

FLAGS = app.Flags()
_OUT = FLAGS.string("out", None, "Directory of the report.", required=True)


def main(argv: Sequence[str]) -> None:
    if len(argv) < 2:
        raise ValueError("name one or more work directories")
    found = results.read(map(pathlib.Path, argv[1:]))
    if not found:
        raise ValueError(f"no agent of {', '.join(argv[1:])} has been evaluated yet")
    out = pathlib.Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    statistics = results.summarize(found)
    write_atomically(out / "summary.json", json.dumps(statistics, indent=2) + "\n")
    records = {name: agent.records for name, agent in found.items()}
    units = sorted({agent.unit for agent in found.values()})
    summary.plot(records, out / "learning_curves.png", " or ".join(units))
    num_seeds = results.common_num_seeds(found)
    rich.console.Console().print(summary.table(statistics, num_seeds))
    print(f"learning_curves.png and summary.json are in {out}")


if __name__ == "__main__":
    app.run(main, FLAGS, max_arguments=1_000)
