"""Exchanges handed to the delivery process but not settled yet, and the search for one that kills the process.

If processes die one after the other without progress, this is a crash loop: the next ones get one frame at a time. A
frame that kills several processes is split into single events, and the event that still kills them is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from mitmproxy_moesif.delivery.protocol import Frame, Plain

CRASH_LOOP = 3
"""After this many deaths in a row without progress, the first frame that the processes were given is the suspect."""


class Unsettled:
    """Frames in the order of their numbers. Several methods return the frames to send now."""

    def __init__(self) -> None:
        self.bytes = 0
        self._in_crash_loop = False
        self._frames: deque[Frame] = deque()
        self._number = 0
        self._deaths = 0
        self._reached = 0
        self._suspect: Frame | None = None

    def __bool__(self) -> bool:
        return bool(self._frames)

    @property
    def since(self) -> float | None:
        """When the oldest was captured, in monotonic seconds. From any thread."""
        try:
            return self._frames[0].since
        except IndexError:
            return None

    def add(self, exchanges: Sequence[tuple[int, Plain]], since: float) -> list[Frame]:
        """Keep exchanges, each given with the key of its instance, as one frame; the oldest was captured at `since`."""
        frame = Frame.of(self._number + 1, exchanges, since)
        self._number = frame.last
        self._frames.append(frame)
        self.bytes += frame.size
        return self.next_suspect() if self._in_crash_loop else [frame]

    def settle(self, number: int) -> None:
        """Forget the frames up to exchange `number`."""
        while self._frames and self._frames[0].last <= number:
            self.bytes -= self._frames.popleft().size

    def next_suspect(self) -> list[Frame]:
        """In a crash loop, the next frame once the previous one is settled. The loop is over when none is left."""
        if not self._frames:
            self._in_crash_loop = False
        if not self._in_crash_loop or self._frames[0] is self._suspect:
            return []
        self._suspect = self._frames[0]
        return [self._suspect]

    def died(self, settled: int, *, reported: bool) -> Frame | None:
        """The process died, with or without a report, after settling all exchanges up to number `settled`.

        Returns the poison event once it is found; it is dropped.
        """
        self.settle(settled)
        done, self._reached = settled > self._reached, settled
        if self._frames and self._frames[0].first <= settled:  # the successor must not get the settled part again
            whole = self._frames.popleft()
            self._frames.appendleft(whole.after(settled))
            self.bytes += self._frames[0].size - whole.size
        if reported:
            self._deaths = 0 if done or not self._frames else self._deaths + 1
        return self._split_suspect() if self._deaths >= CRASH_LOOP else None

    def _split_suspect(self) -> Frame | None:
        suspect = self._frames.popleft()
        if suspect.events > 1:
            self._frames.extendleft(reversed(suspect.one_by_one()))
            self._deaths = 1
            return None
        self._deaths = 0
        self._reached = suspect.last
        self.bytes -= suspect.size
        return suspect

    def for_successor(self) -> list[Frame]:
        """All frames; only the first in a crash loop."""
        self._in_crash_loop = self._deaths > 0
        self._suspect = self._frames[0] if self._frames else None
        return list(islice(self._frames, 1 if self._in_crash_loop else None))

    def leave_crash_loop(self) -> list[Frame]:
        """The proxy ends: returns the frames that were held back."""
        if not self._in_crash_loop:
            return []
        self._in_crash_loop = False
        first_was_sent = bool(self._frames) and self._frames[0] is self._suspect
        return list(islice(self._frames, int(first_was_sent), None))
