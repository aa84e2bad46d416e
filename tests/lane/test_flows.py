"""Flows and messages as mitmproxy's own constructors make them."""

from __future__ import annotations

import time
import uuid

from mitmproxy import http
from mitmproxy.connection import Client, Server

from mitmproxy_moesif.lane.flows import Identifiers, new_flow, new_request, new_response

FIELDS = ((b"Host", b"h"), (b"X", b"\xff"))


def test_a_request_is_what_mitmproxys_constructor_makes() -> None:
    stock = http.Request("h", 80, b"GET", b"http", b"", b"/a", b"HTTP/1.1", http.Headers(FIELDS), None, None, 1.0, None)
    ours = new_request("h", 80, b"GET", b"/a", b"HTTP/1.1", FIELDS, 1.0)
    assert vars(ours.data) == vars(stock.data)
    assert vars(ours).keys() == vars(stock).keys()
    assert ours.copy().get_state() == stock.get_state()


def test_a_response_is_what_mitmproxys_constructor_makes() -> None:
    stock = http.Response(b"HTTP/1.1", 200, b"OK", http.Headers(FIELDS), None, None, time.time(), None)
    ours = new_response(b"HTTP/1.1", 200, b"OK", FIELDS)
    assert vars(ours.data) | {"timestamp_start": 0} == vars(stock.data) | {"timestamp_start": 0}
    assert vars(ours).keys() == vars(stock).keys()
    assert stock.timestamp_start <= ours.timestamp_start <= time.time()


def test_a_flow_is_what_mitmproxys_constructor_makes() -> None:
    client, server = Client(peername=("::1", 1), sockname=("::1", 2)), Server(address=("h", 80))
    request = new_request("h", 80, b"GET", b"/a", b"HTTP/1.1", FIELDS, 1.0)
    stock = http.HTTPFlow(client, server, live=True)
    stock.request = request
    ours = new_flow(stock.id, client, server, request)
    assert vars(ours) | {"timestamp_created": 0} == vars(stock) | {"timestamp_created": 0}
    assert ours.metadata is not new_flow(stock.id, client, server, request).metadata


def test_identifiers_are_random_uuids() -> None:
    identifiers = Identifiers()
    made = [identifiers.next() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(str(uuid.UUID(one)) == one and uuid.UUID(one).version == 4 for one in made)
    assert {one[19] for one in made} == set("89ab")
