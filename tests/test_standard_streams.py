"""What commands write where a stream is closed, full, read by nobody, or has no letters for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.proxy import BIN

PROXY = str(BIN / "moesif-proxy")
PACKAGE = f"{sys.executable} -m mitmproxy_moesif"
COMMANDS = {
    "script": PACKAGE,
    "help": f"{PACKAGE} --help",
    "options": f"{PROXY} --options",
    "spool": f"{PROXY} spool --folder . list",
}


def ended(command: str, folder: Path, **environment: str) -> tuple[int, str]:
    """The exit code of a command of a shell's, and what it said on standard error."""
    process = subprocess.run(
        ["bash", "-c", command], stderr=subprocess.PIPE, text=True, cwd=folder, timeout=100, env=environment or None
    )
    return process.returncode, process.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_goes_makes_no_difference(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    assert ended(f"{command} | true; exit ${{PIPESTATUS[0]}}", tmp_path) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_streams_may_be_closed(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    assert ended(f"{command} <&- >&-", tmp_path) == (0, "")
    assert ended(f"{command} <&- >&- 2>&-", tmp_path) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    command = COMMANDS[name]
    said = "moesif: standard output cannot be written: No space left on device\n"
    assert ended(f"{command} > /dev/full", tmp_path) == (1, said)
    assert ended(f"{command} > /dev/full 2>&1", tmp_path) == (1, "")


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_what_cannot_be_written_is_escaped(encoding: str, tmp_path: Path) -> None:
    command = f"mkdir $'caf\\xe9'; {PROXY} spool --folder $'caf\\xe9' list >&2"
    assert ended(command, tmp_path, PYTHONIOENCODING=encoding) == (0, "nothing waits in caf\\udce9\n")
