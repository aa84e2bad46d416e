"""In place of h11's reader of bodies in chunks, which mitmproxy uses: linear in time, and without a place for trailers.

h11's patterns backtrack: a line of 64 KB with a bare LF at its end takes it minutes. And what reads the body in
mitmproxy raises an exception at the sight of trailers: they are kept here, for who passes them on.
"""

from __future__ import annotations

import re
from typing import Any

import h11
from h11._receivebuffer import ReceiveBuffer
from mitmproxy import http
from mitmproxy.proxy.layers.http import _http1

from mitmproxy_moesif.capture.heads import plain_field
from mitmproxy_moesif.speedups.replacing import replacement

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"trailer"})
"""Fields that are never passed on behind a body."""

MOST = 65_536
"""Bytes of a line that tells a chunk's size, its extensions included; and of all trailers."""

LINE_END = b"\r\n"
SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_AMBIGUOUS = re.compile(rb"[\r\n\0]")


class ChunkReader:
    """With the interface of h11's, and its leniency: blanks may stand behind a size. Lines end with CR LF alone."""

    def __init__(self) -> None:
        self.trailers: http.Headers | None = None
        self._left = 0
        self._line_end = b""
        self._lines: list[bytes] | None = None
        """The trailers' so far."""
        self._room = MOST

    def __call__(self, buffer: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        if self._lines is not None:
            return self._read_trailers(buffer, self._lines)
        if self._line_end and not self._pass_line_end(buffer):
            return None
        if not self._left:
            if (line := next_line(buffer, MOST)) is None:
                return None
            self._left = size_of_chunk(line)
            if not self._left:
                self._lines = []
                return self._read_trailers(buffer, self._lines)
        if (data := buffer.maybe_extract_at_most(self._left)) is None:
            return None
        self._left -= len(data)
        self._line_end = b"" if self._left else LINE_END
        return h11.Data(data=data)  # type: ignore[arg-type]  # as h11 does

    def _pass_line_end(self, buffer: ReceiveBuffer) -> bool:
        """What follows a chunk."""
        found = buffer.maybe_extract_at_most(len(self._line_end)) or b""
        if not self._line_end.startswith(found):
            raise h11.RemoteProtocolError("a chunk is longer than its size")
        self._line_end = self._line_end[len(found) :]
        return not self._line_end

    def _read_trailers(self, buffer: ReceiveBuffer, lines: list[bytes]) -> h11.EndOfMessage | None:
        while (line := next_line(buffer, self._room)) is not None:
            if not line:
                self.trailers = trailers_of(lines)
                return h11.EndOfMessage()
            self._room -= len(line) + len(LINE_END)
            lines.append(line)
        return None

    def read_eof(self) -> Any:
        raise h11.RemoteProtocolError(
            "peer closed connection without sending complete message body (incomplete chunked read)"
        )


def next_line(buffer: ReceiveBuffer, most: int) -> bytes | None:
    """Without its end; None where that has not come. Raises `h11.RemoteProtocolError`."""
    line = buffer.maybe_extract_next_line()
    if (len(buffer) if line is None else len(line)) > most:
        raise h11.RemoteProtocolError("a line among the chunks is too long")
    if line is None:
        return None
    text = bytes(line.removesuffix(LINE_END))
    if _AMBIGUOUS.search(text):
        raise h11.RemoteProtocolError("a line among the chunks can be read in more than one way")
    return text


def size_of_chunk(line: bytes) -> int:
    """Raises `h11.RemoteProtocolError`."""
    size = line.partition(b";")[0].rstrip(b" \t")
    if not SIZE.fullmatch(size):
        raise h11.RemoteProtocolError("the size of a chunk is invalid")
    return int(size, 16)


def trailers_of(lines: list[bytes]) -> http.Headers | None:
    """Raises `h11.RemoteProtocolError`."""
    try:
        fields = [plain_field(line) for line in lines]
    except ValueError:
        raise h11.RemoteProtocolError("an invalid trailer") from None
    kept = [field for field in fields if field[0].lower() not in FRAMING]
    return http.Headers(kept) if kept else None


def body_reader(expected_size: int | None) -> Any:
    return ChunkReader() if expected_size is None else _stock_body_reader(expected_size)


_stock_body_reader = _http1.make_body_reader

REPLACEMENTS = (replacement(_http1, "make_body_reader", body_reader),)
