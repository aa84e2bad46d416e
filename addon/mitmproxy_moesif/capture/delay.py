"""Event loop lag: the latency that the proxy adds to exchanges.

Requests and responses are read and forwarded only on the event loop's thread. So each step waits for everything before
it: other exchanges, hooks, and whatever else uses the CPU. A timer measures this: a request that arrived when the timer
was due would have waited as long as the timer was late. Measuring costs the exchanges nothing.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable

EVERY = 0.1
"""Seconds between two measurements."""


class LoopDelay:
    """Calls `waited` with the lag in seconds at each measurement, including those missed while the loop was blocked."""

    def __init__(self, waited: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._waited = waited
        self._clock = clock
        self._ended = False

    def start(self, loop: AbstractEventLoop) -> None:
        """Call on the loop's thread."""
        if not self._ended:
            loop.call_later(EVERY, self._look, loop, self._clock() + EVERY)

    def stop(self) -> None:
        """Thread-safe."""
        self._ended = True

    def _look(self, loop: AbstractEventLoop, due: float) -> None:
        late = max(0.0, self._clock() - due)  # timers may be a little early
        self._waited(late)
        while (late := late - EVERY) > 0:
            self._waited(late)
        self.start(loop)
