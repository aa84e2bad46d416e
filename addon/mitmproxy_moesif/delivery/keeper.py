"""The delivery process as the proxy sees it: started, spoken to, heard, and found dead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mitmproxy_moesif.delivery.protocol import Message, messages

MODULE = "mitmproxy_moesif.delivery.process"
PACKAGES = str(Path(__file__).resolve().parents[2])
"""Where this package lies. mitmproxy has it among its paths only while a script is loaded."""

BUFFER_BYTES = 4 << 20
"""What may be on its way to it: as much as the system allows, so that the proxy writes once for each group."""


def unavailable() -> str | None:
    """Why there can be no delivery process here; None where there can."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return "this mitmproxy is a single binary, without a Python to start"
    if not hasattr(socket, "MSG_DONTWAIT") or os.name != "posix":
        return "this platform has no sockets that a process can be given"
    return None


SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""What a terminal or a supervisor may send to all processes of a group at once. The proxy decides when to end."""


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started now begins with them blocked: until it can ignore them, they must not end it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ChildProcess:
    """The delivery process. `heard` gets each message and `ended` the exit code, both in a thread of this class.

    Raises `OSError` where no process can be started.
    """

    def __init__(self, heard: Callable[[Message], None], ended: Callable[[ChildProcess, int], None]) -> None:
        self._heard = heard
        self._ended = ended
        self.sock, theirs = socket.socketpair()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        with theirs, _signals_blocked():
            # Its standard error is the proxy's until its own log works: should it not even start, the reason is seen.
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", MODULE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGES, *filter(None, sys.path)])},
            )
        threading.Thread(target=self._listen, name="moesif-listen", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, data: bytes | memoryview) -> int:
        """As many bytes as there is room for. `BlockingIOError` where there is none, `OSError` when it is gone."""
        sent: int = self.sock.send(data, socket.MSG_DONTWAIT)
        return sent

    def wait(self, seconds: float) -> None:
        """For its end, at most so long. It ends by itself when the socket is closed."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def _listen(self) -> None:
        for message in messages(self.sock):
            self._heard(message)
        self._ended(self, self._child.wait())
