from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.moesif_proxy import MoesifProxy
from tests.support.ports import free_port
from tests.support.proxy import Option
from tests.support.upstream import ScriptedUpstream

Start = Callable[..., MoesifProxy]


@pytest.fixture
def start(
    moesif_proxy: Start, collector: ScriptedCollector, upstream: ScriptedUpstream
) -> Callable[..., tuple[MoesifProxy, str]]:
    """Workers with an admin listener; the proxy, and the listener's URL."""

    def started(*arguments: str, workers: int = 2, **options: Option) -> tuple[MoesifProxy, str]:
        port = free_port()
        given = addon_options(collector, admin_listen=f"127.0.0.1:{port}", **options)
        return moesif_proxy(upstream.url, given, *arguments, workers=workers), f"http://127.0.0.1:{port}"

    return started
