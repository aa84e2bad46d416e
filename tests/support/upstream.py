"""An upstream that answers with the very bytes a test gives it, and keeps the very bytes it was sent."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from io import BufferedReader

from tests.support import wire
from tests.support.closing import Closing
from tests.support.listener import Listener


@dataclass(frozen=True)
class RawRequest:
    """A request as it came: `raw` is every byte of it, `body` is without its framing."""

    raw: bytes
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def get(self, name: str) -> str | None:
        """The first value of a header, in any case; None where there is none."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Connection:
    """The upstream's end of one connection, as a handler uses it."""

    def __init__(self, sock: socket.socket, stream: BufferedReader, ending: threading.Event) -> None:
        self.sock = sock
        self.stream = stream
        self.ended = False
        self._ending = ending

    def send(self, *pieces: bytes, every: float = 0) -> None:
        """Writes each piece on its own, `every` seconds apart."""
        for number, piece in enumerate(pieces):
            if number and every:
                self.pause(every)
            self.sock.sendall(piece)

    def pause(self, seconds: float) -> None:
        """Lets time pass; ends the conversation where the test ends meanwhile."""
        if self._ending.wait(seconds):
            raise ConnectionAbortedError("the test has ended")

    def wait(self, event: threading.Event) -> None:
        """Until the test sets `event`."""
        while not event.wait(0.05):
            self.pause(0)

    def close(self) -> None:
        """No further request is read: what was sent is followed by the end of the stream."""
        self.ended = True
        wire.hang_up(self.sock)

    def reset(self) -> None:
        """A TCP reset, also in the middle of an answer."""
        self.ended = True
        wire.reset(self.sock)

    def hang(self) -> None:
        """Says nothing until the peer gives up or the test ends."""
        self.ended = True
        while self.sock.recv(65_536):
            pass


Handler = Callable[[RawRequest, Connection], None]
HeadHandler = Callable[[RawRequest, Connection], bool]


class ScriptedUpstream(Closing):
    """An HTTP/1.1 server in threads, on a free port from creation to `close`.

    What answers a request: the handler or the bytes given for its path, else `handler`, which at first sends a small
    JSON object. `on_head` sees each request before its body is read (`body` is empty then) and returns True where it
    has answered by itself; the connection ends after that. With `tls` it speaks TLS.
    """

    def __init__(self, *, refusing: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.handler: Handler = plain
        self.on_head: HeadHandler = lambda request, connection: False
        self._paths: dict[str, Handler] = {}
        self._condition = threading.Condition()
        self._requests: list[RawRequest] = []
        self._listener = Listener(self._serve, refusing=refusing)
        self.port = self._listener.port
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._listener.close()

    def refuse(self) -> None:
        """Refuses connections, and cuts those that are open."""
        self._listener.refuse()

    def listen(self) -> None:
        self._listener.listen()

    def connections(self) -> int:
        """How many connections are open now."""
        return self._listener.connections()

    def answer(self, path: str, how: bytes | Handler) -> None:
        """`path` (without the query) gets these bytes, or what the handler sends."""
        self._paths[path] = _sends(how) if isinstance(how, bytes) else how

    def requests(self) -> list[RawRequest]:
        """Every request that came in full, and the head of each that `on_head` answered, in order."""
        with self._condition:
            return list(self._requests)

    def wait_for(self, count: int, timeout: float = 10) -> list[RawRequest]:
        """Waits for so many requests. Raises `AssertionError` when the time is over."""
        with self._condition:
            done = self._condition.wait_for(lambda: len(self._requests) >= count, timeout)
            assert done, f"{len(self._requests)} of {count} requests within {timeout} s"
            return list(self._requests)

    def _serve(self, sock: socket.socket) -> None:
        if self._tls is None:
            self._speak(sock)
            return
        with suppress(OSError), self._tls.wrap_socket(sock.dup(), server_side=True) as secured:
            self._speak(secured)

    def _speak(self, sock: socket.socket) -> None:
        with closing(sock.makefile("rb")) as stream:
            connection = Connection(sock, stream, self._listener.is_closed)
            while not connection.ended and (head := wire.read_head(stream)):
                self._converse(head, connection)

    def _converse(self, head: wire.Head, connection: Connection) -> None:
        early = _raw_request(head, wire.Body())
        if self.on_head(early, connection):
            self._note(early)
            connection.ended = True
            return
        if "100-continue" in (head.get("expect") or "").lower():
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = _raw_request(head, wire.read_request_body(connection.stream, head))
        self._note(request)
        self._paths.get(request.path, self.handler)(request, connection)
        connection.ended = connection.ended or (request.get("connection") or "").lower() == "close"

    def _note(self, request: RawRequest) -> None:
        with self._condition:
            self._requests.append(request)
            self._condition.notify_all()


def plain(request: RawRequest, connection: Connection) -> None:
    """`{"ok": true}`; to HEAD its head alone."""
    content = wire.response(200, [("Content-Type", "application/json")], b'{"ok": true}', reason="OK")
    connection.send(content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == "HEAD" else content)


def echo(request: RawRequest, connection: Connection) -> None:
    """The request's body with its Content-Type."""
    headers = [("Content-Type", request.get("content-type") or "application/octet-stream")]
    connection.send(wire.response(200, headers, request.body))


def until_close(*pieces: bytes, headers: Iterable[tuple[str, str]] = ()) -> Handler:
    """A handler: a 200 whose body is `pieces` and ends with the connection."""

    def handle(_request: RawRequest, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n" + wire.encode_headers(headers) + b"\r\n", *pieces)
        connection.close()

    return handle


def _sends(content: bytes) -> Handler:
    return lambda request, connection: connection.send(content)


def _raw_request(head: wire.Head, body: wire.Body) -> RawRequest:
    method, target, version = head.start.decode("latin-1").split(" ", 2)
    return RawRequest(
        raw=head.raw + body.raw,
        method=method,
        target=target,
        version=version,
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers],
        body=body.content,
        trailers=body.trailers,
    )
