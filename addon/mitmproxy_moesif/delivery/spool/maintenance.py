"""The thread that maintains the store: takes over dead processes' files, moves events to disk, frees disk space.

It is a separate thread, since reading another process's large file takes longer than an event may wait for the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mitmproxy_moesif.delivery.ledger import Ledger
from mitmproxy_moesif.delivery.spool.store import Store
from mitmproxy_moesif.log import RateLimitedLog, describe

INTERVAL = 2.0


class Maintenance:
    """Maintains the store at once and then every `INTERVAL` seconds, until `stop`.

    `stored` is called with each destination for which events were found; `looked` is set once all files that existed
    at the start are taken over.
    """

    def __init__(self, store: Store, ledger: Ledger, stored: Callable[[str], None]) -> None:
        self._store = store
        self._ledger = ledger
        self._stored = stored
        self._limited = RateLimitedLog()
        self._stopping = threading.Event()
        self.looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="moesif-keep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                for keep in (self._look, self._store.maintain, self._store.decide):
                    for destination in keep():
                        self._stored(destination)
                self.looked.set()
            except Exception as error:  # noqa: BLE001 - the thread never dies silently, and never dies of one error
                self._ledger.fault("keeper")
                self._limited.error("keeper", "moesif: unexpected while keeping the spool: %s", describe(error))
            self._stopping.wait(INTERVAL)

    def _look(self) -> list[str]:
        found = self._store.adopt()
        if not self.looked.is_set():
            self._store.found_all()
        return found
