"""What the original Kong plugin made of recorded exchanges, through the real mitmdump."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import conformance_file, wire
from tests.support.addon import addon_options
from tests.support.client import exchange
from tests.support.collector import Event, ScriptedCollector
from tests.support.proxy import Mitmdump
from tests.support.upstream import ScriptedUpstream

Case = dict[str, Any]


def _cases() -> list[Case]:
    cases: list[Case] = json.loads(conformance_file("events.json").read_text())
    return cases


def _configuration(case: Case) -> str:
    return json.dumps(case["config"], sort_keys=True)


def _by_configuration() -> Iterator[Any]:
    """Cases with the same configuration share one proxy."""
    for configuration, group in groupby(sorted(_cases(), key=_configuration), key=_configuration):
        cases = list(group)
        yield pytest.param(json.loads(configuration), cases, id="+".join(case["name"] for case in cases)[:80])


@pytest.mark.parametrize(("config", "cases"), list(_by_configuration()))
def test_events_agree_with_the_original_plugin(
    config: dict[str, Any],
    cases: list[Case],
    mitmdump: Callable[..., Mitmdump],
    collector: ScriptedCollector,
    upstream: ScriptedUpstream,
) -> None:
    proxy = mitmdump(upstream.url, addon_options(collector, **config))
    for number, case in enumerate(cases):
        _send(case, proxy, upstream)
        events = collector.wait_for(number + 1)
        _compare(case, events[-1])


def _send(case: Case, proxy: Mitmdump, upstream: ScriptedUpstream) -> None:
    request, response = case["request"], case["response"]
    body = _bytes(response.get("body"))
    raw = wire.response(response["status"], response["headers"], body, chunked=response.get("chunked", False))
    upstream.handler = lambda _request, connection: connection.send(raw)
    answer = exchange(
        proxy.port,
        request["method"],
        request["target"],
        request["headers"],
        _bytes(request["body"]) if "body" in request else None,
        chunked=request.get("chunked", False),
    )
    assert answer is not None
    assert answer.status == response["status"]
    assert answer.body == body


def _bytes(body: Any) -> bytes:
    if body is None:
        return b""
    return base64.b64decode(body["b64"]) if isinstance(body, dict) else body.encode()


def _compare(case: Case, event: Event) -> None:
    expected = case["expect"]
    for name in ("user_id", "company_id", "direction", "weight"):
        assert event.get(name) == expected[name], name
    for side in ("request", "response"):
        _compare_side(expected[side], event[side])
        names = {name.lower() for name in event[side]["headers"]}
        for masked in case.get("masked_headers", {}).get(side, []):
            assert masked not in names
            assert "x-keep" in names
        assert case.get("forbid_header", "-") not in names


def _compare_side(expected: dict[str, Any], side: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name == "path":
            uri = urlsplit(side["uri"])
            assert f"{uri.path}{'?' if uri.query else ''}{uri.query}" == value
            assert uri.netloc == "api.example.com"
        else:
            assert side.get(name) == value, name
