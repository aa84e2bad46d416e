"""The delivery process: a `DeliveryServer` beside the proxy, which lives as long as the proxy.

Its standard input is a socket to the proxy: it reads commands and writes reports, log lines and answers.
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
    """Forwards log lines to the proxy's log."""

    def __init__(self, say: Callable[[Message], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(("log", record.levelno, record.getMessage()))


class Printed:
    """Logs what an embedder's hooks print."""

    def __init__(self) -> None:
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            log.info("moesif: hooks: %s", line)
        return len(text)

    def flush(self) -> None:
        """Does nothing: an incomplete line waits for its end."""


def speaker(sock: socket.socket) -> Callable[[Message], None]:
    """A function that sends messages to the proxy, from any thread. Does nothing once the proxy is gone."""
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
    for descriptor in (0, 1, 2):  # a reader of the proxy's output must not have to wait for this process to exit
        os.dup2(nowhere, descriptor)
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(Forwarded(say))
    sys.stdout = sys.stderr = Printed()
    try:
        DeliveryServer(messages(sock), say, apart=True).run()
    finally:
        # Immediately, without waiting for threads that still wait for a receiver.
        os._exit(0)


if __name__ == "__main__":
    main()
