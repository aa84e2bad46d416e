"""Options changed while the proxy runs, from a thread that is not the event loop's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master

from mitmproxy_moesif.config.settings import AS_STARTED, SettingsError

APPLY_SECONDS = 5.0


class LiveOptions:
    """Changes mitmproxy's options from another thread, on its event loop. Raises `SettingsError` where refused."""

    def __init__(self, master: Master, prefix: str) -> None:
        self._master = master
        self._prefix = prefix
        self._loop_thread = threading.get_ident()
        self._started: dict[str, Any] = {}

    def __call__(self, changes: dict[str, Any]) -> None:
        self._on_loop(lambda: self._update(changes))

    def settle(self) -> None:
        """Wait until the loop has done what it was given before. Raises `SettingsError` where that takes too long."""
        self._on_loop(lambda: None)

    def _on_loop(self, work: Callable[[], None]) -> None:
        if threading.get_ident() == self._loop_thread:
            work()
            return
        done: Future[None] = Future()

        def run() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
                done.set_exception(error)
            else:
                done.set_result(None)

        self._master.event_loop.call_soon_threadsafe(run)
        try:
            done.result(APPLY_SECONDS)
        except FutureTimeoutError:
            if done.cancel():
                raise SettingsError("the proxy is too busy to take the change now") from None
            done.result()  # it has begun meanwhile

    @property
    def names(self) -> Collection[str]:
        """The options that are changed. On the event loop."""
        return self._started.keys()

    def _update(self, changes: dict[str, Any]) -> None:
        options = self._master.options
        wanted = {self._prefix + name: value for name, value in changes.items()}
        known = options._options  # noqa: SLF001 - the only way to tell unset from default, and to go back to it
        started = {name: known[name].value for name in wanted} | self._started
        try:
            with options.rollback(set(wanted), reraise=True):
                for name, value in wanted.items():
                    if value is AS_STARTED:
                        known[name].value = started.pop(name)
                    else:
                        known[name].set(value)
                options.changed.send(updated=set(wanted))
        except OptionsError as error:
            raise SettingsError(str(error).removeprefix("moesif: ")) from None
        self._started = started
