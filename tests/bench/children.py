"""Processes that the benchmark starts. Each is ended by its own id, also on Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.closing import Closing

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 30.0
# What would change how a child behaves: our own parameters, proxies for its requests, Python's paths.
_SCRUBBED = re.compile(r"MOESIF_|(HTTPS?|ALL|NO)_PROXY$|PYTHON|MITMPROXY_|SSLKEYLOGFILE$", re.IGNORECASE)


class BenchError(Exception):
    """Why there is nothing to measure; one line for who runs it."""


class Child(Closing):
    """A process with its output in a file. A context manager: it does not outlive it.

    It gets a session of its own, so that Ctrl-C in a terminal reaches the benchmark alone, which ends its children in
    order.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._output = folder / f"{name}-{time.monotonic_ns()}.txt"
        with self._output.open("wb") as sink, _held_back(signal.SIGINT) as came:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env={key: value for key, value in os.environ.items() if not _SCRUBBED.match(key)},
                start_new_session=True,
            )
        if came:  # Popen, interrupted after its fork, would leave a process that nobody knows
            self.stop(1.0)
            raise KeyboardInterrupt

    def close(self) -> None:
        self.stop(5.0)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for_port(self, port: int) -> None:
        """Until it accepts connections. Raises `BenchError` where it ends instead, or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not _accepts(port):
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended with {self.process.returncode}: {self._last_line()}")
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name} did not listen within {START_SECONDS:.0f} s: {self._last_line()}")
            time.sleep(0.02)

    def stop(self, seconds: float) -> str:
        """Asks it to end, and kills it where it has not after `seconds`; returns all that it wrote."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.output

    def _last_line(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1] if lines else "it wrote nothing"


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[list[int]]:
    """Collects this signal, for the main thread, in place of what it does otherwise."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.signal(number, lambda received, _frame: came.append(received))
    try:
        yield came
    finally:
        signal.signal(number, before)


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module of this package."""
    return [sys.executable, "-m", f"tests.bench.{module}", *arguments]


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
