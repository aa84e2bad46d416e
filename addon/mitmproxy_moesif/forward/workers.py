"""Several forwarders as processes: starts them, restarts them when they die, and adds up their reports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from mitmproxy_moesif.backoff import Backoff
from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.api import Condition
from mitmproxy_moesif.delivery.ledger import NOTHING, Reading, added_up
from mitmproxy_moesif.log import log

AT_ONCE = signal.SIGINT
"""Tells a worker to stop sending; other termination signals let it send what it has read."""

REPORT_SECONDS = 1.0
FIRST_DELAY, LONGEST_DELAY = 0.2, 10.0
GRACE = 5.0
"""Seconds after its `shutdown_timeout` until a worker is killed."""

EMPTY = Condition(NOTHING, {}, None, None)


class Workers:
    """Call `run`; it returns after `stop`. `arguments` are those of one worker."""

    def __init__(self, count: int, arguments: Sequence[str], seconds: float) -> None:
        self._arguments = arguments
        self._seconds = seconds
        self._stopped = threading.Event()
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self._conditions = [EMPTY] * count
        self._ended = NOTHING
        self._lock = threading.Lock()

    def stop(self, *, at_once: bool = False) -> None:
        """Let the workers send what they have read, then end; `at_once`: stop sending."""
        self._stopped.set()
        for process in self._processes:
            if process is not None and process.poll() is None:
                process.send_signal(AT_ONCE if at_once else signal.SIGTERM)

    def run(self) -> Reading:
        keepers = [
            threading.Thread(target=self._keep, args=(number,), name=f"moesif-worker-{number}")
            for number in range(len(self._processes))
        ]
        for keeper in keepers:
            keeper.start()
        self._stopped.wait()
        deadline = time.monotonic() + self._seconds + GRACE
        for keeper in keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        for process in self._processes:
            if process is not None:
                process.kill()  # no effect if it has ended
        for keeper in keepers:
            keeper.join()
        return self._ended

    def condition(self) -> Condition:
        """The state according to the last reports, at most a second ago."""
        with self._lock:
            told = list(self._conditions)
            reading = added_up([self._ended, *(one.reading for one in told)])
        health = {
            f"{name}-{number}": health for number, one in enumerate(told, 1) for name, health in one.health.items()
        }
        oldest = min((one.oldest_at for one in told if one.oldest_at is not None), default=None)
        return Condition(reading, health, oldest, None, sum(one.memory_bytes for one in told))

    def _keep(self, number: int) -> None:
        backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                end = f"ended with code {self._run_one(number)}"
            except OSError as error:  # too many processes or files, too little memory
                end = f"cannot be started: {error.strerror}"
            if self._stopped.is_set():
                return
            if time.monotonic() - began > LONGEST_DELAY:
                backoff.reset()
            delay = backoff.failed()
            log.warning("moesif: forwarder %d %s; restarting in %.1f s", number + 1, end, delay)
            self._stopped.wait(delay)

    def _run_one(self, number: int) -> int:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "mitmproxy_moesif.forward.main", *self._arguments]
        with ours:
            with theirs:
                # In its own session, so that Ctrl-C goes only to the supervisor, which tells the workers once.
                process = subprocess.Popen(  # noqa: S603 - our own command line
                    [*command, "--reports", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            self._processes[number] = process
            if self._stopped.is_set():
                process.terminate()
            for (condition,) in protocol.messages(ours):
                with self._lock:
                    self._conditions[number] = protocol.to_condition(condition)
        code = process.wait()
        with self._lock:
            last = self._conditions[number].reading
            self._ended = added_up([self._ended, last if self._stopped.is_set() else given_back(last)])
            self._conditions[number] = EMPTY
        return code


def given_back(reading: Reading) -> Reading:
    """The counts of a dead worker, without waiting records: another member reads and counts these again."""
    return replace(reading, captured=reading.captured - reading.waiting, waiting_in_memory=0)
