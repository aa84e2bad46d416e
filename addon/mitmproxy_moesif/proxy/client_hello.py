"""Limits the size of a client's TLS ClientHello, and parses it only once.

mitmproxy buffers as much as a client announces, up to 16 MB, and parses all of it again with each piece: one connection
can block the event loop for as long as it likes. Here mitmproxy gets the message only when it is complete.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from mitmproxy.addons import next_layer
from mitmproxy.net.tls import starts_like_tls_record
from mitmproxy.proxy import commands, layers
from mitmproxy.proxy.context import Context

from mitmproxy_moesif.speedups.replacing import replacement

MOST = 65_536
"""Maximum bytes, including the record headers. Browsers send about 2,000."""

MOST_SAID = 300
"""Maximum characters of a handshake error. mitmproxy quotes everything it received."""

HEADER = 5
"""Bytes of a TLS record header."""

type Handshake = Generator[commands.Command, Any, tuple[bool, str | None]]


class Hello:
    """Collects a ClientHello; `data` are the records so far."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._looked = 0
        self._start = bytearray()
        self._size = 0

    def is_whole_with(self, data: bytes) -> bool:
        """Add data; whether the message is complete. Raises `ValueError` if it is invalid or too large."""
        self.data += data
        while (size := self._next_size()) is not None:
            begin = self._looked + HEADER
            end = begin + size
            self._start += self.data[begin : min(end, begin + 4 - len(self._start))]
            self._size += size
            self._looked = end
            if len(self._start) == 4 and self._size >= 4 + int.from_bytes(self._start[1:]):
                return True
        if len(self.data) > MOST:
            raise ValueError(f"it is over {MOST} bytes")
        return False

    def _next_size(self) -> int | None:
        """The size of the next record; None if it is incomplete."""
        behind = self._looked + HEADER
        if len(self.data) < behind:
            return None
        header = bytes(self.data[self._looked : behind])
        size = int.from_bytes(header[3:])
        if not size or not starts_like_tls_record(header):
            raise ValueError(f"{header.hex()} begins no record of a handshake")
        return size if len(self.data) >= behind + size else None


class ClientTls(layers.ClientTLSLayer):
    """mitmproxy's TLS layer for clients, with the limit."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._hello = Hello()

    def receive_handshake_data(self, data: bytes) -> Handshake:
        if not self.client_hello_parsed:
            try:
                if not self._hello.is_whole_with(data):
                    return False, None
            except ValueError as error:
                return False, f"Cannot parse ClientHello: {error}"
            data, self._hello = bytes(self._hello.data), Hello()
        done, failure = yield from super().receive_handshake_data(data)
        return done, failure and failure[:MOST_SAID]


REPLACEMENTS = (
    replacement(layers, "ClientTLSLayer", ClientTls),
    replacement(next_layer, "ClientTLSLayer", ClientTls),
)
