"""An HTTP/1.1 client that sends the very bytes a test gives it and returns the very bytes it got."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from io import BufferedReader

from tests.support import wire
from tests.support.closing import Closing

TIMEOUT = 20.0


def trusting(*alpn: str) -> ssl.SSLContext:
    """For a client that takes any certificate, and offers these protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@dataclass(frozen=True)
class RawResponse:
    """A response as it came. `cut` says that the connection ended before the response did."""

    head: bytes
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    cut: bool = False

    def get(self, name: str) -> str | None:
        """The first value of a header, in any case; None where there is none."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Client(Closing):
    """One connection, with `tls` a secured one. Every wait ends after `timeout` seconds with `TimeoutError`."""

    def __init__(self, port: int, timeout: float = TIMEOUT, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.stream: BufferedReader = self.sock.makefile("rb")

    def close(self) -> None:
        self.stream.close()
        self.sock.close()

    def reset(self) -> None:
        """Leaves with a TCP reset."""
        wire.reset(self.sock)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sock.sendall(piece)

    def read_head(self) -> RawResponse | None:
        """The head of the next response, its body unread; None where the peer closed without one."""
        head = wire.read_head(self.stream)
        return None if head is None else _raw_response(head)

    def read_response(self, method: str = "GET") -> RawResponse | None:
        """The next response in full, 1xx passed over; None where the peer closed without one."""
        while head := wire.read_head(self.stream):
            response = _raw_response(head)
            if response.status == 101 or response.status >= 200:
                return self._with_body(response, head, method)
        return None

    def exchange(
        self,
        method: str,
        target: str,
        headers: wire.Pairs = (),
        body: bytes | None = None,
        *,
        chunked: bool = False,
    ) -> RawResponse | None:
        """Sends one request and reads its response; the connection stays open."""
        self.send(encode_request(method, target, headers, body, chunked=chunked))
        return self.read_response(method)

    def _with_body(self, response: RawResponse, head: wire.Head, method: str) -> RawResponse:
        try:
            body, cut = _read_body(self.stream, head, response.status, method), False
        except wire.CutShortError as error:
            body, cut = wire.Body(error.partial), True
        return RawResponse(
            response.head, response.status, response.reason, response.headers, body.content, body.trailers, cut
        )


def exchange(
    port: int,
    method: str = "GET",
    target: str = "/",
    headers: wire.Pairs = (),
    body: bytes | None = None,
    *,
    chunked: bool = False,
    timeout: float = TIMEOUT,
) -> RawResponse | None:
    """One request on a connection of its own; None where the peer closed without a response.

    `Host: api.example.com` is sent where `headers` name none, and the body's framing unless they do.
    """
    with Client(port, timeout) as client:
        return client.exchange(method, target, headers, body, chunked=chunked)


def encode_request(
    method: str | bytes,
    target: str | bytes,
    headers: wire.Pairs = (),
    body: bytes | None = None,
    *,
    chunked: bool = False,
) -> bytes:
    """A whole request as bytes; text is sent as UTF-8. See `exchange` for what is added."""
    pairs = [(wire.to_bytes(name), wire.to_bytes(value)) for name, value in headers]
    names = {name.lower() for name, _ in pairs}
    if b"host" not in names:
        pairs.insert(0, (b"Host", b"api.example.com"))
    content = body or b""
    if chunked:
        pairs.append((b"Transfer-Encoding", b"chunked"))
        half = max(1, len(content) // 2)
        content = wire.encode_chunks(content[:half], content[half:])
    elif body is not None and not names & {b"content-length", b"transfer-encoding"}:
        pairs.append((b"Content-Length", str(len(content)).encode()))
    start = wire.to_bytes(method) + b" " + wire.to_bytes(target) + b" HTTP/1.1\r\n"
    return start + wire.encode_headers(pairs) + b"\r\n" + content


def _read_body(stream: BufferedReader, head: wire.Head, status: int, method: str) -> wire.Body:
    if method == "HEAD" or status in (101, 204, 304):
        return wire.Body()
    if "chunked" in (head.get("transfer-encoding") or "").lower():
        return wire.read_chunked(stream)
    length = head.get("content-length")
    content = wire.read_to_end(stream) if length is None else wire.read_exactly(stream, int(length))
    return wire.Body(content, content)


def _raw_response(head: wire.Head) -> RawResponse:
    _, status, *reason = head.start.decode("latin-1").split(" ", 2)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
    return RawResponse(head.raw, int(status), reason[0] if reason else "", headers)
