"""One end of a connection: everything sent while an event is handled goes out together at its end."""

from __future__ import annotations

import asyncio

from mitmproxy_moesif.speedups.inline import WRITE_TOGETHER

AT_ONCE = 64
"""Read steps before the connection yields to others on the event loop."""


class Writing:
    """One end of a connection. `out` is data that waits for `flush`."""

    __slots__ = ("_is_paused", "out", "transport")

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self._is_paused = False

    def pause(self, *, wanted: bool) -> None:
        """Stop reading, or resume."""
        if wanted is self._is_paused or self.transport.is_closing():
            return
        self._is_paused = wanted
        if wanted:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def send(self, data: bytes) -> None:
        self.out.append(data)

    def flush(self) -> None:
        out = self.out
        if not out:
            return
        self.out = []
        if self.transport.is_closing():
            return
        if len(out) == 1:
            self.transport.write(out[0])
        elif sum(map(len, out)) <= WRITE_TOGETHER:
            self.transport.write(b"".join(out))
        else:
            self.transport.writelines(out)
