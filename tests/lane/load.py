"""Many connections that each check every answer against what they asked, and an upstream that answers so.

`python -m tests.lane.load PORT CONNECTIONS` asks until its input ends, `python -m tests.lane.load` answers; each is a
process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count

from tests.support import REPOSITORY
from tests.support.traffic import ID_HEADER

SIZES = (0, 1, 200, 5_000, 100_000)
TOLD_EVERY = 50


@dataclass
class Seen:
    """`answered` are the transaction ids of whole answers, each to its request; `wrong` tells of those that are not.

    `failed` are 502 pages, `broken` connections that ended with nothing or half an answer.
    """

    answered: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failed: int = 0
    broken: int = 0


def body_of(name: str) -> bytes:
    """What the upstream answers to this path: of a size, and with a content, that only this path has."""
    seed = hashlib.sha256(name.encode()).digest()
    return (seed * (SIZES[seed[0] % len(SIZES)] // len(seed) + 1))[: SIZES[seed[0] % len(SIZES)]]


class Answering(asyncio.Protocol):
    """The upstream's end of a connection. It closes some behind an answer, and takes its time with others."""

    def __init__(self) -> None:
        self._buffer = b""
        self._dice = random.Random()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        name = head.split(b" ", 2)[1].decode()
        if rest[:length] != body_of(f"sent {name}")[:length]:
            name = "spoiled"
        pause = self._dice.choice((0.0, 0.0, 0.0, 0.005, 0.02))
        asyncio.get_running_loop().call_later(pause, self._answer, name, head.startswith(b"HEAD"))

    def _answer(self, name: str, is_head: bool) -> None:
        if self._transport.is_closing():
            return
        body, kind = body_of(name), self._dice.randrange(100)
        start = f"HTTP/1.1 200 OK\r\nX-Name: {name}\r\n"
        if kind == 0:
            start += "Connection: close\r\n"
        if kind < 50:
            framed = f"{start}Content-Length: {len(body)}\r\n\r\n".encode() + (b"" if is_head else body)
        else:
            chunks = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            framed = f"{start}Transfer-Encoding: chunked\r\n\r\n".encode() + (b"" if is_head else chunks + b"0\r\n\r\n")
        self._transport.write(framed)
        if kind in (0, 1):  # the second without a word
            self._transport.close()


class Asking:
    """One connection after the other, until the end."""

    def __init__(self, number: int, port: int, seen: Seen, end: asyncio.Event) -> None:
        self._port = port
        self._seen = seen
        self._end = end
        self._names = (f"/{number}/{each}" for each in count())
        self._dice = random.Random(number)

    async def run(self) -> None:
        while not self._end.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=300_000)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while not self._end.is_set() and await self._ask(reader, writer):
                    pass
            except (OSError, asyncio.IncompleteReadError):
                self._seen.broken += 1
            finally:
                writer.close()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether another may follow."""
        name, method = next(self._names), self._dice.choice(("GET", "GET", "HEAD", "POST"))
        body = body_of(f"sent {name}") if method == "POST" else b""
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        writer.write(f"{method} {name} HTTP/1.1\r\nHost: h\r\n{length}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        content = b"" if method == "HEAD" else await read_body(reader, fields)
        self._judge(name, head, fields, content, expected=b"" if method == "HEAD" else body_of(name))
        return fields.get("connection") != "close"

    def _judge(self, name: str, head: str, fields: dict[str, str], content: bytes, *, expected: bytes) -> None:
        if head.startswith("HTTP/1.1 502 "):
            self._seen.failed += 1
        elif not head.startswith("HTTP/1.1 200 ") or fields.get("x-name") != name or content != expected:
            self._seen.wrong.append(f"{name}: {head!r} {content[:50]!r}, {len(content)} of {len(expected)} bytes")
        else:
            self._seen.answered.append(fields.get(ID_HEADER, "none"))
            if len(self._seen.answered) % TOLD_EVERY == 0:
                print(len(self._seen.answered), flush=True)


async def read_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    content = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content


async def ask(port: int, connections: int) -> Seen:
    seen, end = Seen(), asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, end.set)
    await asyncio.gather(*(Asking(number, port, seen, end).run() for number in range(connections)))
    return seen


async def answer() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    with suppress(asyncio.CancelledError):
        await server.serve_forever()


@contextmanager
def upstream() -> Iterator[str]:
    """Its URL."""
    command = [sys.executable, "-m", "tests.lane.load"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


class Load:
    """The process that asks. `seen` is there once it has ended."""

    seen: Seen

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answered = 0

    def wait_for(self, answers: int) -> None:
        """Until that many more have come."""
        assert self._process.stdout is not None
        wanted = self._answered + answers
        while self._answered < wanted:
            self._answered = int(self._process.stdout.readline())

    def end(self) -> None:
        told, _ = self._process.communicate(timeout=60)
        self.seen = Seen(**json.loads(told.splitlines()[-1]))


@contextmanager
def asking(port: int, connections: int) -> Iterator[Load]:
    """They ask for the length of the block."""
    command = [sys.executable, "-m", "tests.lane.load", str(port), str(connections)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            load = Load(process)
            yield load
            load.end()
        finally:
            process.kill()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        port, connections = sys.argv[1:]
        print(json.dumps(asdict(asyncio.run(ask(int(port), int(connections))))))
    else:
        asyncio.run(answer())
