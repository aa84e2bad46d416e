"""How long that which is due waits for the event loop, as a timer finds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_moesif.capture.delay import EVERY, LoopDelay
from tests.capture.test_traffic import traffic_of
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy, scripted
from tests.support.upstream import ScriptedUpstream

HOLDS_UP = """
import time


def request(flow):
    time.sleep(0.4)
"""


class Loop:
    """The timer of an event loop, whose time goes as the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def call_later(self, seconds: float, act: Callable[..., None], *given: Any) -> None:
        self.timers.append((self.now + seconds, act, given))

    def fire(self, late: float) -> None:
        (timer,) = self.timers
        self.timers.clear()
        self.now, act, given = timer[0] + late, timer[1], timer[2]
        act(*given)


def measured(*late: float) -> list[float]:
    loop, waits = Loop(), list[float]()
    delay = LoopDelay(waits.append, lambda: loop.now)
    delay.start(loop)  # type: ignore[arg-type]
    for seconds in late:
        loop.fire(seconds)
    delay.stop()
    return [round(wait, 6) for wait in waits]


def test_what_the_timer_is_late_is_what_others_wait() -> None:
    assert measured(0.0, 0.004, 0.0) == [0, 0.004, 0]


def test_moments_that_go_by_while_the_loop_is_held_up_count_too() -> None:
    assert measured(2.5 * EVERY, 0.001) == [0.25, 0.15, 0.05, 0.001]


def test_a_timer_that_is_early_waits_for_nothing() -> None:
    assert measured(-0.001) == [0]


def test_it_ends_when_it_is_told_to() -> None:
    loop, waits = Loop(), list[float]()
    delay = LoopDelay(waits.append, lambda: loop.now)
    delay.start(loop)  # type: ignore[arg-type]
    delay.stop()
    loop.fire(0.0)
    assert (len(waits), loop.timers) == (1, [])


@pytest.mark.parametrize("engine", ["mitmproxy", "fast"])
def test_a_hook_that_holds_up_the_proxy_is_added_latency(
    engine: str, collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options = addon_options(collector, admin_listen="127.0.0.1:0", engine=engine)
    with MoesifProxy(upstream.url, options, *scripted(tmp_path, HOLDS_UP)) as proxy:
        while not traffic_of(proxy)["added"]["buckets"]["+Inf"]:
            pass  # it has just started
        for _ in range(3):
            assert exchange(proxy.port)
        added = traffic_of(proxy)["added"]
    late = added["buckets"]["+Inf"] - added["buckets"]["0.1"]
    assert late >= 3 * 2
    assert added["sum"] >= 3 * (0.3 + 0.2 + 0.1)
