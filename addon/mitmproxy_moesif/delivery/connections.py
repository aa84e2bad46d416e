"""Several requests to one receiver at a time, each in a thread with a receiver of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mitmproxy_moesif.delivery.receivers.base import Receiver

type Job = Callable[[Receiver], None]
"""Raises nothing."""


class Connections:
    """A thread starts where none is idle, and ends when it was idle for `keepalive` seconds.

    `make` and `keepalive` may be replaced at any time; the next job uses the new ones.
    """

    def __init__(self, name: str, make: Callable[[], Receiver], keepalive: float) -> None:
        self.make = make
        self.keepalive = keepalive
        self._name = name
        self._condition = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._idle = 0
        self._closed = False

    def submit(self, job: Job) -> None:
        """Carry it out at once: how many there are at a time is the caller's to bound."""
        with self._condition:
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
                self._condition.notify()
                return
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Threads end once they are idle."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        make = self.make
        receiver = make()
        while (job := self._next()) is not None:
            if self.make is not make:
                receiver.close()
                make = self.make
                receiver = make()
            job(receiver)
        receiver.close()

    def _next(self) -> Job | None:
        with self._condition:
            self._idle += 1
            self._condition.wait_for(lambda: self._jobs or self._closed, self.keepalive)
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None
