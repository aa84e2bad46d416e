"""client -> addon -> Kong -> service: what the addon sees there, whom it believes, and what Kong sees of the client."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.support import wire
from tests.support.traffic import ID_HEADER
from tests.topology.kong import VERSION
from tests.topology.stations import ADA_KEY, CLIENT, PROXY, ClientFrom, Topology, in_front_of_kong

FORGED_CONSUMER = [
    ("X-Consumer-Custom-Id", "forged"),
    ("X-Consumer-Username", "forged"),
    ("X-Consumer-Id", "forged"),
]
FORGED_KONG = [
    *FORGED_CONSUMER,
    ("X-Kong-Request-Id", "forged"),
    ("X-Forwarded-Path", "/forged"),
    ("X-Forwarded-Host", "forged.example.com"),
    ("X-Forwarded-For", "203.0.113.66"),
    ("X-Real-IP", "203.0.113.66"),
]


@pytest.fixture(scope="module")
def told_nothing() -> Iterator[Topology]:
    """`position` is left at `auto`; no peer is one to believe."""
    with in_front_of_kong(trusted_ips=["192.0.2.0/24"]) as topology:
        yield topology


@pytest.fixture(scope="module")
def kong_trusts_the_proxy() -> Iterator[Topology]:
    with in_front_of_kong(position="front", kong_trusts=[f"{PROXY}/32"], user_id_header="X-User") as topology:
        yield topology


def bearer(**claims: str) -> tuple[str, str]:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return "Authorization", f"Bearer e30.{payload}.signature"


# --- what passes -----------------------------------------------------------------------------------------------------


def test_kong_routes_on_the_host_that_the_client_sent(front: Topology) -> None:
    seen = front.ask(target="/by-host/x", headers=[("Host", "Shop.example.com:8000")])
    assert seen.answer.status == 200
    assert seen.service.target == "/x"
    assert seen.service.get("x-forwarded-host") == "shop.example.com"
    assert seen.event["request"]["uri"] == "http://Shop.example.com:8000/by-host/x"
    elsewhere = front.ask(target="/by-host/x", headers=[("Host", "else.example.com")])
    assert elsewhere.answer.status == 404
    assert elsewhere.asked is None


def test_the_service_gets_what_kong_sends_without_the_addon_and_the_id(front: Topology) -> None:
    headers = [("apikey", ADA_KEY), ("X-Own", "1")]
    target = "/orders/a%20b//c?x=%C3%A9&x=2"
    with_addon = front.ask(target=target, headers=headers)
    with ClientFrom(front.kong.port, CLIENT) as client:
        client.exchange("GET", target, headers)
    without = front.service.requests()[-1]
    asked = with_addon.service
    assert asked.target == without.target == "/a%20b//c?x=%C3%A9&x=2"
    differing = {ID_HEADER, "x-kong-request-id", "x-forwarded-for", "x-real-ip"}
    assert [pair for pair in asked.headers if pair[0].lower() not in differing] == [
        pair for pair in without.headers if pair[0].lower() not in differing
    ]
    assert with_addon.answer.get_all("via") == [f"1.1 kong/{VERSION}"]


# --- metadata --------------------------------------------------------------------------------------------------------


def test_an_answer_that_kong_passed_on(front: Topology) -> None:
    """Its `Server` is the service's own, so that `Via` alone names Kong's version."""
    front.service.answer("/served", wire.response(200, [("Server", "gunicorn")]))
    seen = front.ask(target="/orders/served?x=1", headers=[("apikey", ADA_KEY)])
    assert seen.event["response"]["status"] == 200
    assert seen.event["request"]["uri"] == "http://api.example.com/orders/served?x=1"
    assert seen.answer.get("server") == "gunicorn"
    assert seen.kong == {
        "request_id": seen.service.get("x-kong-request-id"),
        "upstream_latency_ms": int(seen.answer.get("x-kong-upstream-latency") or "none"),
        "proxy_latency_ms": int(seen.answer.get("x-kong-proxy-latency") or "none"),
        "version": VERSION,
    }


@pytest.mark.parametrize(
    ("target", "headers", "status", "message"),
    [
        ("/orders/7", [], 401, "No API key found in request"),
        ("/orders/7", [("apikey", "nobody's")], 401, "Unauthorized"),
        ("/nowhere", [], 404, "no Route matched with those values"),
        ("/limited", [], 429, "API rate limit exceeded"),
    ],
)
def test_what_kong_answers_itself_is_an_event(
    target: str, headers: wire.Pairs, status: int, message: str, front: Topology
) -> None:
    if target == "/limited":
        assert front.ask(target=target).answer.status == 200
    seen = front.ask(target=target, headers=headers)
    assert seen.asked is None
    response = seen.event["response"]
    assert response["status"] == seen.answer.status == status
    assert response["body"] == {"message": message, "request_id": seen.answer.get("x-kong-request-id")}
    assert response["headers"]["x-kong-response-latency"] == seen.answer.get("x-kong-response-latency")
    assert seen.kong == {"request_id": seen.answer.get("x-kong-request-id"), "version": VERSION}


def test_without_a_position_kong_is_known_by_its_answers(told_nothing: Topology) -> None:
    passed_on = told_nothing.ask(target="/open")
    assert passed_on.kong is not None
    assert passed_on.kong.keys() == {"request_id", "upstream_latency_ms", "proxy_latency_ms", "version"}
    assert told_nothing.ask(target="/nowhere").kong is not None


# --- who called ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/orders/7", "/open", "/guests", "/nowhere"])
def test_a_client_that_says_it_is_a_consumer_is_not_believed(target: str, front: Topology) -> None:
    seen = front.ask(target=target, headers=[("apikey", ADA_KEY), *FORGED_CONSUMER])
    assert "user_id" not in seen.event
    assert seen.event["request"]["headers"]["x-consumer-username"] == "forged"


@pytest.mark.parametrize("topology", ["front", "told_nothing"])
def test_a_consumer_that_kong_names_on_its_answer(topology: str, request: pytest.FixtureRequest) -> None:
    station: Topology = request.getfixturevalue(topology)
    station.service.answer("/named", wire.response(200, [("X-Consumer-Custom-Id", "customer-42")]))
    assert station.ask(target="/open/named", headers=FORGED_KONG).event["user_id"] == "customer-42"


@pytest.mark.parametrize("topology", ["front", "told_nothing"])
def test_a_client_that_says_it_is_kong_is_not_believed(topology: str, request: pytest.FixtureRequest) -> None:
    seen = request.getfixturevalue(topology).ask(target="/open/x", headers=FORGED_KONG)
    assert "user_id" not in seen.event
    assert seen.event["request"]["uri"] == "http://api.example.com/open/x"
    assert seen.kong is not None
    assert seen.kong["request_id"] == seen.answer.get("x-kong-request-id") != "forged"


def test_an_anonymous_consumer_that_kong_names_on_its_answer_is_nobody(front: Topology) -> None:
    headers = [("X-Consumer-Username", "guest"), ("X-Anonymous-Consumer", "true")]
    front.service.answer("/guest", wire.response(200, headers))
    assert "user_id" not in front.ask(target="/open/guest").event


def test_the_user_of_a_token(front: Topology) -> None:
    seen = front.ask(target="/open", headers=[bearer(sub="ada"), *FORGED_CONSUMER])
    assert seen.event["user_id"] == "ada"
    assert front.ask(target="/nowhere", headers=[bearer(sub="bob")]).event["user_id"] == "bob"


def test_the_user_of_a_header_of_request_or_answer(kong_trusts_the_proxy: Topology) -> None:
    topology = kong_trusts_the_proxy
    seen = topology.ask(target="/open", headers=[("X-User", "ada"), bearer(sub="token's")])
    assert seen.event["user_id"] == "ada"
    topology.service.answer("/user", wire.response(200, [("X-User", "bob")]))
    assert topology.ask(target="/open/user").event["user_id"] == "bob"


# --- from where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["front", "kong_trusts_the_proxy"])
def test_under_plain_mitmdump_kong_takes_the_proxy_for_the_client(
    topology: str, request: pytest.FixtureRequest
) -> None:
    """mitmproxy adds no X-Forwarded-For, so nothing tells Kong otherwise, whatever it trusts; the event knows."""
    seen = request.getfixturevalue(topology).ask(target="/open")
    assert seen.event["request"]["ip_address"] == CLIENT
    assert seen.service.get("x-real-ip") == PROXY
    assert seen.service.get("x-forwarded-for") == PROXY


def test_a_load_balancer_before_the_addon_is_heard_by_both(kong_trusts_the_proxy: Topology) -> None:
    seen = kong_trusts_the_proxy.ask(target="/open", headers=[("X-Forwarded-For", "203.0.113.9")])
    assert seen.event["request"]["ip_address"] == "203.0.113.9"
    assert seen.service.get("x-real-ip") == "203.0.113.9"
    assert seen.service.get("x-forwarded-for") == f"203.0.113.9, {PROXY}"


def test_peers_that_are_not_trusted_say_nothing_about_the_client(told_nothing: Topology) -> None:
    seen = told_nothing.ask(target="/open", headers=[("X-Forwarded-For", "203.0.113.9"), ("X-Real-IP", "203.0.113.9")])
    assert seen.event["request"]["ip_address"] == CLIENT
