"""Memory of this process and of this machine, from Linux's own account."""

import ctypes
import pathlib
import re


def resident_bytes(peak: bool = False) -> int:
    """Memory that this process holds, or the most it held since `reset_peak`."""
    return _read("/proc/self/status", "VmHWM" if peak else "VmRSS")


def reset_peak() -> None:
    """Counts the most that is held from here on, without what lies free in the C library."""
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def available_bytes() -> int:
    """Memory of the machine that is still to be had."""
    return _read("/proc/meminfo", "MemAvailable")


def _read(path: str, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", pathlib.Path(path).read_text(), re.MULTILINE)
    assert found, f"{path} has no {field}"
    return 1024 * int(found[1])
