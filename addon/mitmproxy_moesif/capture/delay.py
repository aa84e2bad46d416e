"""What the proxy adds to the time of exchanges: how long that which is due waits for the event loop.

Nothing but the event loop's thread reads a request and passes it on, reads an answer and passes it on. So each of these
steps waits until all is done that came before it: other exchanges, hooks, and whatever else has the processor. A timer
finds out how long: what it is late, a request that came when it was due would have waited. It costs no exchange
anything.
"""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable

EVERY = 0.1
"""Seconds between two moments at which it is measured."""


class LoopDelay:
    """Tells `waited` the seconds of each moment, also of those that went by while the loop was busy with one thing."""

    def __init__(self, waited: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._waited = waited
        self._clock = clock
        self._ended = False

    def start(self, loop: AbstractEventLoop) -> None:
        """From the loop's thread."""
        if not self._ended:
            loop.call_later(EVERY, self._look, loop, self._clock() + EVERY)

    def stop(self) -> None:
        """From any thread."""
        self._ended = True

    def _look(self, loop: AbstractEventLoop, due: float) -> None:
        late = max(0.0, self._clock() - due)  # timers may be a little early
        self._waited(late)
        while (late := late - EVERY) > 0:
            self._waited(late)
        self.start(loop)
