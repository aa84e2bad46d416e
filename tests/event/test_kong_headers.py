"""What headers tell about Kong: position, consumers, metadata, and the public URI."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.events import an_exchange, event_of

CONSUMER = ("X-Consumer-Username", "ada")
KONG_ANSWER = ("Via", "1.1 kong/3.9.3")


@pytest.mark.parametrize(
    ("position", "request_headers", "response_headers", "user"),
    [
        ("auto", [CONSUMER], [], "ada"),
        ("auto", [CONSUMER], [KONG_ANSWER], None),
        ("auto", [CONSUMER], [("X-Kong-Proxy-Latency", "1")], None),
        ("auto", [CONSUMER], [("Server", "kong/3.9.3")], None),
        ("auto", [CONSUMER], [("Via", "kong/2.8.1")], None),
        ("auto", [CONSUMER], [("Via", "1.1 squid")], "ada"),
        ("auto", [], [KONG_ANSWER, CONSUMER], "ada"),
        ("auto", [CONSUMER, ("X-Kong-Request-Id", "r")], [], "ada"),
        ("auto", [CONSUMER, ("X-Forwarded-Path", "/p")], [], "ada"),
        ("auto", [CONSUMER, ("X-Kong-Request-Id", "r"), ("X-Anonymous-Consumer", "true")], [], None),
        ("front", [CONSUMER], [], None),
        ("front", [], [CONSUMER], "ada"),
        ("behind", [CONSUMER], [], "ada"),
        ("behind", [], [CONSUMER], None),
    ],
)
def test_consumers_are_believed_where_kong_sets_them(
    position: str, request_headers: list[Any], response_headers: list[Any], user: str | None
) -> None:
    event = event_of(an_exchange(request_headers, response_headers), position=position)
    assert event.get("user_id") == user


def test_behind_kong_an_untrusted_peer_names_nobody_and_no_uri() -> None:
    exchange = an_exchange([CONSUMER, ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Path", "/evil")])
    event = event_of(exchange, position="behind", trusted_ips="10.0.0.0/8")
    assert "user_id" not in event
    assert event["request"]["uri"] == "http://api.example.com/orders/7"


@pytest.mark.parametrize(
    ("forwarded", "uri"),
    [
        ({}, "http://api.example.com/orders/7?q=1"),
        (
            {"Proto": "https", "Host": "pub.example", "Port": "443", "Path": "/v1/orders/7"},
            "https://pub.example/v1/orders/7?q=1",
        ),
        ({"Proto": "https", "Host": "pub.example", "Port": "8443", "Path": "/v1"}, "https://pub.example:8443/v1?q=1"),
        ({"Proto": "http", "Host": "pub.example:8000", "Port": "8000"}, "http://pub.example:8000/orders/7?q=1"),
        ({"Host": "pub.example", "Port": "80", "Prefix": "/v1/"}, "http://pub.example/v1/orders/7?q=1"),
        ({"Host": "[2001:db8::1]", "Port": "8000", "Path": "/a"}, "http://[2001:db8::1]:8000/a?q=1"),
        ({"Host": "no host/at all", "Proto": "ftp", "Path": "nowhere"}, "http://api.example.com/orders/7?q=1"),
    ],
)
def test_behind_kong_the_public_uri_is_rebuilt(forwarded: dict[str, str], uri: str) -> None:
    headers = [(f"X-Forwarded-{name}", value) for name, value in forwarded.items()]
    event = event_of(an_exchange(headers, target=b"/orders/7?q=1"), position="behind")
    assert event["request"]["uri"] == uri


def test_a_direct_client_cannot_rewrite_the_uri() -> None:
    event = event_of(an_exchange([("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")]))
    assert event["request"]["uri"] == "http://api.example.com/orders/7"


def test_metadata_of_a_proxied_answer() -> None:
    answer = [
        KONG_ANSWER,
        ("X-Kong-Upstream-Latency", "12"),
        ("X-Kong-Proxy-Latency", "3"),
        ("X-Kong-Request-Id", "abc"),
    ]
    assert event_of(an_exchange([], answer))["metadata"]["kong"] == {
        "request_id": "abc",
        "upstream_latency_ms": 12,
        "proxy_latency_ms": 3,
        "version": "3.9.3",
    }


def test_without_kong_there_is_no_metadata() -> None:
    assert "metadata" not in event_of(an_exchange())


def test_only_a_narrowed_trust_prefers_kongs_view_of_the_client() -> None:
    headers = [("X-Kong-Request-Id", "r"), ("X-Forwarded-For", "203.0.113.9"), ("X-Real-IP", "198.51.100.7")]
    assert event_of(an_exchange(headers))["request"]["ip_address"] == "203.0.113.9"
    narrowed = event_of(an_exchange(headers), trusted_ips="127.0.0.0/8")
    assert narrowed["request"]["ip_address"] == "198.51.100.7"
