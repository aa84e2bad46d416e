"""A collector that only counts: so cheap that its CPU disturbs the measurement little.

    python -m tests.bench.collector PORT

It speaks what the addon needs of Moesif's collector API and of Akto's ingest service, has no rules, and counts the
events of each application id. Under `/slow` every answer takes a second, under `/slower` three. `GET /counts` tells the
events by application id.
"""

from __future__ import annotations

import asyncio
import json
import sys
import zlib
from collections import Counter
from typing import Final

SLOW = {"slow": 1.0, "slower": 3.0}
"""Seconds of an answer under this path."""

# Each event says it once; the bodies of the benchmark do not hold it.
EVENT_MARK: Final = b'"transaction_id":'


class Connection(asyncio.Protocol):
    """`events` is what all connections count into."""

    def __init__(self, events: Counter[str]) -> None:
        self._events = events
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            method, path, headers = read_head(bytes(self._buffer[:end]))
            size = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            self._answer(path, *self._decide(method, path, headers, body))

    def _decide(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if method == "POST":
            content = zlib.decompress(body) if headers.get("content-encoding") == "deflate" else body
            self._events[headers.get("x-moesif-application-id", "")] += content.count(EVENT_MARK)
            return 200 if path.endswith("/api/ingestData") else 201, b""
        if path == "/counts":
            return 200, json.dumps(self._events).encode()
        documents = {"config": b"{}", "rules": b"[]"}
        document = documents.get(path.rpartition("/")[2])
        return (404, b"") if document is None else (200, document)

    def _answer(self, path: str, status: int, content: bytes) -> None:
        reply = (
            f"HTTP/1.1 {status} OK\r\nContent-Length: {len(content)}\r\nContent-Type: application/json\r\n"
            f'ETag: "0"\r\nX-Moesif-Config-Etag: "0"\r\nX-Moesif-Rules-Tag: "0"\r\n\r\n'
        ).encode() + content
        if (seconds := SLOW.get(path.split("/")[1])) is not None:
            asyncio.get_running_loop().call_later(seconds, self._transport.write, reply)
        else:
            self._transport.write(reply)


def read_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers by lower-case name."""
    start, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = start.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    return method, path, {name.lower(): value.strip() for name, _, value in pairs}


async def serve(port: int) -> None:
    events = Counter[str]()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(events), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
