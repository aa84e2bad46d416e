"""The delivery process as the proxy sees it: starts it, exchanges messages with it, and notices its death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mitmproxy_moesif.delivery.protocol import Message, messages
from mitmproxy_moesif.interrupts import held
from mitmproxy_moesif.log import describe, log

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop  # the delivery process, which imports this module too, has no event loop

MODULE = "mitmproxy_moesif.delivery.process"
PACKAGES = str(Path(__file__).resolve().parents[2])
"""The folder that contains this package. mitmproxy has it in `sys.path` only while it loads a script."""

BUFFER_BYTES = 4 << 20
"""Send buffer of the socket; as large as the system allows, so that the proxy writes once for each group."""


def unavailable() -> str | None:
    """Why a delivery process is not possible here; None if it is."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return "this mitmproxy is a single binary, without a Python to start"
    if not hasattr(socket, "MSG_DONTWAIT") or os.name != "posix":
        return "this platform has no sockets that a process can be given"
    return None


SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Signals that a terminal or supervisor may send to the whole process group. The proxy decides when this one ends."""


class ChildProcess:
    """The delivery process. `heard` gets each message and `ended` the exit code, both in a thread of this class.

    Messages that the socket cannot take at once are queued. Raises `OSError` if the process cannot be started.
    """

    def __init__(
        self,
        heard: Callable[[Message], None],
        ended: Callable[[ChildProcess, int], None],
        failed: Callable[[Exception], None],
        loop: AbstractEventLoop,
    ) -> None:
        self._heard = heard
        self._ended = ended
        self._failed = failed
        self._loop = loop
        self._unsent: deque[bytes | memoryview] = deque()
        self._blocked = False
        self._sock, theirs = socket.socketpair()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        with theirs, held(*SIGNALS):  # they must not end the process before it ignores them
            # It shares the proxy's standard error until its own log works, so that a failed start shows its reason.
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", MODULE],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([PACKAGES, *filter(None, sys.path)])},
            )
        threading.Thread(target=self._listen, name="moesif-listen", daemon=True).start()

    def send(self, data: bytes) -> None:
        """Send a packed message, in order. From the event loop's thread; never waits."""
        self._unsent.append(data)
        if not self._blocked:
            self._pump()

    def _pump(self) -> None:
        """Write as much as the socket accepts; the event loop calls again when it is writable."""
        try:
            self._write()
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(self._sock, self._pump)
            return
        except OSError:
            self._unsent.clear()  # the process died, which is handled elsewhere
        except Exception as error:  # noqa: BLE001 - the event loop calls this: nothing may get through
            self._failed(error)
        self._unblock()

    def _write(self) -> None:
        unsent = self._unsent
        while unsent:
            written = self._sock.send(unsent[0], socket.MSG_DONTWAIT)
            if written < len(unsent[0]):
                unsent[0] = memoryview(unsent[0])[written:]
            else:
                unsent.popleft()

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._sock)

    def flush(self, seconds: float) -> None:
        """Write all queued messages while the event loop is not running, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self._unsent and time.monotonic() < deadline:
            try:
                self._write()
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return
            except Exception as error:  # noqa: BLE001 - the exit line must come, whatever happens
                self._failed(error)
                return

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for the process to exit. It exits when told to, or when the proxy is gone."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        self._child.kill()

    def discard(self) -> None:
        """Clean up after the process has ended: nothing more is sent."""
        self._unblock()
        self._sock.close()

    def _listen(self) -> None:
        try:
            for message in messages(self._sock):
                self._heard(message)
        except Exception as error:  # noqa: BLE001 - its messages could no longer be read, so it is replaced
            log.error("moesif: a fault in hearing the delivery process, which is replaced: %s", describe(error))
            self.kill()
        self._ended(self, self._child.wait())
