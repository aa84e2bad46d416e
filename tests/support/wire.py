"""HTTP/1.1 as bytes, for both ends: reads one message with nothing lost or made up, tolerant of what tests send."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any

MAX_HEAD = 1_000_000

Pairs = Iterable[tuple[str | bytes, str | bytes]]


class CutShortError(ConnectionError):
    """The peer closed in the middle of a message; `partial` holds the bytes that came."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"closed after {len(partial)} bytes of a message")
        self.partial = partial


@dataclass(frozen=True)
class Head:
    """A start line and its headers. `raw` is every byte up to and including the empty line."""

    raw: bytes
    start: bytes
    headers: list[tuple[bytes, bytes]]

    def get(self, name: str) -> str | None:
        """The first value of a header, in any case; None where there is none."""
        return next(iter(self.get_all(name)), None)

    def get_all(self, name: str) -> list[str]:
        wanted = name.lower().encode()
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]


@dataclass(frozen=True)
class Body:
    """A body without its framing, the bytes as they were on the wire, and the trailers of a chunked one."""

    content: bytes = b""
    raw: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)


def read_head(stream: BufferedReader) -> Head | None:
    """The next head; None where the peer closed or reset before its first byte. Raises `CutShortError`."""
    lines: list[bytes] = []
    while True:
        line = read_line(stream)
        lines.append(line)
        if not line.endswith(b"\n"):
            if lines == [b""]:
                return None
            raise CutShortError(b"".join(lines))
        if line in (b"\r\n", b"\n"):
            break
    return Head(b"".join(lines), lines[0].rstrip(b"\r\n"), [_split(line) for line in lines[1:-1]])


def read_line(stream: BufferedReader) -> bytes:
    """A line with its end; one without an end, or nothing, where the peer closed or reset."""
    try:
        return stream.readline(MAX_HEAD)
    except ConnectionError:
        return b""


def read_exactly(stream: BufferedReader, length: int) -> bytes:
    """So many bytes. Raises `CutShortError` with those that came before the peer closed or reset."""
    content = bytearray()
    while len(content) < length:
        piece = _read_some(stream, length - len(content))
        if not piece:
            raise CutShortError(bytes(content))
        content += piece
    return bytes(content)


def read_to_end(stream: BufferedReader) -> bytes:
    """All until the peer closes."""
    return b"".join(iter(lambda: _read_some(stream, 65_536), b""))


def read_chunked(stream: BufferedReader) -> Body:
    """A body in chunks, with its trailers. Raises `CutShortError`, whose `partial` is the content so far."""
    content, raw = bytearray(), bytearray()
    try:
        while size := int(_take_line(stream, raw).split(b";")[0], 16):
            piece = read_exactly(stream, size + 2)
            raw += piece
            content += piece[:-2]
        trailers = []
        while (line := _take_line(stream, raw)) not in (b"\r\n", b"\n"):
            trailers.append(_split(line))
    except CutShortError as error:
        raise CutShortError(bytes(content) + error.partial) from None
    return Body(bytes(content), bytes(raw), trailers)


def read_request_body(stream: BufferedReader, head: Head) -> Body:
    """The body that a request's head announces; none where it announces none."""
    if "chunked" in (head.get("transfer-encoding") or "").lower():
        return read_chunked(stream)
    content = read_exactly(stream, int(head.get("content-length") or 0))
    return Body(content, content)


def encode_headers(headers: Pairs) -> bytes:
    return b"".join(to_bytes(name) + b": " + to_bytes(value) + b"\r\n" for name, value in headers)


def encode_chunks(*pieces: bytes, trailers: Pairs = ()) -> bytes:
    """A chunked body, one chunk for each piece that is not empty."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return chunks + b"0\r\n" + encode_headers(trailers) + b"\r\n"


def response(
    status: int = 200,
    headers: Pairs = (),
    body: bytes | str | dict[str, Any] | list[Any] = b"",
    *,
    reason: str = "X",
    chunked: bool = False,
) -> bytes:
    """A whole response as bytes. An object or array goes as JSON; framing is added unless `headers` have it."""
    pairs = list(headers)
    names = {to_bytes(name).lower() for name, _ in pairs}
    if isinstance(body, dict | list):
        body = json.dumps(body)
        if b"content-type" not in names:
            pairs.append(("Content-Type", "application/json"))
    content = to_bytes(body)
    if chunked:
        pairs.append(("Transfer-Encoding", "chunked"))
        content = encode_chunks(content)
    elif not names & {b"content-length", b"transfer-encoding"} and status >= 200 and status not in (204, 304):
        pairs.append(("Content-Length", str(len(content))))
    return f"HTTP/1.1 {status} {reason}\r\n".encode() + encode_headers(pairs) + b"\r\n" + content


def reset(sock: socket.socket) -> None:
    """Closes with a TCP reset: the peer sees ECONNRESET and not the end of the stream."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if (handle := sock.detach()) >= 0:  # `close` would wait for the files made of the socket
        os.close(handle)


def hang_up(sock: socket.socket) -> None:
    """Ends both directions, so that a thread that waits for the socket wakes up and closes it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _take_line(stream: BufferedReader, raw: bytearray) -> bytes:
    line = read_line(stream)
    raw += line
    if not line.endswith(b"\n"):
        raise CutShortError(b"")
    return line


def _read_some(stream: BufferedReader, most: int) -> bytes:
    try:
        return stream.read1(most)
    except ConnectionError:
        return b""


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.rstrip(b"\r\n").partition(b":")
    return name, value.strip(b" \t")


def to_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
