"""The upstream where nginx is not installed: fixed files over keep-alive connections.

    python -m tests.bench.json_upstream PORT FOLDER

Every path is a file of FOLDER; a request's body is read and forgotten. It is slower than nginx, so ratios at
saturation come out a little flatter.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.bench.collector import read_head


class Connection(asyncio.Protocol):
    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            _, path, headers = read_head(bytes(self._buffer[:end]))
            size = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + size:
                return
            del self._buffer[: end + 4 + size]
            self._transport.write(self._files.get(path.partition("?")[0], NOT_FOUND))


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def answer(content: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def serve(port: int, files: dict[str, bytes]) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(files), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    asyncio.run(serve(int(sys.argv[1]), {f"/{path.name}": answer(path.read_bytes()) for path in folder.iterdir()}))
