"""What the kernel knows of a process and its descendants: CPU time and memory. Linux only."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_SCHEDULED = 2  # CPUCLOCK_SCHED of the kernel's clock ids


def family(pid: int) -> list[int]:
    """The process and all its descendants (a supervisor's workers)."""
    found = [pid]
    for parent in found:
        found.extend(_children(parent))
    return found


def _children(pid: int) -> Iterator[int]:
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, listing.read_text().split())
        except OSError:
            continue


def cpu_seconds(pid: int) -> float:
    """User and system time of the family, with all threads, also those that have ended."""
    return sum(map(_cpu_seconds, family(pid)))


def _cpu_seconds(pid: int) -> float:
    try:
        # The process's own clock: the same as utime + stime, in nanoseconds and not in ticks of 10 ms.
        return time.clock_gettime((~pid << 3) | _SCHEDULED)
    except OSError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loop_seconds(pid: int) -> float:
    """CPU time of the main threads of the family: mitmproxy's event loop runs there, the addon's threads do not."""
    return sum(_main_thread_seconds(member) for member in family(pid))


def _main_thread_seconds(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Resident memory of the family now."""
    return sum(_status(member, "VmRSS") for member in family(pid))


def peak_bytes(pid: int) -> int:
    """The most resident memory of the family since the start or `forget_peak`."""
    return sum(_status(member, "VmHWM") for member in family(pid))


def forget_peak(pid: int) -> None:
    for member in family(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def _status(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def settle(pid: int, seconds: float = 5.0) -> float:
    """Wait until the family is idle, for at most `seconds`; returns how long it still worked.

    Work that was put off until after the load belongs to the load's CPU time.
    """
    began = busy = time.monotonic()
    before = cpu_seconds(pid)
    while (now := time.monotonic()) - busy < 0.15 and now - began < seconds:
        time.sleep(0.05)
        after = cpu_seconds(pid)
        if after - before > 0.0025:
            busy = time.monotonic()
        before = after
    return busy - began
