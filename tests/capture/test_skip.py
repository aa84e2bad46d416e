"""What `skip` leaves out, in time linear in what clients send."""

from __future__ import annotations

import pytest
from mitmproxy import flowfilter, http
from mitmproxy.test import tflow

from mitmproxy_moesif.capture.skip import parse_filter
from mitmproxy_moesif.config.settings import SettingsError


def request(path: str = "/", headers: tuple[tuple[bytes, bytes], ...] = (), method: bytes = b"GET") -> http.HTTPFlow:
    flow = tflow.tflow()
    flow.request.path = path
    flow.request.data.method = method
    flow.request.headers = http.Headers(headers)
    return flow


@pytest.mark.parametrize(
    "expression",
    [
        "~u /health",
        "~u ^http://[^/?]+/health$",
        "~m OPTIONS | ~u /health",
        "!(~u /orders) & !~m GET",
        "~hq 'x-kind: PROBE$'",
        "~t json",
        "~d ADDRESS",
        "~u \\?.*é",
        "~all",
    ],
)
def test_a_filter_matches_what_mitmproxys_own_does(expression: str) -> None:
    ours, stock = parse_filter(expression), flowfilter.parse(expression)
    assert ours is not None
    flows = [
        request("/health"),
        request("/HEALTH"),
        request("/orders?x=/health"),
        request("/x?café", method=b"OPTIONS"),
        request("/\udcff\udcfe?é"),
        request(headers=((b"X-Kind", b"probe"), (b"Content-Type", b"Application/JSON"))),
    ]
    assert [bool(ours(flow)) for flow in flows] == [bool(stock(flow)) for flow in flows]


def test_no_expression_backtracks() -> None:
    """In Python's engine this one GET holds the proxy for ever."""
    wanted = parse_filter("~u '/([a-z]+)+$' & !~u '(x+x+)+y'")
    assert wanted is not None
    assert not wanted(request("/" + "a" * 5000 + "!"))
    assert not wanted(request("/" + "x" * 1_000_000 + "!"))


@pytest.mark.parametrize("expression", [r"~u '/(?!static)'", r"~m GET | !~hq '(a)\\1'", "~u (", "~nonsense ("])
def test_what_cannot_be_taken_is_refused_by_name(expression: str) -> None:
    with pytest.raises(SettingsError, match=r"^skip: ") as refused:
        parse_filter(expression)
    assert "\n" not in str(refused.value)
