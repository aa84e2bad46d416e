"""Runs several workers on one port: starts them, restarts those that die, stops them, and adds up their counts.

Does not import mitmproxy, so that the process stays small. It keeps the port bound without listening, so that no other
process can take it while no worker runs. The spool of a dead worker is adopted by the others. The common Admin API is
served here.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from mitmproxy_moesif import interrupts
from mitmproxy_moesif.admin.server import AdminServer
from mitmproxy_moesif.capture.traffic import together
from mitmproxy_moesif.delivery.ledger import NOTHING, Reading
from mitmproxy_moesif.log import log
from mitmproxy_moesif.proxy import hangups
from mitmproxy_moesif.proxy.arguments import Arguments
from mitmproxy_moesif.proxy.sockets import close_all, open_sockets
from mitmproxy_moesif.web.access import Address
from mitmproxy_moesif.workers.control import Worker
from mitmproxy_moesif.workers.counts import Dead, total, total_at_end
from mitmproxy_moesif.workers.listener import admin_server
from mitmproxy_moesif.workers.relay import Relay

FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
"""Seconds before a dead worker is restarted, doubled each time, and the maximum."""

SETTLED = 30.0
"""Seconds after which a worker counts as healthy, so that the restart delay is reset."""

GRACE = 3.0
"""Seconds that workers have to end after an abort, before they are killed."""


class Supervisor:
    """Runs the workers until SIGTERM or SIGINT; `reading` returns their total counts at any time."""

    def __init__(self, arguments: Arguments, given: Sequence[str]) -> None:
        self._arguments = arguments
        self._given = given
        self._workers = [Worker(number, self._hear) for number in range(1, arguments.workers + 1)]
        self._relay = Relay(self._workers, self.reading, self.traffic)
        self._admin_wanted: dict[str, str] | None = None
        self._admin: AdminServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead = Dead()
        self._passed: Mapping[str, Any] = {}
        self._files: dict[str, str] = {}
        self._serves = False  # a worker has accepted connections, so the common configuration is valid
        self._started = False
        self._stops = 0
        self.stopping = asyncio.Event()
        self._told: set[str] = set()

    async def run(self) -> int:
        """Run; returns the exit code. Raises `OSError` with one line if the port is taken."""
        sockets = reserve(self._arguments.listen)
        try:
            address = Address(self._arguments.listen.host, sockets[0].getsockname()[1])
            return await self._supervise(address)
        finally:
            hangups.ignore()
            interrupts.ignore(asyncio.get_running_loop())
            if self._admin is not None:
                await asyncio.to_thread(self._admin.stop)
            close_all(sockets)

    async def _supervise(self, address: Address) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        hangups.heed(self.reload)
        given = [*self._given, "--listen", str(address)]
        # Start the first worker alone: errors are logged only once, and it creates what all workers need.
        keeping: list[asyncio.Future[int]] = []
        refused = False
        for workers in (self._workers[:1], self._workers[1:]):
            if self.stopping.is_set():
                break
            keeping += [asyncio.ensure_future(self._keep(worker, given)) for worker in workers]
            for worker in workers:
                await either(worker.ready, self.stopping)
                self._serves = self._serves or worker.ready.is_set()
            if len(keeping) == 1 and not self.stopping.is_set():
                log.info(
                    "moesif-proxy: the first of %d workers accepts connections; starting the others", len(self._workers)
                )
            if not self.stopping.is_set() and not self._open_admin():
                self.stop()
                refused = True
        if not self.stopping.is_set():
            self._started = True
            upstream = self._arguments.upstream or "what the configuration says"
            count = len(self._workers)
            log.info("moesif-proxy: listening at %s with %d workers, passing to %s", address, count, upstream)
        codes = await asyncio.gather(*keeping)
        readings = [worker.reading for worker in self._workers]
        last = await asyncio.to_thread(total_at_end, readings, self._dead)
        failed = refused or any(codes)
        if self._started or last.captured or not failed:
            sys.stderr.write(f"{last.last_words()}\n")
        return 1 if failed else 0

    def _open_admin(self) -> bool:
        """Start the admin listener if the workers' options ask for one. On failure, logs it and returns False."""
        if self._admin_wanted is not None and self._admin is None:
            listen, token = self._admin_wanted["listen"], self._admin_wanted["token"]
            try:
                server = admin_server(listen, token or None, self._relay.answer)
                server.start()
            except (OSError, ValueError) as error:
                log.error("moesif: %s", error)
                return False
            self._admin = server
        return True

    async def _keep(self, worker: Worker, given: Sequence[str]) -> int:
        """Keep one worker running. Returns its exit code once it was stopped, or if no worker ever started."""
        delay, clock = FIRST_DELAY, asyncio.get_running_loop().time
        kept: Mapping[str, str] = {}
        while True:
            began = clock()
            worker.reloads = self._relay.reloads
            try:
                code = await worker.run(given, kept, ending=self.stopping.is_set)
            except OSError as error:  # no memory or no free process slot
                log.error("moesif-proxy: worker %d cannot be started: %s", worker.number, error.strerror)
                code = 1
            if self.stopping.is_set():
                if not worker.told_all:
                    self._bury(worker)
                return code
            self._serves = self._serves or worker.served
            if not self._serves:
                if code < 0:  # with other codes, the worker has logged the error itself
                    log.error(
                        "moesif-proxy: worker %d %s before it accepted connections", worker.number, how_ended(code)
                    )
                self.stop()
                return code or 1
            self._bury(worker)
            delay = FIRST_DELAY if clock() - began > SETTLED else delay
            # If it could not even start, someone may be editing a file: use the files that were last in force.
            kept = {} if worker.served or kept else dict(self._files)
            how = ", with the files last applied" if kept else ""
            log.warning(
                "moesif-proxy: worker %d %s; restarting in %.1f s%s", worker.number, how_ended(code), delay, how
            )
            await either(self.stopping, seconds=delay)
            if self.stopping.is_set():
                return 0
            delay = min(delay * 2, LONGEST_DELAY)
            worker.restarts += 1

    def _bury(self, worker: Worker) -> None:
        """Keep the counts of a worker that died: its last reading may be older than what it did."""
        self._dead.add(worker.reading, worker.group)
        self._passed = together([self._passed, worker.traffic])
        worker.reading, worker.traffic = NOTHING, {}

    def stop(self) -> None:
        """Stop gracefully; at the second call abort; at the third call kill the workers."""
        self._stops += 1
        self.stopping.set()
        for worker in self._workers:
            worker.order("end" if self._stops == 1 else "abort")
        if self._stops > 1:
            asyncio.get_running_loop().call_later(GRACE if self._stops == 2 else 0, self._kill)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.kill()

    def reload(self) -> None:
        self._told.clear()
        self._do(self._relay.reload())

    def _hear(self, worker: Worker, said: dict[str, Any]) -> None:
        if "file" in said:
            self._files[said["file"]] = said["content"]
        elif "ready" in said:
            self._do(self._relay.catch_up(worker))
        elif "admin" in said:
            self._admin_wanted = said["admin"]
            self._relay.greet(worker, said["admin"]["state"])
        elif "version" not in said:
            self._hear_of_reload(said)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hear_of_reload(self, said: dict[str, str]) -> None:
        """Log the workers' replies to a reload; equal messages only once."""
        for outcome, text in said.items():
            if text not in self._told:
                self._told.add(text)
                log.log(*RELOAD[outcome], text)

    def reading(self) -> Reading:
        """The total event counts of all workers, at most a second old."""
        return total([worker.reading for worker in self._workers], self._dead)

    def traffic(self) -> Mapping[str, Any]:
        """The total traffic of all workers, including those that died."""
        return together([self._passed, *(worker.traffic for worker in self._workers)])


RELOAD = {
    "reloaded": (logging.INFO, "moesif-proxy: %s"),
    "refused": (logging.ERROR, "moesif-proxy: the configuration was refused, the old one stays: %s"),
}


async def either(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of the events is set, or for at most `seconds`."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def reserve(listen: Address) -> list[socket.socket]:
    """Bind the port for all workers. It is first bound unshared, so that two proxies cannot share it by mistake."""
    alone = open_sockets(listen.host, listen.port, shared=False)
    port = alone[0].getsockname()[1]
    close_all(alone)
    return open_sockets(listen.host, port, shared=True)


def how_ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
