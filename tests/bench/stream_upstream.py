"""An upstream for streams: slow ones for the time to the first byte, large ones for throughput and memory.

python -m tests.bench.stream_upstream PORT

GET /slow           chunked: EVENTS server-sent events, PAUSE seconds apart, the first at once
GET /bulk?N         N bytes with a Content-Length
POST /bulk          reads the body and tells its length
POST /pieces        the same, head and body of the answer in two writes
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from io import BufferedReader
from typing import Final

from tests.bench.collector import read_head

EVENTS: Final = 5
PAUSE: Final = 0.02
BLOCK: Final = bytes(262_144)


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
        while True:
            connection, _ = listening.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=converse, args=(connection,), daemon=True).start()


def converse(connection: socket.socket) -> None:
    with connection, suppress(ConnectionError), connection.makefile("rb") as stream:
        while head := _read_head(stream):
            method, path, headers = read_head(head)
            if path == "/slow":
                send_slowly(connection)
            elif method == "POST":
                length = _skip(stream, int(headers["content-length"]))
                send(connection, str(length).encode(), in_pieces=path == "/pieces")
            else:
                send_bulk(connection, int(path.partition("?")[2]))


def _read_head(stream: BufferedReader) -> bytes:
    lines = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines).rstrip(b"\r\n")


def _skip(stream: BufferedReader, length: int) -> int:
    room = bytearray(262_144)
    left = length
    while left and (got := stream.readinto1(memoryview(room)[: min(left, len(room))])):
        left -= got
    return length - left


def send(connection: socket.socket, content: bytes, *, in_pieces: bool) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for piece in (head, content) if in_pieces else (head + content,):
        connection.sendall(piece)


def send_slowly(connection: socket.socket) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    for number in range(EVENTS):
        if number:
            time.sleep(PAUSE)
        event = b"data: %d\n\n" % number
        connection.sendall((b"" if number else head) + b"%x\r\n%s\r\n" % (len(event), event))
    connection.sendall(b"0\r\n\r\n")


def send_bulk(connection: socket.socket, length: int) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    block = memoryview(BLOCK)
    while length:
        part = block[: min(length, len(block))]
        connection.sendall(part)
        length -= len(part)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
