"""The delivery process: a `DeliveryServer` beside the proxy, which lives as long as the proxy.

Its standard input is a socket to the proxy: commands come in; reports, lines for the log and answers go out.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from mitmproxy_moesif.delivery.child import SIGNALS
from mitmproxy_moesif.delivery.protocol import Message, messages, packed
from mitmproxy_moesif.delivery.server import DeliveryServer
from mitmproxy_moesif.log import log


class Forwarded(logging.Handler):
    """Lines of the log go to the proxy, where people look for them."""

    def __init__(self, say: Callable[[Message], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(("log", record.levelno, record.getMessage()))


class Printed:
    """What an embedder's hook prints becomes lines of the log."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.info("moesif: hooks: %s", line)
        return len(text)

    def flush(self) -> None:
        """Half a line waits for its end."""


def speaker(sock: socket.socket) -> Callable[[Message], None]:
    """Sends messages to the proxy, from any thread. A proxy that is gone is not told any more."""
    sending = threading.Lock()

    def say(message: Message) -> None:
        with sending, suppress(OSError):
            sock.sendall(packed(message))

    return say


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    nowhere = os.open(os.devnull, os.O_RDWR)
    sock = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    say = speaker(sock)
    for descriptor in (0, 1, 2):  # who reads the proxy's output must not wait for this process to end
        os.dup2(nowhere, descriptor)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(Forwarded(say))
    sys.stdout = sys.stderr = Printed()
    try:
        DeliveryServer(messages(sock), say, apart=True).run()
    finally:
        # At once: threads that still wait for a receiver are of no use any more.
        os._exit(0)


if __name__ == "__main__":
    main()
