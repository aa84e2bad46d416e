"""`moesif-proxy` as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.closing import Closing

START_SECONDS = 30
_LISTENING = re.compile(r"listening at (?:http://)?127\.0\.0\.1:(\d+)")


class MoesifProxy(Closing):
    """Started with `arguments` and, of our own variables, only those in `environment`; waits until it listens.

    A context manager: the process never outlives it.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._temporary = tempfile.TemporaryDirectory(prefix="moesif-proxy-")
        folder = Path(self._temporary.name)
        self._output = folder / "output.txt"
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith("MOESIF_")}
        command = [sys.executable, "-m", "mitmproxy_moesif.workers.main", *arguments]
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(
                [*command, "--set", f"confdir={folder}"],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**kept, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1", **environment},
                cwd=folder,
            )
        self.port = self._wait_until_listening()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._temporary.cleanup()

    def _wait_until_listening(self) -> int:
        deadline = time.monotonic() + START_SECONDS
        try:
            while not (found := _LISTENING.search(self.output)):
                assert self._process.poll() is None, f"moesif-proxy ended instead of starting:\n{self.output}"
                assert time.monotonic() < deadline, f"moesif-proxy did not listen:\n{self.output}"
                time.sleep(0.02)
        except BaseException:
            self.close()
            raise
        return int(found[1])
