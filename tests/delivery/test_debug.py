"""What `moesif_debug` has the log say of each exchange."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

HOOKS = "def skip(exchange): return 'hooked' in exchange.target\n"


@pytest.mark.parametrize("background", ["process", "threads"])
def test_each_exchange_is_told_with_why_there_is_no_event(
    background: str,
    moesif_proxy: Callable[..., Mitmdump],
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
    tmp_path: Path,
) -> None:
    hooks = tmp_path / "hooks.py"
    hooks.write_text(HOOKS)
    options = addon_options(collector, debug=True, skip="~u /filtered", hooks=str(hooks), background=background)
    proxy = moesif_proxy(upstream.url, options)
    for target in ("/sent?SECRET", "/filtered?SECRET", "/hooked?SECRET"):
        exchange(proxy.port, "GET", target, [("X-Consumer-Username", "ada")])
    exchange(proxy.port, "GET", "/two", [("Host", "h"), ("Host", "g")])
    collector.wait_for(1)
    assert proxy.stop() == 0
    told = sorted(re.findall(r"moesif: (queued event|no event of) [0-9a-f-]{36}(?:, \d+ bytes)?: (.*)", proxy.output))
    assert told == [
        ("no event of", "'GET' 'api.example.com/filtered', status 200: skip"),
        ("no event of", "'GET' 'api.example.com/hooked', status 200, user 'ada': skipped"),
        ("no event of", "'GET' 'h/two', status 400: refused_head"),
        ("queued event", "'GET' 'api.example.com/sent', status 200, user 'ada'"),
    ]
    assert "SECRET" not in proxy.output


def test_what_sampling_leaves_out_is_told_and_nothing_where_debug_is_off(
    moesif_proxy: Callable[..., Mitmdump], collector: ScriptedCollector, upstream: ScriptedUpstream
) -> None:
    for debug in (True, False):
        proxy = moesif_proxy(upstream.url, addon_options(collector, debug=debug, sample_rate=0, skip="~u /filtered"))
        exchange(proxy.port, "GET", "/x")
        exchange(proxy.port, "GET", "/filtered")
        assert proxy.stop() == 0
        assert ("status 200: sampled_out" in proxy.output) is debug
        assert ("status 200: skip" in proxy.output) is debug
