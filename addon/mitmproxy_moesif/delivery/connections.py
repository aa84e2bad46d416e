"""Concurrent requests to one receiver, each in a thread with its own `Receiver` object."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from mitmproxy_moesif.delivery.receivers.base import Outcome, Receiver, Verdict
from mitmproxy_moesif.log import describe

type Job = Callable[[Receiver], None]
"""Raises nothing."""


class Unmade:
    """Replaces a receiver that cannot be created, e.g. because there are no more file descriptors or threads."""

    def __init__(self, error: Exception) -> None:
        why = (isinstance(error, OSError) and error.strerror) or describe(error)
        self._outcome = Outcome(Verdict.UNAVAILABLE, f"no connection can be made: {why}")

    def send(self, _events: Sequence[bytes]) -> Outcome:
        return self._outcome

    def close(self) -> None:
        """Nothing to close."""


class Connections:
    """A pool that starts a thread if none is idle. A thread ends after `keepalive` idle seconds.

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
        """Run a job at once. The caller limits how many run at a time."""
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
        """No thread could be started for this job, but another thread may have taken it."""
        with self._condition:
            if job not in self._jobs:
                return
            self._jobs.remove(job)
        job(Unmade(error))

    def close(self) -> None:
        """Let threads end once they are idle."""
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
        except Exception as error:  # noqa: BLE001 - the job must not wait for ever: it gets an UNAVAILABLE outcome
            return Unmade(error)

    def _next(self) -> Job | None:
        with self._condition:
            self._idle += 1
            self._condition.wait_for(lambda: self._jobs or self._closed, self.keepalive)
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None
