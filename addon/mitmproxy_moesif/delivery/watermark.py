"""Logs once when the memory for waiting events is nearly full, and once when there is room again."""

from __future__ import annotations

from mitmproxy_moesif.log import log


class Watermark:
    """The two thresholds are far apart, so that a queue at its limit does not flood the log."""

    def __init__(self) -> None:
        self._nearly_full = False

    def tell(self, waiting: int, most: int, *, dropped: bool) -> None:
        """Call after each new event: `waiting` events of at most `most`; `dropped`: there was no room for this one."""
        if not self._nearly_full and (dropped or waiting * 5 > most * 4):
            self._nearly_full = True
            log.warning("moesif: the queue is over 80 % full; past its limits new events are dropped, and counted")
        elif self._nearly_full and waiting * 2 < most and not dropped:
            self._nearly_full = False
            log.info("moesif: the queue has room again")
