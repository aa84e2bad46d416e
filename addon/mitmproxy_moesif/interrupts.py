"""Handle Ctrl-C while a program starts and after it has ended: print one line, no traceback.

Import and call this before anything that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

NOTHING_YET = "moesif: interrupted before it had started: nothing was captured"


def exit_code(number: int) -> int:
    """The exit code that shells report for a process killed by signal `number`."""
    return 128 + number


def end_at_once(last_words: str = NOTHING_YET) -> None:
    """From now on, Ctrl-C writes `last_words` and ends the process, until `take` installs another handler."""

    def end(number: int, _frame: object) -> None:
        with suppress(OSError):  # nobody reads standard error any more
            os.write(2, f"{last_words}\n".encode())
        os._exit(exit_code(number))

    signal.signal(signal.SIGINT, end)


@contextmanager
def held(*numbers: int) -> Iterator[None]:
    """Block these signals inside the `with` block; `take` unblocks Ctrl-C earlier.

    A KeyboardInterrupt could be raised in code that swallows it. Child processes started in the block inherit the mask.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take(act: Callable[[int], None]) -> None:
    """From now on, call `act` with Ctrl-C, SIGTERM and SIGHUP (a closed terminal), and with a Ctrl-C that was held.

    Under `nohup`, SIGHUP stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda given, _frame: act(given))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def taken(act: Callable[[int], None]) -> Iterator[None]:
    """Like `take`, until the end of the block."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    take(act)
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def ignore(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Ignore Ctrl-C and SIGTERM: the process is about to end anyway.

    When an event loop closes, it replaces its own Ctrl-C handler with one that raises, so that is removed first.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if loop is not None:
            loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def quiet_wakeups() -> None:
    """Do not warn when many signals fill the pipe that wakes the event loop: the loop wakes up anyway."""
    signal.set_wakeup_fd(signal.set_wakeup_fd(-1), warn_on_full_buffer=False)
