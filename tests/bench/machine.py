"""On what the figures were measured."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench import nginx


def describe() -> dict[str, str]:
    """Date, machine and versions, as texts."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "mitmproxy": version("mitmproxy"),
        "addon": version("mitmproxy-moesif"),
        "upstream": _first_line(nginx.program(), "-v", r"nginx/(\S+)", "nginx {}", "asyncio"),
        "load": _first_line(shutil.which("wrk"), "-v", r"wrk (?:debian/)?(\S+)", "wrk {}", "asyncio client"),
        "busy": f"load average {os.getloadavg()[0]:.1f} at the start",
    }


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _first_line(program: str | None, flag: str, pattern: str, how: str, otherwise: str) -> str:
    if program is None:
        return otherwise
    said = subprocess.run([program, flag], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(pattern, said.stdout + said.stderr)
    return how.format(found[1] if found else "of unknown version")
