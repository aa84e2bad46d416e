"""Bodies as they come over HTTP/1, piece by piece. What is in chunks is read by h11, as in mitmproxy's layers."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"trailer"})
"""Fields that are never passed on behind a body."""

END = b""
"""Stands for the end of a body; a piece is never empty."""


class TrailersReader(ChunkedReader):
    """Keeps the trailers to itself: what reads the body in mitmproxy raises an exception at the sight of them."""

    trailers: http.Headers | None = None

    def __call__(self, buffer: ReceiveBuffer) -> Any:
        event = super().__call__(buffer)
        if isinstance(event, h11.EndOfMessage) and event.headers:
            self.trailers = http.Headers(
                [
                    (bytes(name), bytes(value))
                    for name, value in event.headers.raw_items()
                    if name.lower() not in FRAMING
                ]
            )
            return h11.EndOfMessage()
        return event


class Body(Protocol):
    """Fed with what came, asked for the next piece: `END` behind the last one, None where more has to come.

    Raises `ValueError` where the framing is broken, in the words of mitmproxy's layers.
    """

    trailers: http.Headers | None

    @property
    def is_some(self) -> bool:
        """False where it is known to be empty."""
        ...

    def feed(self, data: bytes) -> None: ...
    def next(self) -> bytes | None: ...

    def rest(self) -> bytes:
        """What came behind the end."""
        ...

    def end_of_stream(self) -> None:
        """The peer sends no more. Raises `ValueError` where the body is not whole."""
        ...

    def is_whole(self) -> bool:
        """Whether its end has come."""
        ...

    @property
    def held(self) -> int:
        """Bytes that came and are no piece yet."""
        ...


class Fixed:
    """Of a known length."""

    @property
    def is_some(self) -> bool:
        return self.size > 0

    __slots__ = ("_data", "_remaining", "size", "trailers")

    def __init__(self, size: int) -> None:
        self.size = self._remaining = size
        self._data = b""
        self.trailers: http.Headers | None = None

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        if not self._remaining:
            return END
        data = self._data
        if not data:
            return None
        if len(data) <= self._remaining:
            self._data = b""
        else:
            data, self._data = data[: self._remaining], data[self._remaining :]
        self._remaining -= len(data)
        return data

    def rest(self) -> bytes:
        return self._data

    def end_of_stream(self) -> None:
        if self._remaining:
            raise ValueError(
                "HTTP/1 protocol error: peer closed connection without sending complete message body "
                f"(received {self.size - self._remaining} bytes, expected {self.size})"
            )

    def is_whole(self) -> bool:
        return len(self._data) >= self._remaining

    @property
    def held(self) -> int:
        return len(self._data)


class Chunked:
    """In chunks, whose sizes mean nothing."""

    is_some = True

    __slots__ = ("_buffer", "_reader", "_ready", "trailers")

    def __init__(self) -> None:
        self._buffer = ReceiveBuffer()
        self._reader = TrailersReader()
        self._ready: deque[bytes] = deque()
        self.trailers: http.Headers | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        return self._ready.popleft() if self._ready else self._read()

    def is_whole(self) -> bool:
        while (piece := self._read()) is not None:
            self._ready.append(piece)
            if piece is END:
                return True
        return False

    def _read(self) -> bytes | None:
        try:
            while (event := self._reader(self._buffer)) is not None:
                if isinstance(event, h11.EndOfMessage):
                    self.trailers = self._reader.trailers
                    return END
                if event.data:
                    return bytes(event.data)
        except h11.ProtocolError as error:
            raise ValueError(f"HTTP/1 protocol error: {error}") from None
        return None

    def rest(self) -> bytes:
        return bytes(self._buffer)

    def end_of_stream(self) -> None:
        try:
            self._reader.read_eof()
        except h11.ProtocolError as error:
            raise ValueError(f"HTTP/1 protocol error: {error}") from None

    @property
    def held(self) -> int:
        return len(self._buffer)


class UntilClose:
    """An answer's that ends with its connection."""

    is_some = True

    __slots__ = ("_data", "_ended", "trailers")

    def __init__(self) -> None:
        self._data = b""
        self._ended = False
        self.trailers: http.Headers | None = None

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        data, self._data = self._data, b""
        return data or (END if self._ended else None)

    def rest(self) -> bytes:
        return b""

    def end_of_stream(self) -> None:
        self._ended = True

    def is_whole(self) -> bool:
        return self._ended

    @property
    def held(self) -> int:
        return len(self._data)
