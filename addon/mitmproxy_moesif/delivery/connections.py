"""Several requests to one receiver at a time, each in a thread with a receiver of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from mitmproxy_moesif.log import describe

type Job = Callable[[Receiver], None]
"""Raises nothing."""


class Unmade:
    """In place of a receiver that cannot be made, as when descriptors or threads have run out."""

    def __init__(self, error: Exception) -> None:
        why = (isinstance(error, OSError) and error.strerror) or describe(error)
        self._outcome = Outcome(Verdict.UNAVAILABLE, f"no connection can be made: {why}")

    def send(self, _events: Sequence[bytes]) -> Outcome:
        return self._outcome

    def close(self) -> None:
        """There is nothing to give up."""


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
        try:
            threading.Thread(target=self._run, name=self._name, daemon=True).start()
        except RuntimeError as error:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        """No thread could be started for it; another one may have taken it."""
        with self._condition:
            if job not in self._jobs:
                return
            self._jobs.remove(job)
        job(Unmade(error))

    def close(self) -> None:
        """Threads end once they are idle."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        make, receiver = self.make, self._made()
        while (job := self._next()) is not None:
            if self.make is not make or isinstance(receiver, Unmade):
                receiver.close()
                make, receiver = self.make, self._made()
            job(receiver)
        receiver.close()

    def _made(self) -> Receiver:
        try:
            return self.make()
        except Exception as error:  # noqa: BLE001 - its job must not wait for ever: it is told that nothing was sent
            return Unmade(error)

    def _next(self) -> Job | None:
        with self._condition:
            self._idle += 1
            self._condition.wait_for(lambda: self._jobs or self._closed, self.keepalive)
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None
