"""How benchmarks name the machine that they ran on."""

import json

import jax
import pytest

from launch.benchmarks import accelerator, timing

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz
flags\t\t: fpu avx2 avx512f avx512dq
vmx flags\t: vnmi

processor\t: 1
model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz
flags\t\t: fpu avx2 avx512f avx512dq
"""
EPYC = "model name\t: AMD EPYC\nflags\t\t: fpu avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    """Where Linux would say what the CPU is."""
    monkeypatch.setattr(timing, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(timing.platform, "processor", lambda: "arm")
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 2)
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        (XEON, "Intel(R) Xeon(R) CPU @ 2.20GHz with AVX-512, 2 CPU cores"),
        (EPYC, "AMD EPYC without AVX-512, 2 CPU cores"),
        (ARM, "arm, 2 CPU cores"),
        (None, "arm, 2 CPU cores"),
    ],
)
def test_a_processor_is_named(cpuinfo, said, named):
    if said is not None:
        cpuinfo.write_text(said)
    assert timing.processor() == named


def test_tables_and_json_name_the_processor(cpuinfo, capsys):
    cpuinfo.write_text(EPYC)
    timing.show("some", timing.Result([{"way": "a way that is told at length", "value": 1}]), True)
    printed = capsys.readouterr().out
    machine = f"{jax.devices()[0].device_kind}, AMD EPYC without AVX-512, 2 CPU cores"
    assert f"some on {machine}" in " ".join(printed.split())
    assert json.loads(printed.splitlines()[-1])["machine"] == machine


def test_the_processor_is_written_where_no_step_named_its_machine(cpuinfo, tmp_path):
    cpuinfo.write_text(EPYC)
    out = tmp_path / "all.json"
    late = accelerator.Step("late", (), str)
    accelerator.run([late], minutes=0, out=str(out))
    assert json.loads(out.read_text())["machine"] == "AMD EPYC without AVX-512, 2 CPU cores"
