"""Processes of the soak beside the proxy. Each ends with this process, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support import REPOSITORY
from tests.support.closing import Closing

Command = dict[str, Any]
END_SECONDS = 10


class Child(Closing):
    """`python -m MODULE`, which takes commands and gives answers, one JSON object a line (see `serve_commands`).

    It has a session of its own, so that Ctrl-C in a terminal reaches the soak alone, which ends its children in order;
    and it ends by itself where its standard input does. `said` is what it wrote to stderr.
    """

    def __init__(self, module: str, *arguments: str, folder: Path) -> None:
        self._log = folder / f"{module.rpartition('.')[2]}-stderr.txt"
        self._lock = threading.Lock()
        with self._log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                cwd=REPOSITORY,
                text=True,
                start_new_session=True,
            )
        try:
            self.port = int(self._read()["port"])
        except BaseException:
            self.close()
            raise
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, what: str, **more: Any) -> Command:
        """Gives a command and waits for its answer; waits, too, while the process is stopped."""
        with self._lock:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"what": what, **more}) + "\n")
            self.process.stdin.flush()
            return self._read()

    def stop(self) -> None:
        """SIGSTOP, until `go_on`."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        if self.process.poll() is None:
            self.go_on()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _read(self) -> Command:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"a process of the soak has ended:\n{self.said}"
        answer: Command = json.loads(line)
        return answer


def serve_commands(port: int, carry_out: Callable[[Command], Command]) -> None:
    """The child's side: tells its port, then carries out one command after the other until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"port": port}), flush=True)
    for line in sys.stdin:
        try:
            print(json.dumps(carry_out(json.loads(line))), flush=True)
        except BrokenPipeError:
            return
