"""client -> Kong -> addon -> service: consumers, the public URI, the client's address, and what Kong lets through."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.support import wire
from tests.support.collector import Event
from tests.support.traffic import ID_HEADER
from tests.topology.kong import Consumer
from tests.topology.nginx import KONG_ADDRESS, KongLikeNginx
from tests.topology.stations import (
    ADA_KEY,
    CLIENT,
    KONG,
    PROXY,
    ClientFrom,
    Topology,
    behind_kong,
    event_of,
)

NAMELESS = Consumer()
FORGED = [("X-Consumer-Id", "f"), ("X-Consumer-Username", "f"), ("X-Consumer-Custom-Id", "f")]


@pytest.fixture(scope="module")
def careful() -> Iterator[Topology]:
    """Kong alone is believed, and what is secret is masked: as the README advises."""
    with behind_kong(
        position="behind",
        trusted_ips=[f"{KONG_ADDRESS}/32"],
        request_header_masks=["apikey"],
        request_query_masks=["apikey"],
    ) as topology:
        yield topology


@pytest.fixture(scope="module")
def told_front() -> Iterator[Topology]:
    with behind_kong(position="front") as topology:
        yield topology


def direct(topology: Topology, target: str, headers: wire.Pairs, address: str = PROXY) -> Event:
    """The event of a request that goes past Kong."""
    with ClientFrom(topology.proxy.port, address) as client:
        answer = client.exchange("GET", target, headers)
    assert answer is not None
    return event_of(topology.collector, answer.get(ID_HEADER) or "")


# --- what passes -----------------------------------------------------------------------------------------------------


def test_the_service_gets_what_kong_sends_and_the_id(behind: Topology) -> None:
    headers = [("apikey", ADA_KEY), ("X-Own", "1")]
    seen = behind.ask(target="/orders/a%20b?x=%C3%A9&x=2", headers=headers)
    with KongLikeNginx(behind.service.port, KONG) as kong, ClientFrom(kong.port, CLIENT) as client:
        client.exchange("GET", "/orders/a%20b?x=%C3%A9&x=2", headers)
    without = behind.service.requests()[-1]
    assert seen.service.target == without.target == "/a%20b?x=%C3%A9&x=2"
    differing = {"host", "x-kong-request-id", "x-forwarded-port"}
    assert [pair for pair in seen.service.headers if pair[0].lower() not in {*differing, ID_HEADER}] == [
        pair for pair in without.headers if pair[0].lower() not in differing
    ]
    assert [name for name, _ in seen.service.headers if name.lower() != ID_HEADER] == [n for n, _ in without.headers]


@pytest.mark.parametrize(("target", "status"), [("/orders/7", 401), ("/nowhere", 404)])
def test_what_kong_answers_itself_is_not_seen(target: str, status: int, behind: Topology) -> None:
    asked = len(behind.service.requests())
    answer = behind.send(target=target)
    assert answer.status == status
    assert answer.get(ID_HEADER) is None
    assert len(behind.service.requests()) == asked


def test_metadata_of_kong(behind: Topology) -> None:
    """Its latencies are on the answer that the client gets, after the addon."""
    seen = behind.ask(target="/open")
    assert seen.kong is not None
    assert seen.kong["request_id"] == seen.answer.get("x-kong-request-id")
    assert not seen.kong.keys() & {"upstream_latency_ms", "proxy_latency_ms"}


# --- who called ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "user"),
    [
        (ADA_KEY, "customer-42"),
        ("key-of-bob", "bob"),
        ("key-of-7", "customer-7"),
        ("key-of-nameless", NAMELESS.id),
    ],
)
@pytest.mark.parametrize("topology", ["behind", "careful"])
def test_the_user_is_kongs_consumer(topology: str, key: str, user: str, request: pytest.FixtureRequest) -> None:
    seen = request.getfixturevalue(topology).ask(target="/orders/7", headers=[("apikey", key), *FORGED])
    assert seen.event["user_id"] == user


@pytest.mark.parametrize("target", ["/guests", "/catalogue"])
def test_the_anonymous_consumer_is_nobody(target: str, behind: Topology) -> None:
    seen = behind.ask(target=target, headers=FORGED)
    assert seen.service.get("x-consumer-username") == "guest"
    assert "user_id" not in seen.event
    payload = base64.urlsafe_b64encode(json.dumps({"sub": "token's"}).encode()).decode()
    seen = behind.ask(target=target, headers=[("Authorization", f"Bearer e30.{payload}.s")])
    assert seen.event["user_id"] == "token's"
    assert behind.ask(target=target, headers=[("apikey", "key-of-bob")]).event["user_id"] == "bob"


@pytest.mark.parametrize("topology", ["behind", "careful"])
def test_without_an_authentication_plugin_kong_passes_what_a_client_says(
    topology: str, request: pytest.FixtureRequest
) -> None:
    """Kong clears nothing there, so that it comes from Kong. Documented: each route wants an authentication plugin."""
    seen = request.getfixturevalue(topology).ask(target="/open", headers=FORGED)
    assert seen.event["user_id"] == "f"


def test_past_kong_nobody_is_believed(careful: Topology) -> None:
    forged = [*FORGED, ("X-Kong-Request-Id", "f"), ("X-Real-IP", "203.0.113.66"), ("X-Forwarded-Path", "/forged")]
    event = direct(careful, "/x", [*forged, ("X-Forwarded-For", "203.0.113.66")])
    assert "user_id" not in event
    assert event["request"]["ip_address"] == PROXY
    assert event["request"]["uri"] == "http://api.example.com/x"


def test_without_a_position_and_without_kong_consumers_are_believed(behind: Topology) -> None:
    event = direct(behind, "/x", [("X-Consumer-Username", "ada")])
    assert event["user_id"] == "ada"
    assert "kong" not in event.get("metadata", {})


# --- the public URI --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["behind", "careful"])
@pytest.mark.parametrize(
    ("target", "arrives"),
    [
        ("/open/7", "/7"),
        ("/open", "/"),
        ("/open/", "/"),
        ("/open/a%2Fb%20c/caf%C3%A9?x=%20&y=/open", "/a%2Fb%20c/caf%C3%A9?x=%20&y=/open"),
        ("/kept/7?x=1", "/kept/7?x=1"),
    ],
)
def test_the_uri_is_the_one_that_the_client_called(
    target: str, arrives: str, topology: str, request: pytest.FixtureRequest
) -> None:
    station = request.getfixturevalue(topology)
    seen = station.ask(target=target, headers=[("Host", "API.example.com")])
    assert seen.service.target == arrives
    assert seen.event["request"]["uri"] == f"http://api.example.com:{station.kong.port}{target}"


def test_the_port_is_kongs_whatever_the_host_says(behind: Topology) -> None:
    """Kong's X-Forwarded-Host has no port, and its X-Forwarded-Port is the one it listens on."""
    seen = behind.ask(target="/open", headers=[("Host", "api.example.com:9999")])
    assert seen.event["request"]["uri"] == f"http://api.example.com:{behind.kong.port}/open"


def test_the_public_uri_before_a_load_balancer(behind: Topology) -> None:
    """Where Kong believes the load balancer it passes on what that said; else it is the URI that Kong was asked for."""
    headers = [
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.example.com"),
        ("X-Forwarded-Port", "443"),
        ("X-Forwarded-Path", "/v1/open/7"),
        ("X-Forwarded-Prefix", "/v1/open"),
    ]
    distrusted = behind.ask(target="/open/7?x=1", headers=headers)
    assert distrusted.event["request"]["uri"] == f"http://api.example.com:{behind.kong.port}/open/7?x=1"
    with KongLikeNginx(behind.proxy.port, KONG, trusted_ips=[f"{CLIENT}/32"]) as trusting:
        topology = Topology(behind.collector, behind.service, trusting, behind.proxy, trusting)
        trusted = topology.ask(target="/open/7?x=1", headers=headers)
    assert trusted.event["request"]["uri"] == "https://shop.example.com/v1/open/7?x=1"


# --- from where ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", ["behind", "careful"])
def test_the_address_of_the_client(topology: str, request: pytest.FixtureRequest) -> None:
    seen = request.getfixturevalue(topology).ask(target="/open")
    assert seen.service.get("x-forwarded-for") == seen.service.get("x-real-ip") == CLIENT
    assert seen.event["request"]["ip_address"] == CLIENT


def test_with_all_trusted_the_leftmost_forwarded_address_counts(behind: Topology) -> None:
    """As in Moesif's plugins. A client can forge it: Kong appends to what it was sent, whoever sent it."""
    seen = behind.ask(target="/open", headers=[("X-Forwarded-For", "203.0.113.9")])
    assert seen.service.get("x-forwarded-for") == f"203.0.113.9, {CLIENT}"
    assert seen.event["request"]["ip_address"] == "203.0.113.9"


def test_with_kong_alone_trusted_its_own_view_counts(careful: Topology) -> None:
    forged = [("X-Forwarded-For", "203.0.113.9"), ("X-Client-Ip", "203.0.113.66"), ("X-Real-IP", "203.0.113.66")]
    assert careful.ask(target="/open", headers=forged).event["request"]["ip_address"] == CLIENT
    with KongLikeNginx(careful.proxy.port, KONG, trusted_ips=[f"{CLIENT}/32"]) as trusting:
        topology = Topology(careful.collector, careful.service, trusting, careful.proxy, trusting)
        seen = topology.ask(target="/open", headers=[("X-Forwarded-For", "203.0.113.66, 203.0.113.9")])
    assert seen.service.get("x-real-ip") == "203.0.113.9"
    assert seen.event["request"]["ip_address"] == "203.0.113.9"


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_that_kong_does_not_hide_reaches_the_event_in_the_query_alone(behind: Topology) -> None:
    seen = behind.ask(target="/keyed/7", headers=[("apikey", ADA_KEY)])
    assert "apikey" not in seen.event["request"]["headers"]
    seen = behind.ask(target=f"/keyed/7?apikey={ADA_KEY}")
    assert seen.event["request"]["uri"].endswith(f"/keyed/7?apikey={ADA_KEY}")


@pytest.mark.parametrize(("target", "headers"), [("/keyed", [("apikey", ADA_KEY)]), (f"/keyed?apikey={ADA_KEY}", [])])
def test_masked_the_key_passes_and_is_in_no_event(target: str, headers: wire.Pairs, careful: Topology) -> None:
    seen = careful.ask(target=target, headers=headers)
    assert ADA_KEY.encode() in seen.service.raw
    assert seen.event["user_id"] == "customer-42"
    assert ADA_KEY not in json.dumps(seen.event)


def test_where_kong_hides_the_key_there_is_none_to_mask(behind: Topology) -> None:
    seen = behind.ask(target=f"/orders/7?a=1&apikey={ADA_KEY}&b=2")
    assert seen.event["user_id"] == "customer-42"
    assert seen.event["request"]["uri"].endswith("/orders/7?a=1&b=2")
    assert ADA_KEY not in json.dumps(seen.event)


# --- position --------------------------------------------------------------------------------------------------------


def test_position_front_is_obeyed_behind_kong_too(told_front: Topology) -> None:
    """Nothing that comes with the request is believed then: neither who, nor the public URI."""
    seen = told_front.ask(target="/orders/7", headers=[("apikey", ADA_KEY)])
    assert "user_id" not in seen.event
    assert seen.event["request"]["uri"] == f"http://127.0.0.1:{told_front.proxy.port}/7"


def test_position_behind_is_obeyed_without_kongs_request_id(careful: Topology) -> None:
    """As with Kong's `headers_upstream=off`, before 3.5, or from a gateway that only says who called."""
    event = direct(
        careful,
        "/7?x=1",
        [("X-Consumer-Username", "ada"), ("X-Forwarded-Prefix", "/orders"), ("X-Real-IP", "203.0.113.9")],
        KONG_ADDRESS,
    )
    assert event["user_id"] == "ada"
    assert event["request"]["uri"] == "http://api.example.com/orders/7?x=1"
    assert event["request"]["ip_address"] == "203.0.113.9"


@pytest.mark.parametrize("sent", [None, "6e377cfc-2f1e-4fb0-9f36-b84cc75cc47e"])
def test_events_tell_the_id_that_the_service_was_told(sent: str | None, behind: Topology) -> None:
    seen = behind.ask(target="/open", headers=[(ID_HEADER, sent)] if sent else [])
    told = seen.event["transaction_id"] if sent is None else seen.event["metadata"]["client_transaction_id"]
    assert told == seen.service.get(ID_HEADER)
    assert told == (sent or told)
