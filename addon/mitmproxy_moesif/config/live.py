"""Changes options while the proxy runs, from a thread other than the event loop's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any

from mitmproxy.exceptions import OptionsError
from mitmproxy.master import Master
from mitmproxy.optmanager import OptManager

from mitmproxy_moesif.config.options import UNSET
from mitmproxy_moesif.config.settings import AS_STARTED, SettingsError

APPLY_SECONDS = 5.0

type Prepare = Callable[[Mapping[str, Any]], None]
"""Called in the thread that requests a change, with the values about to be set; `UNSET` stands for the default."""


class LiveOptions:
    """Changes mitmproxy's options from another thread, on its event loop. Raises `SettingsError` if refused.

    `option` returns the name of a parameter's option.
    """

    def __init__(self, master: Master, option: Callable[[str], str], prepare: Prepare) -> None:
        self._master = master
        self._option = option
        self._prepare = prepare
        self._loop_thread = threading.get_ident()
        self._started: dict[str, Any] = {}

    def __call__(self, changes: dict[str, Any]) -> None:
        if threading.get_ident() != self._loop_thread:
            self._prepare({name: self._value(name, value) for name, value in changes.items()})
        self._on_loop(lambda: self._update(changes))

    def settle(self) -> None:
        """Wait until the loop has finished earlier work. Raises `SettingsError` if that takes too long."""
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
            except Exception as error:  # noqa: BLE001 - raised again in the requesting thread
                done.set_exception(error)
            else:
                done.set_result(None)

        self._master.event_loop.call_soon_threadsafe(run)
        try:
            done.result(APPLY_SECONDS)
        except FutureTimeoutError:
            if done.cancel():
                raise SettingsError("the proxy is too busy to take the change now") from None
            done.result()  # it has started in the meantime

    def _value(self, name: str, value: Any) -> Any:
        return self._started.get(self._option(name), UNSET) if value is AS_STARTED else value

    @property
    def names(self) -> Collection[str]:
        """The options that are currently changed. Call on the event loop."""
        return self._started.keys()

    def _update(self, changes: dict[str, Any]) -> None:
        options = self._master.options
        wanted = {self._option(name): self._value(name, value) for name, value in changes.items()}
        known = options._options  # noqa: SLF001
        started = {name: known[name].value for name in wanted} | self._started
        try:
            put(options, wanted)
        except OptionsError as error:
            raise SettingsError(str(error).removeprefix("moesif: ")) from None
        gone = {self._option(name) for name, value in changes.items() if value is AS_STARTED}
        self._started = {name: value for name, value in started.items() if name not in gone}


def put(options: OptManager, values: Mapping[str, Any], renewed: Collection[str] = ()) -> None:
    """Set options, all of them or none, and notify about these and the `renewed` ones. Raises `OptionsError`.

    Like mitmproxy's own `rollback`, but without its deep copy of all options, which blocks the loop for milliseconds.
    """
    known = options._options  # noqa: SLF001 - the only way to tell unset from default, and to restore it
    before = {name: known[name].value for name in values}
    try:
        for name, value in values.items():
            if value is UNSET:
                known[name].value = value
            else:
                known[name].set(value)
        options.changed.send(updated={*values, *renewed})
    except OptionsError:
        for name, value in before.items():
            known[name].value = value
        if values:
            with suppress(OptionsError):  # a refused renewal is refused again
                options.changed.send(updated=set(values))
        raise
