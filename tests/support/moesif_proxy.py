"""The real `moesif-proxy` as a process of its own, with the harness of mitmdump."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.proxy import MOESIF_PROXY, Mitmdump, Option, _environment, started

PROGRAM = (MOESIF_PROXY,)
DEADLINE = 20


class MoesifProxy(Mitmdump):
    """`moesif-proxy` on a free port of 127.0.0.1. `options` go as `--set`; see `Mitmdump` for the rest."""

    def __init__(
        self,
        upstream: str | None,
        options: Mapping[str, Option] | None = None,
        *extra: str,
        workers: int = 1,
        listen: str = "127.0.0.1:0",
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
        forked: bool = True,
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="moesif-proxy-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self._output = self.folder / f"output-{time.monotonic_ns()}.txt"
        command = [*PROGRAM, "--listen", listen, "--workers", str(workers), "--set", f"confdir={self.folder}"]
        command += ["--upstream", upstream] if upstream else []
        for name, value in (options or {}).items():
            for one in value if isinstance(value, list | tuple) else [value]:
                command += ["--set", f"{name}={str(one).lower() if isinstance(one, bool) else one}"]
        with self._output.open("wb") as sink:
            self.process = started(
                [*command, *extra], _environment(environment or {}), self.folder, sink, forked=forked
            )
        self.port = 0
        if wait:
            self._wait_until_listening()

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(child) for child in children]

    def close(self) -> None:
        """As `Mitmdump.close`; workers end when their supervisor has gone."""
        workers = self.workers() if self.process.poll() is None else []
        super().close()
        wait_until_gone(workers)


def scripted(folder: Path, addon: str) -> tuple[str, str]:
    """The arguments that load an addon of mitmproxy's, whose text goes into a file of this folder."""
    script = folder / "script.py"
    script.write_text(addon)
    return "-s", str(script)


def wait_until_gone(pids: Sequence[int]) -> None:
    """Until none of the processes is there any more. Raises `AssertionError`."""
    deadline = time.monotonic() + DEADLINE
    while running := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {running}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return re.search(r"^State:\s+[ZX]", status, re.MULTILINE) is None


def failed(*args: str, folder: Path, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`moesif-proxy` with these arguments where it is to end by itself, with its stdout and stderr."""
    return subprocess.run(
        [*PROGRAM, *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=_environment(environment or {}),
        cwd=folder,
        check=False,
    )
