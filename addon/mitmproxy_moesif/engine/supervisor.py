"""Several workers on one port: starts them, starts them again when they die, ends them, and adds up what they tell.

Knows nothing of mitmproxy: a process that stays small. It keeps the port bound but does not listen, so that the port
is ours also while no worker runs. A worker that died leaves its spool; the others adopt it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mitmproxy_moesif.delivery.ledger import Reading
from mitmproxy_moesif.engine.arguments import Address, Arguments
from mitmproxy_moesif.engine.sockets import close_all, open_sockets
from mitmproxy_moesif.log import log

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds until a worker that died is started again; doubled each time."""

SETTLED = 30.0
"""Seconds after which a worker counts as well, and its next death as its first."""

GRACE = 3.0
"""Seconds that workers have to end at once, until they are killed."""

NOTHING = Reading(0, 0, 0, 0, 0)


class Worker:
    """One place for a process, and what was told by the process that is in it now."""

    def __init__(self, number: int, supervisor: Supervisor) -> None:
        self.number = number
        self.reading = NOTHING
        self.ready = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self._supervisor = supervisor

    async def run(self, arguments: Sequence[str]) -> int:
        """Start a process and wait for its end; its exit code, negative for a signal."""
        ours, theirs = os.pipe()
        with os.fdopen(ours, "rb") as pipe:
            try:
                await self._start(theirs, arguments)
            finally:
                os.close(theirs)
            await self._listen(pipe)
        assert self.process is not None
        code = await self.process.wait()
        self.process = None
        self.ready.clear()
        return code

    async def _start(self, pipe: int, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "mitmproxy_moesif.engine.worker", str(pipe), *arguments]
        # A session of its own: Ctrl-C goes to the supervisor alone, which tells the workers once.
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, pass_fds=(pipe,), start_new_session=True
        )
        if self._supervisor.stopping.is_set():
            self.order(b"T")

    async def _listen(self, pipe: Any) -> None:
        """Until the process has closed its end, which it does when it ends."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        async for line in reader:
            with suppress(ValueError, TypeError):  # a line cut by kill -9
                self._hear(json.loads(line))
        transport.close()

    def _hear(self, said: dict[str, Any]) -> None:
        if "reading" in said:
            self.reading = Reading(**said["reading"])
        elif "ready" in said:
            self.ready.set()
        else:
            self._supervisor.hear_of_reload(said)

    def order(self, letter: bytes) -> None:
        """See `worker` for the letters."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError, RuntimeError):
                self.process.stdin.write(letter)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()


class Supervisor:
    """Runs the workers until SIGTERM or SIGINT; `reading` adds up what they tell, at any time."""

    def __init__(self, arguments: Arguments, given: Sequence[str]) -> None:
        self._arguments = arguments
        self._given = given
        self._workers = [Worker(number, self) for number in range(1, arguments.workers + 1)]
        self._gone: list[Reading] = []
        self._started = False
        self._stops = 0
        self.stopping = asyncio.Event()
        self._told: set[str] = set()

    async def run(self) -> int:
        """The exit code. Raises `OSError` with one line where the port is taken."""
        sockets = reserve(self._arguments.listen)
        try:
            address = Address(self._arguments.listen.host, sockets[0].getsockname()[1])
            return await self._supervise(address)
        finally:
            close_all(sockets)

    async def _supervise(self, address: Address) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        given = [*self._given, "--listen", str(address)]
        # The first alone: what is wrong is told once, and what all of them need is made by one.
        keeping: list[asyncio.Future[int]] = []
        for workers in (self._workers[:1], self._workers[1:]):
            if self.stopping.is_set():
                break
            keeping += [asyncio.ensure_future(self._keep(worker, given)) for worker in workers]
            for worker in workers:
                await either(worker.ready, self.stopping)
        if not self.stopping.is_set():
            self._started = True
            upstream = self._arguments.upstream or "what the configuration says"
            count = len(self._workers)
            log.info("moesif-proxy: listening at %s with %d workers, passing to %s", address, count, upstream)
        codes = await asyncio.gather(*keeping)
        if self._started:
            sys.stderr.write(f"moesif: {self.reading().line()}\n")
        return 1 if any(codes) else 0

    async def _keep(self, worker: Worker, given: Sequence[str]) -> int:
        """Keep one running; the exit code of the one that ended as it was told, or never started."""
        delay, clock = FIRST_DELAY, asyncio.get_running_loop().time
        while True:
            began = clock()
            try:
                code = await worker.run(given)
            except OSError as error:  # no memory or no process left for it now
                log.error("moesif-proxy: worker %d cannot be started: %s", worker.number, error.strerror)
                code = 1
            if self.stopping.is_set():
                return code
            if not self._started:
                self.stop()
                return code or 1
            self._gone.append(handed_over(worker.reading))
            worker.reading = NOTHING
            delay = FIRST_DELAY if clock() - began > SETTLED else delay
            log.warning("moesif-proxy: worker %d %s; again in %.1f s", worker.number, how_ended(code), delay)
            await either(self.stopping, seconds=delay)
            if self.stopping.is_set():
                return 0
            delay = min(delay * 2, LONGEST_DELAY)

    def stop(self) -> None:
        """End when exchanges and events are done; called again: at once; and again: by force."""
        self._stops += 1
        self.stopping.set()
        for worker in self._workers:
            worker.order(b"T" if self._stops == 1 else b"A")
        if self._stops > 1:
            asyncio.get_running_loop().call_later(GRACE if self._stops == 2 else 0, self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def reload(self) -> None:
        self._told.clear()
        for worker in self._workers:
            if worker.ready.is_set():
                worker.order(b"H")

    def hear_of_reload(self, said: dict[str, str]) -> None:
        """Log what workers answer, and what all of them say only once."""
        for outcome, text in said.items():
            if text not in self._told:
                self._told.add(text)
                log.log(*RELOAD[outcome], text)

    def ready_workers(self) -> int:
        return sum(worker.ready.is_set() for worker in self._workers)

    def reading(self) -> Reading:
        """Where the captured events of all workers are, as of the last second."""
        return total([*self._gone, *(worker.reading for worker in self._workers)])


RELOAD = {
    "reloaded": (logging.INFO, "moesif-proxy: the configuration was read again: %s"),
    "refused": (logging.ERROR, "moesif-proxy: the configuration was refused, the old one stays: %s"),
}


async def either(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Until one of them is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def reserve(listen: Address) -> list[socket.socket]:
    """The port for all workers. Bound without sharing at first: two proxies must not share one by mistake."""
    alone = open_sockets(listen.host, listen.port, shared=False)
    port = alone[0].getsockname()[1]
    close_all(alone)
    return open_sockets(listen.host, port, shared=True)


def handed_over(reading: Reading) -> Reading:
    """What stays in the count of a worker that died: others adopt its spool, and count that themselves."""
    lost = reading.waiting_in_memory
    dropped = Counter(reading.dropped) + Counter({"worker_died": lost})
    captured = reading.captured - reading.waiting_on_disk
    return replace(reading, captured=captured, waiting_in_memory=0, waiting_on_disk=0, dropped=dict(dropped))


def total(readings: Sequence[Reading]) -> Reading:
    dropped: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for reading in readings:
        dropped.update(reading.dropped)
        faults.update(reading.faults)
    return Reading(
        captured=sum(reading.captured for reading in readings),
        recovered=sum(reading.recovered for reading in readings),
        delivered=sum(reading.delivered for reading in readings),
        waiting_in_memory=sum(reading.waiting_in_memory for reading in readings),
        waiting_on_disk=sum(reading.waiting_on_disk for reading in readings),
        dropped=dict(dropped),
        faults=dict(faults),
        skipped=sum(reading.skipped for reading in readings),
    )


def how_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
