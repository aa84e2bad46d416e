"""What one client connection takes does not grow with its requests, and a failure is not remembered."""

from __future__ import annotations

from pathlib import Path

from tests.support.addon import addon_options
from tests.support.collector import ScriptedCollector
from tests.support.h2 import H2Client, get, make_pem
from tests.support.moesif_proxy import MoesifProxy
from tests.support.proxy import Option
from tests.support.upstream import ScriptedUpstream

AT_ONCE = 20
MEMORY = 8_000_000
"""Half of what 3,000 connections took."""


def test_the_requests_of_an_http2_client_leave_nothing_behind(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    options: dict[str, Option] = {**addon_options(enabled=False), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        client.exchange_all([get("/")] * AT_ONCE)
        before = proxy.memory()
        for _ in range(3000 // AT_ONCE):
            assert {answer.status for answer in client.exchange_all([get("/")] * AT_ONCE)} == {200}
        assert proxy.memory() - before < MEMORY


def test_an_http2_client_is_served_again_when_the_upstream_is(
    collector: ScriptedCollector, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    options: dict[str, Option] = {**addon_options(collector), "http2": True}
    with (
        MoesifProxy(upstream.url, options, "--tls-cert", str(make_pem(tmp_path))) as proxy,
        H2Client(proxy.port) as client,
    ):
        assert client.exchange("GET", "/").status == 200
        upstream.refuse()
        assert [client.exchange("GET", "/").status for _ in range(3)] == [502] * 3
        upstream.listen()
        assert [client.exchange("GET", "/").status for _ in range(3)] == [200] * 3
        assert [event["response"]["status"] for event in collector.wait_for(7)].count(502) == 3
