"""Measures how fast the parts of the library are on this machine.

    python -m launch.benchmark envs [--num_envs=4096] [--games=DIR] [--json]
    python -m launch.benchmark generation [--shape=Qwen2.5-0.5B] [--json]
    python -m launch.benchmark scoring [--shape=Qwen2.5-0.5B] [--json]
    python -m launch.benchmark train [--json]

What each measures and how is told in its module, `launch/benchmarks/`. With `--json` the last line
printed is the result as one JSON object.
"""

import difflib
from collections.abc import Sequence

from absl import flags

from launch.benchmarks import environments, generation, learning, scoring, timing
from launch.common import app

_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON, too, on the last line.")

_BENCHMARKS = {
    "envs": environments.measure,
    "generation": generation.measure,
    "scoring": scoring.measure,
    "train": learning.measure,
}


def main(argv: Sequence[str]) -> None:
    names = ", ".join(_BENCHMARKS)
    if len(argv) != 2:
        raise ValueError(f"say which one benchmark to run: {names}")
    name = argv[1]
    if name not in _BENCHMARKS:
        (nearest,) = difflib.get_close_matches(name, _BENCHMARKS, n=1, cutoff=0)
        raise ValueError(f"there is no benchmark {name!r}; did you mean {nearest!r}?")
    timing.show(name, _BENCHMARKS[name](), _JSON.value)


if __name__ == "__main__":
    app.run(main, max_arguments=1)
