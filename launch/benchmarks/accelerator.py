"""All that is to be known of a machine with an accelerator, in one go and within a time.

    python -m launch.benchmark accelerator [--shapes=Qwen2.5-0.5B,Qwen2.5-7B] [--minutes=12]
        [--out=accelerator.json] [--json]

One after another, each in a process of its own so that it has the device to itself: the benchmarks
of environments and of training; the quickstart, which is timed as a whole; and the benchmark of
scoring for each shape, in bfloat16 with random weights. The table has the figures that stand for
each. With `--out` all of them, and all rows, are written as JSON after each step, so that what was
measured stays, whatever comes next.

No step but the last may take more than half of the time that is left when it begins; the last may
take all. A step that fails, or whose time is up, is told as such and the others go on; one that
would have less than half a minute is not begun.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import rich

from launch.benchmarks import timing
from launch.common import children
from llmprior_jax.files import write_atomically

_LEAST_SECONDS = 30
_MOST_WORDS = 300  # characters of an error


class Step(NamedTuple):
    """Something to be run and measured.

    Attributes:
      name: for people.
      command: a module of a command, and its arguments.
      read: makes a result, as a dict of figures and rows, of what is printed.
    """

    name: str
    command: Sequence[str]
    read: Callable[[str], dict[str, Any]]


def steps(shapes: Sequence[str], workdir: pathlib.Path) -> list[Step]:
    """What is run, the cheapest first.

    Args:
      shapes: of the language models that score, the smallest first.
      workdir: for the quickstart's results.
    """
    scoring = ("scoring", "--dtype=bfloat16", "--prompt_tokens=128,512", "--json")
    quickstart = ("--config=quickstart", f"--workdir={workdir}")
    return [
        Step(
            "envs",
            ("launch.benchmark", "envs", "--json"),
            _with_rates("batched_steps_per_s", "environment"),
        ),
        Step(
            "train",
            ("launch.benchmark", "train", "--json"),
            _with_rates("steps_per_s", "seeds", "environments"),
        ),
        Step("quickstart", ("launch.train", *quickstart), lambda _: _of_quickstart(workdir)),
        *(
            Step(f"scoring {shape}", ("launch.benchmark", *scoring, f"--shape={shape}"), _last_line)
            for shape in shapes
        ),
    ]


def measure(shapes: Sequence[str], minutes: float, out: str | None) -> timing.Result:
    """Runs all steps, as far as the time goes.

    Args:
      shapes: of the language models that score.
      minutes: that all may take.
      out: file that gets all results; None writes none.
    """
    with tempfile.TemporaryDirectory() as directory:
        return run(steps(shapes, pathlib.Path(directory) / "quickstart"), minutes, out)


def run(wanted: Sequence[Step], minutes: float, out: str | None) -> timing.Result:
    """As `measure`, with steps of one's own."""
    until = time.monotonic() + 60 * minutes
    results: dict[str, dict[str, Any]] = {}
    for step in wanted:
        began = time.monotonic()
        left = until - began
        most = left if step is wanted[-1] else left / 2
        if most < _LEAST_SECONDS:
            result: dict[str, Any] = {"failed": "not begun, the time was up"}
        else:
            rich.print(f"{step.name}: {left / 60:.1f} minutes left", file=sys.stderr)
            result = _run(step, most)
        results[step.name] = {"seconds": round(time.monotonic() - began, 1)} | result
        if out is not None:
            told = {"machine": _machine(results), "results": results}
            write_atomically(out, json.dumps(told, indent=2) + "\n")
    rows = [
        {"step": name, "figure": figure, "value": value}
        for name, result in results.items()
        for figure, value in result.items()
        if isinstance(value, str | int | float) and figure not in ("benchmark", "machine")
    ]
    return timing.Result(rows)


def _run(step: Step, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        out, err = (pathlib.Path(directory) / name for name in ("out", "err"))
        out.touch()
        err.touch()
        process = children.start(_act, step.command, out, err)
        assert process.pid is not None
        try:
            process.join(seconds)
            status = process.exitcode
        finally:
            # With the processes that it started, which hold the device.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # It may have had no session yet.
            process.join()
        printed, errors = out.read_text(), err.read_text()
    if status is None:
        return {"failed": f"stopped, its {seconds:.0f} seconds were up"}
    if status:
        words = errors.strip() or printed.strip()
        return {"failed": words[-_MOST_WORDS:] or f"status {status}"}
    try:
        return step.read(printed)
    except (ValueError, LookupError, OSError) as error:
        return {"failed": f"what it printed cannot be read: {error}"}


def _act(command: Sequence[str], out: pathlib.Path, err: pathlib.Path) -> None:
    """What the process of a step does: the command, which prints to two files."""
    for descriptor, path in ((1, out), (2, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    # Both sides of the scoring benchmark are on the device at once.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    module, *arguments = command
    children.become(module, arguments)


def _last_line(printed: str) -> dict[str, Any]:
    """What a benchmark says with `--json`."""
    return json.loads(printed.splitlines()[-1])


def _with_rates(rate: str, *columns: str) -> Callable[[str], dict[str, Any]]:
    """As `_last_line`, with a figure of each row, which some of its columns name."""

    def read(printed: str) -> dict[str, Any]:
        told = _last_line(printed)
        rows: list[dict[str, Any]] = told["rows"]
        named = ", ".join
        return told | {
            named([*(f"{column} {row[column]}" for column in columns), rate]): row[rate]
            for row in rows
        }

    return read


def _of_quickstart(workdir: pathlib.Path) -> dict[str, Any]:
    """Success of each agent at the end, and the steps that it took to 90%."""
    summary: dict[str, dict[str, Any]] = json.loads((workdir / "summary.json").read_text())
    return {
        f"{name} {what}": of_agent[what][statistic]
        for name, of_agent in summary.items()
        for what, statistic in (("success_rate", "iqm"), ("steps_to_90", "median"))
        if what in of_agent
    }


def _machine(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The machine as a benchmark named it, or its CPU; this process leaves the device alone."""
    named = (each["machine"] for each in results.values() if "machine" in each)
    return next(named, timing.processor())
