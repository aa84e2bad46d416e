"""SIGHUP, which ends a process without a handler: held back while a proxy starts, and ignored when it has ended."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from mitmproxy_moesif.interrupts import quiet_wakeups

HANGUP = frozenset({signal.SIGHUP})


def hold() -> None:
    """From now on one waits for `heed`, also in processes that are started; to be called while there is one thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)


def heed(act: Callable[[], None]) -> None:
    """Call `act` on the running event loop for each. asyncio's own handlers end with their loop, and the process with
    the next signal."""
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(act))
    quiet_wakeups()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)


def ignore() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
