"""What all benchmarks share: how they measure time, and how they tell what they measured."""

import json
import os
import pathlib
import platform
import re
import statistics
import time
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import rich.console
import rich.table

_CPUINFO = pathlib.Path("/proc/cpuinfo")


class Result(NamedTuple):
    """What a benchmark measured.

    Attributes:
      rows: one dict per line of its table; all have the same keys, and None where nothing is known.
      summary: values that stand for the whole, by name.
    """

    rows: list[dict[str, Any]]
    summary: Mapping[str, Any] = types.MappingProxyType({})


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median time of some calls, each until its result is there."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def processor() -> str:
    """The CPU's model, where Linux tells whether it has AVX-512, and how many cores there are."""
    said = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    fields = dict(re.findall(r"^(model name|flags)[ \t]*:[ \t]*(.*)$", said, re.MULTILINE))
    model = fields.get("model name") or platform.processor()
    if "flags" in fields:
        has_avx512 = "avx512f" in fields["flags"].split()
        model = f"{model} {'with' if has_avx512 else 'without'} AVX-512".strip()
    return ", ".join(filter(None, [model, f"{os.cpu_count()} CPU cores"]))


def _cell(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:,}"


def show(name: str, result: Result, as_json: bool) -> None:
    """Prints a result as a table, and as one JSON object on the last line if so asked."""
    machine = f"{jax.devices()[0].device_kind}, {processor()}"
    table = rich.table.Table(title=f"{name} on {machine}")
    for column, value in result.rows[0].items():
        is_text = isinstance(value, str)
        heading = column.replace("_", " ")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=is_text)
    for row in result.rows:
        table.add_row(*map(_cell, row.values()))
    console = rich.console.Console()
    console.width = max(console.width, 100)  # Numbers cut short are worse than lines that wrap.
    console.print(table)
    for quantity, value in result.summary.items():
        console.print(f"{quantity.replace('_', ' ')}: {_cell(value)}", highlight=False)
    if as_json:
        told = {"benchmark": name, "machine": machine, **result.summary, "rows": result.rows}
        print(json.dumps(told))
