"""Streams through a proxy: when the first byte arrives, and how fast and in how much memory a gigabyte passes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.bench import proc
from tests.bench.children import BenchError
from tests.bench.client import content_length
from tests.bench.proxy import Proxy

TIMEOUT = 120.0
_BLOCK = bytes(262_144)


@contextmanager
def _connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def first_bytes(proxies: Sequence[Proxy], count: int) -> dict[str, list[float]]:
    """Milliseconds to the first event of a slow stream, by the variant's name; the proxies take turns."""
    found: dict[str, list[float]] = {proxy.variant.name: [] for proxy in proxies}
    for _ in range(count):
        for proxy in proxies:
            found[proxy.variant.name].append(_first_byte(proxy.port))
            proxy.sent(1)
    return found


def in_pieces(proxies: Sequence[Proxy], count: int) -> dict[str, list[float]]:
    """Milliseconds for an upload and an answer whose heads and bodies are two writes each; the proxies take turns."""
    found: dict[str, list[float]] = {proxy.variant.name: [] for proxy in proxies}
    with ExitStack() as open_connections:
        connections = [open_connections.enter_context(_connection(proxy.port)) for proxy in proxies]
        for _ in range(count):
            for proxy, connection in zip(proxies, connections, strict=True):
                found[proxy.variant.name].append(_in_pieces(connection))
                proxy.sent(1)
    return found


def _in_pieces(connection: socket.socket) -> float:
    began = time.monotonic()
    connection.sendall(b"POST /pieces HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 4\r\n\r\n")
    connection.sendall(b"body")
    if _head(connection) != b"4":
        raise BenchError("an answer in pieces came through cut short")
    return (time.monotonic() - began) * 1000


def _first_byte(port: int) -> float:
    with _connection(port) as connection:
        began = time.monotonic()
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
        received = b""
        first = 0.0
        while data := connection.recv(65_536):
            received += data
            if not first and b"data: 0" in received:
                first = time.monotonic() - began
        if not first or b"data: 4" not in received:
            raise BenchError("a stream came through cut short")
        return first * 1000


@dataclass(frozen=True)
class Transfer:
    """Seconds for so many bytes, and by how many bytes the proxy's memory grew at most meanwhile."""

    bytes: int
    seconds: float
    growth: int

    @property
    def megabytes_per_second(self) -> float:
        return self.bytes / self.seconds / 1e6


def download(proxy: Proxy, size: int) -> Transfer:
    with _connection(proxy.port) as connection, _watched(proxy, size) as transfer:
        connection.sendall(f"GET /bulk?{size} HTTP/1.1\r\nHost: api.example.com\r\n\r\n".encode())
        room = memoryview(bytearray(len(_BLOCK)))
        missing = size - len(_head(connection))
        while missing > 0:
            got = connection.recv_into(room)
            if not got:
                raise BenchError(f"a download came through cut short by {missing} bytes")
            missing -= got
    return transfer[0]


def upload(proxy: Proxy, size: int) -> Transfer:
    with _connection(proxy.port) as connection, _watched(proxy, size) as transfer:
        connection.sendall(f"POST /bulk HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {size}\r\n\r\n".encode())
        block = memoryview(_BLOCK)
        left = size
        while left:
            connection.sendall(block[: min(left, len(block))])
            left -= min(left, len(block))
        said = _head(connection)
        if said != str(size).encode():
            raise BenchError(f"the upstream got {said.decode(errors='replace')} bytes of {size}")
    return transfer[0]


@contextmanager
def _watched(proxy: Proxy, size: int) -> Iterator[list[Transfer]]:
    """Times what is inside; the list holds the result afterwards."""
    proxy.settle()
    proc.forget_peak(proxy.pid)
    before = proc.resident_bytes(proxy.pid)
    result: list[Transfer] = []
    began = time.monotonic()
    yield result
    result.append(Transfer(size, time.monotonic() - began, proc.peak_bytes(proxy.pid) - before))
    proxy.sent(1)


def _head(connection: socket.socket) -> bytes:
    """Reads a response's head; returns what came of the body with it, all of it where it is short."""
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        data = connection.recv(65_536)
        if not data:
            raise BenchError("the connection ended before an answer came")
        received += data
    short = content_length(received[:end])
    body = received[end + 4 :]
    while len(body) < short <= 32 and (data := connection.recv(65_536)):
        body += data
    return body
