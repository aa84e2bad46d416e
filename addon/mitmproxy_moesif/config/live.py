"""Options changed while the proxy runs, from a thread that is not the event loop's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master

from mitmproxy_moesif.config.settings import SettingsError

APPLY_SECONDS = 5.0


class LiveOptions:
    """Changes mitmproxy's options from another thread, on its event loop. Raises `SettingsError` where refused."""

    def __init__(self, master: Master, prefix: str) -> None:
        self._master = master
        self._prefix = prefix
        self._loop_thread = threading.get_ident()

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
            raise SettingsError("the proxy is too busy to take the change now") from None

    def _update(self, changes: dict[str, Any]) -> None:
        try:
            self._master.options.update(**{self._prefix + name: value for name, value in changes.items()})
        except OptionsError as error:
            raise SettingsError(str(error).removeprefix("moesif: ")) from None
