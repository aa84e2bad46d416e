"""A TCP listener on loopback with a thread for each connection, that can go away and come back on the same port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support.closing import Closing
from tests.support.wire import hang_up


class Listener(Closing):
    """Calls `serve(socket)` in a new thread for each connection and closes the socket when that returns.

    The port is kept from start to `close`. While refusing, it stays bound without listening, so that the kernel refuses
    connections and no other process is given the port.
    """

    def __init__(self, serve: Callable[[socket.socket], None], *, refusing: bool = False) -> None:
        self._serve = serve
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()
        self._accepting: threading.Thread | None = None
        self._socket = _bind(0)
        self.port: int = self._socket.getsockname()[1]
        if not refusing:
            self.listen()

    @property
    def is_closed(self) -> threading.Event:
        """Set by `close`: what waits in a connection's thread has to end then."""
        return self._closed

    def listen(self) -> None:
        """Accepts connections; after `refuse` again, on the same port."""
        self._socket.listen(1024)
        self._accepting = self._start(self._accept, self._socket)

    def refuse(self, *, cut: bool = True) -> None:
        """Refuses new connections and, with `cut`, ends those that are open."""
        self._stop_listening()
        self._socket = _bind(self.port)
        if cut:
            self.cut()

    def cut(self) -> None:
        """Ends every open connection; new ones are accepted."""
        with self._lock:
            for connection in self._open:
                hang_up(connection)

    def connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._open)

    def close(self) -> None:
        """Ends everything, and returns when the threads have ended."""
        self._closed.set()
        self._stop_listening()
        self.cut()
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive(), f"{thread.name} did not end"

    def _stop_listening(self) -> None:
        """When this returns, each connection that was accepted is among the open ones."""
        hang_up(self._socket)
        if self._accepting:
            self._accepting.join()
            self._accepting = None
        self._socket.close()

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> threading.Thread:
        def run() -> None:
            try:
                target(argument)
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=f"test-{target.__name__}-{self.port}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()
        return thread

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
            self._start(self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        try:
            with suppress(ConnectionError, TimeoutError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve(connection)
        finally:
            with self._lock:
                self._open.discard(connection)
            hang_up(connection)
            connection.close()


def _bind(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
