"""Options changed from a thread that is not the event loop's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mitmproxy import exceptions, optmanager

from mitmproxy_moesif.config import live
from mitmproxy_moesif.config.live import LiveOptions
from mitmproxy_moesif.config.settings import AS_STARTED, SettingsError


class Loop:
    """Holds back what it is given until `run`."""

    def __init__(self) -> None:
        self.given: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, work: Callable[[], None]) -> None:
        self.given.append(work)

    def run(self) -> None:
        for work in self.given:
            work()


@pytest.fixture
def options() -> optmanager.OptManager:
    made = optmanager.OptManager()
    made.add_option("x_name", str, "default", "")
    made.add_option("x_size", int, 50, "")
    return made


def test_a_change_that_was_too_late_is_never_made(
    options: optmanager.OptManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "APPLY_SECONDS", 0.01)
    loop = Loop()
    change = LiveOptions(cast(Any, SimpleNamespace(options=options, event_loop=loop)), "x_".__add__, lambda _: None)
    with pytest.raises(SettingsError, match="too busy"):
        asyncio.run(asyncio.to_thread(change, {"name": "late"}))
    loop.run()
    assert (options.x_name, set(change.names)) == ("default", set())


def test_an_option_goes_back_to_what_the_start_gave(options: optmanager.OptManager) -> None:
    change = LiveOptions(cast(Any, SimpleNamespace(options=options)), "x_".__add__, lambda _: None)
    assert threading.get_ident() == change._loop_thread
    options.update(x_name="given")
    change({"name": "first", "size": 1})
    change({"name": "second"})
    assert (options.x_name, options.x_size, set(change.names)) == ("second", 1, {"x_name", "x_size"})
    change({"name": AS_STARTED, "size": AS_STARTED})
    assert (options.x_name, options.x_size, set(change.names)) == ("given", 50, set())
    assert options._options["x_size"].value is optmanager.unset


def test_what_is_refused_changes_nothing(options: optmanager.OptManager) -> None:
    def refuse(updated: set[str]) -> None:
        if options.x_size == 0:
            raise exceptions.OptionsError("moesif: size: too small")

    options.changed.connect(refuse)
    change = LiveOptions(cast(Any, SimpleNamespace(options=options)), "x_".__add__, lambda _: None)
    change({"name": "first"})
    with pytest.raises(SettingsError, match=r"^size: too small$"):
        change({"size": 0, "name": AS_STARTED})
    assert (options.x_name, options.x_size, set(change.names)) == ("first", 50, {"x_name"})
