"""Lines of a file that several write to, and whose disk may be full."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from pathlib import Path

from mitmproxy_moesif.delivery.receivers.base import Verdict
from mitmproxy_moesif.delivery.receivers.ndjson import FileReceiver

FULL_DISK = """
import resource, signal, sys
from mitmproxy_moesif.delivery.receivers.ndjson import FileReceiver
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
print(FileReceiver(sys.argv[1]).send([bytes(200)]).verdict.name)
"""


def wait_until_somebody_waits_for(file: Path) -> None:
    inode, deadline = str(file.stat().st_ino), time.monotonic() + 20
    while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


def test_what_does_not_fit_takes_no_line_of_others_along(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = subprocess.Popen([sys.executable, "-c", FULL_DISK, path], stdout=subprocess.PIPE, text=True)
        wait_until_somebody_waits_for(path)
        other.write(b"of another\n")
    assert writer.communicate(timeout=20)[0] == "UNAVAILABLE\n"
    assert path.read_bytes() == b"of another\n"


def test_half_a_line_of_one_that_was_killed_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"{}\nhalf")
    for _ in range(2):
        assert FileReceiver(str(path)).send([b"[1]", b"[2]"]).verdict is Verdict.ACCEPTED
    assert path.read_bytes() == b"{}\nhalf\n[1]\n[2]\n[1]\n[2]\n"
