"""Which lane carries what is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests

from tests.support.client import Client, exchange
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Mitmdump, Option
from tests.support.upstream import ScriptedUpstream


def engines(proxy: Mitmdump) -> dict[str, int]:
    found = re.search(r"Admin API at (\S+)", proxy.output)
    assert found is not None
    counts: dict[str, int] = requests.get(f"{found[1]}/status", timeout=10).json()["engines"]
    return counts


def options(folder: Path, **more: Option) -> dict[str, Option]:
    return {"moesif_sink_file": str(folder / "events"), "moesif_admin_listen": "127.0.0.1:0"} | more


def test_exchanges_are_counted_by_what_carries_them(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with MoesifProxy(upstream.url, options(tmp_path, moesif_engine="fast")) as proxy:
        for _ in range(3):
            assert exchange(proxy.port, "GET", "/") is not None
        with Client(proxy.port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: other\r\n\r\n")
            assert client.read_response() is not None
        assert engines(proxy) == {"fast": 3, "mitmproxy": 1}


@pytest.mark.parametrize(("engine", "fast"), [("auto", 1), ("fast", 1), ("mitmproxy", 0)])
def test_it_serves_unless_the_layers_are_asked_for(
    engine: str, fast: int, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with MoesifProxy(upstream.url, options(tmp_path, moesif_engine=engine)) as proxy:
        assert exchange(proxy.port, "GET", "/") is not None
        assert engines(proxy) == {"fast": fast, "mitmproxy": 1 - fast}


@pytest.mark.parametrize(("engine", "is_told"), [("auto", False), ("fast", True)])
def test_the_log_says_why_it_does_not_serve_where_it_was_asked_for(
    engine: str, is_told: bool, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    given = options(tmp_path, moesif_engine=engine, connection_strategy="eager")
    with MoesifProxy(upstream.url, given) as proxy:
        assert exchange(proxy.port, "GET", "/") is not None
        assert engines(proxy) == {"fast": 0, "mitmproxy": 1}
        assert ("leaves connections to mitmproxy's layers: connection_strategy: " in proxy.output) is is_told
