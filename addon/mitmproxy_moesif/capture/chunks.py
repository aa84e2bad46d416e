"""Replaces h11's reader for chunked bodies, which mitmproxy uses. Runs in linear time and does not report trailers.

h11's regular expressions backtrack: a 64 KB line that ends with a bare LF takes minutes. mitmproxy's body reader raises
an exception if it gets trailers, so they are kept here for the code that forwards them.
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
"""Fields that are never forwarded as trailers."""

MOST = 65_536
"""Maximum bytes of a chunk-size line with its extensions, and of all trailers together."""

LINE_END = b"\r\n"
SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
_AMBIGUOUS = re.compile(rb"[\r\n\0]")


class ChunkReader:
    """Has the interface of h11's reader. Like h11, it allows blanks after a chunk size. Lines must end with CR LF."""

    def __init__(self) -> None:
        self.trailers: http.Headers | None = None
        self._left = 0
        self._line_end = b""
        self._lines: list[bytes] | None = None
        """The trailer lines so far; None before the last chunk."""
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
        """Consume the CR LF after a chunk; whether all of it has arrived."""
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
    """The next line without CR LF; None if it is not complete yet. Raises `h11.RemoteProtocolError`."""
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
    """The chunk size in bytes. Raises `h11.RemoteProtocolError`."""
    size = line.partition(b";")[0].rstrip(b" \t")
    if not SIZE.fullmatch(size):
        raise h11.RemoteProtocolError("the size of a chunk is invalid")
    return int(size, 16)


def trailers_of(lines: list[bytes]) -> http.Headers | None:
    """The trailers that may be forwarded; None if there are none. Raises `h11.RemoteProtocolError`."""
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
