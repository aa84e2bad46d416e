"""Reads HTTP/1 message bodies piece by piece."""

from __future__ import annotations

from typing import Protocol

import h11
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http

from mitmproxy_moesif.capture.chunks import ChunkReader
from mitmproxy_moesif.lane.writing import AT_ONCE

END = b""
"""Marks the end of a body; a piece is never empty."""


class Body(Protocol):
    """`feed` takes received data; `next` returns the next piece, `END` after the last one, None if more is needed.

    Raises `ValueError` with the message of mitmproxy's layers if the framing is invalid.
    """

    __slots__ = ()

    trailers: http.Headers | None = None
    is_some: bool = True
    """False if the body is known to be empty."""

    def feed(self, data: bytes) -> None: ...
    def next(self) -> bytes | None: ...

    def rest(self) -> bytes:
        """The data after the end of the body."""
        ...

    def end_of_stream(self) -> None:
        """The peer closed its side. Raises `ValueError` if the body is incomplete."""
        ...


class Fixed(Body):
    """A body of a known length; `size` in bytes."""

    __slots__ = ("_data", "_remaining", "is_some", "size")

    def __init__(self, size: int) -> None:
        self.size = self._remaining = size
        self.is_some = size > 0
        self._data = b""

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
        """Whether the whole body has arrived."""
        return len(self._data) >= self._remaining


class Chunked(Body):
    """A chunked body. Chunks that arrive together are returned as one piece."""

    __slots__ = ("_buffer", "_fault", "_has_ended", "_piece", "_reader", "trailers")

    def __init__(self) -> None:
        self._buffer = ReceiveBuffer()
        self._reader = ChunkReader()
        self._piece = b""
        self._has_ended = False
        self._fault: ValueError | None = None
        self.trailers: http.Headers | None = None

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        self._gather()
        if self._piece:
            piece, self._piece = self._piece, b""
            return piece
        if self._fault is not None:
            raise self._fault
        return END if self._has_ended else None

    def is_whole(self) -> bool:
        """Whether the whole body has arrived, as far as the first `AT_ONCE` chunks show."""
        self._gather()
        return self._has_ended

    def _gather(self) -> None:
        """Collect chunks that have arrived, at most `AT_ONCE`, so that other connections get their turn."""
        if self._piece or self._has_ended or self._fault is not None:
            return
        pieces: list[bytes] = []
        try:
            while len(pieces) < AT_ONCE and (event := self._reader(self._buffer)) is not None:
                if isinstance(event, h11.EndOfMessage):
                    self._has_ended, self.trailers = True, self._reader.trailers
                    break
                pieces.append(event.data)
        except h11.ProtocolError as error:
            self._fault = ValueError(f"HTTP/1 protocol error: {error}")
        self._piece = b"".join(pieces)

    def rest(self) -> bytes:
        return bytes(self._buffer)

    def end_of_stream(self) -> None:
        try:
            self._reader.read_eof()
        except h11.ProtocolError as error:
            raise ValueError(f"HTTP/1 protocol error: {error}") from None


class UntilClose(Body):
    """The body of a response that ends when the connection is closed."""

    __slots__ = ("_data", "_ended")

    def __init__(self) -> None:
        self._data = b""
        self._ended = False

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> bytes | None:
        data, self._data = self._data, b""
        return data or (END if self._ended else None)

    def rest(self) -> bytes:
        return b""

    def end_of_stream(self) -> None:
        self._ended = True
