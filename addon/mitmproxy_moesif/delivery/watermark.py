"""Says once that the memory for waiting events fills up, and once that it is fine again."""

from __future__ import annotations

from mitmproxy_moesif.log import log


class Watermark:
    """Between the two lines lies a wide gap, so that a queue at its limit does not flood the log."""

    def __init__(self) -> None:
        self._nearly_full = False

    def tell(self, waiting: int, most: int, *, dropped: bool) -> None:
        """After each event that came: how many wait of at most how many, and whether this one found no room."""
        if not self._nearly_full and (dropped or waiting * 5 > most * 4):
            self._nearly_full = True
            log.warning("moesif: the queue is over 80 % full; past its limits new events are dropped, and counted")
        elif self._nearly_full and waiting * 2 < most and not dropped:
            self._nearly_full = False
            log.info("moesif: the queue has room again")
