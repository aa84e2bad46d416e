"""The benchmark's own HTTP/1.1 client, in a process of its own.

    python -m tests.bench.client '{"port": 8080, "head": "GET / HTTP/1.1...", "connections": 8, "rate": 250, ...}'

With a `rate` it is an open loop: requests are due at random times (Poisson, from `seed`, so that two runs have the same
schedule), whether or not earlier ones have been answered, and each latency counts from the moment the request was due.
Without, it is a closed loop: each connection sends the next request when the last was answered. Requests under way at
the end are waited for. It prints `Outcome` as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Task:
    """What to send where. `head` is the request's head in full, `body` what follows it; `rate` in requests a second."""

    port: int
    head: str
    body: str = ""
    connections: int = 8
    seconds: float = 2.0
    rate: float | None = None
    seed: int = 0


@dataclass
class Outcome:
    """`latencies` in milliseconds, of answered requests; `late`: how late, at the 99th percentile, the client itself
    was with sending, in milliseconds."""

    requests: int = 0
    errors: int = 0
    seconds: float = 0.0
    late: float = 0.0
    latencies: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """One request at a time; `done` is called with the status of each answer, 0 where the connection ended instead."""

    def __init__(self, done: Callable[[Connection, int], None]) -> None:
        self._done = done
        self._buffer = bytearray()
        self._missing = -1  # bytes of the body that are to come; -1 while the head is
        self._status = 0
        self._asked = False
        self.due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, due: float) -> None:
        self.due = due
        self._asked = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._missing >= 0:
            self._missing -= len(data)
        else:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._status = int(self._buffer[9:12])
            self._missing = content_length(bytes(self._buffer[:end])) - (len(self._buffer) - end - 4)
            self._buffer.clear()
        if self._missing <= 0:
            self._missing = -1
            self._asked = False
            self._done(self, self._status)

    def connection_lost(self, error: Exception | None) -> None:
        if self._asked:
            self._asked = False
            self._done(self, 0)

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()


def content_length(head: bytes) -> int:
    """Raises `ValueError` where there is none: this client reads nothing else."""
    lower = head.lower()
    start = lower.index(b"\r\ncontent-length:") + 17
    return int(lower[start:].partition(b"\r\n")[0])


class Run:
    """One task being carried out."""

    def __init__(self, task: Task) -> None:
        self.outcome = Outcome()
        self._task = task
        self._request = task.head.encode() + task.body.encode()
        self._waiting: deque[float] = deque()
        self._free: list[Connection] = []
        self._lateness: list[float] = []
        self._under_way = 0
        self._ended = False
        self._idle = asyncio.Event()

    async def carry_out(self) -> Outcome:
        loop = asyncio.get_running_loop()
        self._free = [await self._connect() for _ in range(self._task.connections)]
        began = time.monotonic()
        if self._task.rate is None:
            loop.call_at(began + self._task.seconds, self._end)
            while self._free:
                self._start(self._free.pop(), time.monotonic())
        else:
            self._schedule(arrivals(self._task.rate, self._task.seconds, self._task.seed), began)
        await asyncio.wait_for(self._idle.wait(), self._task.seconds + GRACE_SECONDS)
        self.outcome.seconds = time.monotonic() - began
        late = sorted(self._lateness)
        self.outcome.late = 1000 * late[int(len(late) * 0.99)] if late else 0.0
        return self.outcome

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._answered), "127.0.0.1", self._task.port)
        return connection

    def _schedule(self, times: Iterator[float], began: float) -> None:
        due = next(times, None)
        if due is None:
            self._end()
            return
        asyncio.get_running_loop().call_at(began + due, self._arrive, began + due, times, began)

    def _arrive(self, due: float, times: Iterator[float], began: float) -> None:
        self._lateness.append(time.monotonic() - due)
        self._waiting.append(due)
        self._dispatch()
        self._schedule(times, began)

    def _dispatch(self) -> None:
        while self._waiting and self._free:
            connection = self._free.pop()
            if connection.usable:
                self._start(connection, self._waiting.popleft())
            else:
                self._replace()

    def _start(self, connection: Connection, due: float) -> None:
        self._under_way += 1
        connection.ask(self._request, due)

    def _answered(self, connection: Connection, status: int) -> None:
        now = time.monotonic()
        self._under_way -= 1
        if status == 200:
            self.outcome.requests += 1
            self.outcome.latencies.append(round((now - connection.due) * 1000, 4))
        else:
            self.outcome.errors += 1
        if connection.usable:
            self._use(connection)
        else:
            self._replace()
        self._look_for_end()

    def _use(self, connection: Connection) -> None:
        if self._task.rate is None and not self._ended:
            self._start(connection, time.monotonic())
        else:
            self._free.append(connection)
            self._dispatch()

    def _replace(self) -> None:
        self._under_way += 1
        asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        try:
            connection = await self._connect()
        except OSError:
            self.outcome.errors += len(self._waiting)
            self._waiting.clear()
        else:
            self._use(connection)
        self._under_way -= 1
        self._look_for_end()

    def _end(self) -> None:
        self._ended = True
        self._look_for_end()

    def _look_for_end(self) -> None:
        if self._ended and not self._under_way and not self._waiting:
            self._idle.set()


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Seconds after the start at which requests are due: a Poisson process, the same for the same seed."""
    source = random.Random(seed)
    due = source.expovariate(rate)
    while due < seconds:
        yield due
        due += source.expovariate(rate)


def carry_out(task: Task) -> Outcome:
    # select() takes its timeout in microseconds; asyncio's epoll would be up to a millisecond late with each request.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(_carry_out(task))


async def _carry_out(task: Task) -> Outcome:
    return await Run(task).carry_out()


if __name__ == "__main__":
    print(json.dumps(asdict(carry_out(Task(**json.loads(sys.argv[1]))))))
