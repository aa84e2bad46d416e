"""Plain traffic through the proxy, and what each exchange's event is called."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from tests.support.client import Client
from tests.support.proxy import Mitmdump

ID_HEADER = "x-moesif-transaction-id"

ON_DISK_WITHIN = 0.1
"""Seconds after an answer within which its event is on disk, whatever becomes of the proxy."""


def send_many(port: int, count: int, *, target: str = "/x", body: bytes | None = None) -> list[str]:
    """So many exchanges one after the other on one connection; returns their transaction ids."""
    ids = []
    with Client(port) as client:
        for _ in range(count):
            answer = client.exchange("POST" if body else "GET", target, body=body)
            assert answer is not None
            ids.append(answer.get(ID_HEADER) or "")
    return ids


@dataclass
class Load:
    """Exchanges from a few threads until `stop`, or until the proxy is gone; each id with when its answer was read."""

    port: int
    clients: int = 2
    seen: dict[str, float] = field(default_factory=dict)
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _count: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def start(self) -> Load:
        self._threads = [threading.Thread(target=self._run) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, count: int, timeout: float = 20) -> None:
        """Until so many more exchanges were answered."""
        for _ in range(count):
            assert self._count.acquire(timeout=timeout)

    def wait_for_age(self, seconds: float) -> None:
        """Until the first answer was read so long ago; others come meanwhile."""
        self.wait_for(1)
        while time.monotonic() - min(self.seen.copy().values()) <= seconds:
            self.wait_for(1)

    def stop(self) -> dict[str, float]:
        self._ending.set()
        for thread in self._threads:
            thread.join()
        return self.seen

    def _run(self) -> None:
        try:
            with Client(self.port) as client:
                while not self._ending.is_set():
                    answer = client.exchange("GET", "/load")
                    if answer is None or answer.cut:
                        return
                    if answer.status == 502:
                        return  # the engine's own page: the proxy is ending
                    # Without an id the head stands in its place, which tells more than nothing where a test fails.
                    self.seen[answer.get(ID_HEADER) or repr(answer.head)] = time.monotonic()
                    self._count.release()
        except OSError:
            return  # the proxy was killed


def kill_under_load(proxy: Mitmdump, count: int) -> set[str]:
    """Kill it behind so many answers; the ids of those, one at least, whose events have to be on disk."""
    load = Load(proxy.port).start()
    load.wait_for(count, timeout=60)
    load.wait_for_age(ON_DISK_WITHIN)
    killed = time.monotonic()
    proxy.kill()
    return {one for one, at in load.stop().items() if at < killed - ON_DISK_WITHIN}
