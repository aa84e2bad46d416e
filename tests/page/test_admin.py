"""What the page asks of an admin listener, without a browser."""

from __future__ import annotations

import asyncio

import pytest

from mitmproxy_moesif.page.admin import Admin
from mitmproxy_moesif.web.access import Address, Gate
from tests.support import wire
from tests.support.upstream import ScriptedUpstream


@pytest.mark.parametrize("token", ["t0ken", "tökén", "ключ", " t0ken\n"])
def test_any_token_that_the_listener_takes_is_shown_to_it(token: str, upstream: ScriptedUpstream) -> None:
    upstream.answer("/exchanges", wire.response(200, [], b'{"exchanges": []}'))
    assert asyncio.run(Admin(upstream.url, token).trouble()) is None
    (asked,) = upstream.requests()
    gate = Gate(Address("127.0.0.1", 0), token)
    assert gate.refusal("GET", "/exchanges", "localhost", {"Authorization": asked.get("authorization") or ""}) is None


@pytest.mark.parametrize("token", [None, "", " \n"])
def test_none_is_shown_where_there_is_none(token: str | None, upstream: ScriptedUpstream) -> None:
    upstream.answer("/exchanges", wire.response(200, [], b'{"exchanges": []}'))
    assert asyncio.run(Admin(upstream.url, token).trouble()) is None
    (asked,) = upstream.requests()
    assert asked.get("authorization") is None
