"""SIGHUP, which kills a process that has no handler: blocked while a proxy starts, and ignored after it has ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from mitmproxy_moesif.interrupts import quiet_wakeups

HANGUP = frozenset({signal.SIGHUP})


def hold() -> None:
    """Block SIGHUP until `heed`, also in child processes. Call while there is only one thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)


def heed(act: Callable[[], None]) -> None:
    """Call `act` on the running event loop for each SIGHUP.

    asyncio's own handlers are not used: they are removed with their loop, and the next signal would end the process.
    """
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(act))
    quiet_wakeups()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)


def ignore() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
