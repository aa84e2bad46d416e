"""The event: its shape, times, URI, headers, trace, and what is left out of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.build import iso_time
from mitmproxy_moesif.event.exchange import Exchange, Payload
from mitmproxy_moesif.event.pipeline import EventBuilder
from tests.support.events import an_exchange, event_of


def test_the_whole_of_a_plain_event() -> None:
    exchange = an_exchange(
        [("Host", "api.example.com")], [("Content-Type", "application/json")], response_body=b'{"a": []}'
    )
    assert event_of(exchange) == {
        "request": {
            "time": "2023-11-14T22:13:20.042",
            "uri": "http://api.example.com/orders/7",
            "verb": "GET",
            "headers": {"host": "api.example.com"},
            "api_version": "1.0",
            "ip_address": "127.0.0.1",
        },
        "response": {
            "time": "2023-11-14T22:13:20.100",
            "status": 200,
            "headers": {"content-type": "application/json"},
            "body": {"a": []},
            "transfer_encoding": "json",
        },
        "transaction_id": "7d3b6e0a-4c1f-4a7e-9f59-0123456789ab",
        "direction": "Incoming",
        "weight": 1,
    }


def test_without_an_answer_there_is_no_response() -> None:
    assert "response" not in event_of(an_exchange(status=None))


def test_an_address_that_nobody_knows_is_absent() -> None:
    """As of a HAR, or of a connection that is gone: an empty text is no address."""
    assert "ip_address" not in event_of(an_exchange(peer=""))["request"]
    assert event_of(an_exchange([("X-Real-IP", "203.0.113.9")], peer=""))["request"]["ip_address"] == "203.0.113.9"


@given(st.floats(min_value=0, max_value=4e9))
def test_times_have_three_digits_of_milliseconds(seconds: float) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", iso_time(seconds))


@pytest.mark.parametrize(
    ("scheme", "authority", "target", "uri"),
    [
        ("http", "h:80", b"/", "http://h/"),
        ("https", "h:443", b"/", "https://h/"),
        ("http", "h:443", b"/", "http://h:443/"),
        ("http", "h:8080", b"/a%20b?x=%C3%A9&y", "http://h:8080/a%20b?x=%C3%A9&y"),
        ("http", "[::1]:80", b"/", "http://[::1]/"),
        ("http", "h", b"*", "http://h/*"),
        ("http", "h", b"/caf\xc3\xa9", "http://h/café"),
        ("http", "h", b"/caf\xe9", "http://h/café"),
    ],
)
def test_uri_as_the_client_called_it(scheme: str, authority: str, target: bytes, uri: str) -> None:
    event = event_of(an_exchange(scheme=scheme, authority=authority, target=target))
    assert event["request"]["uri"] == uri


def test_repeated_headers_are_joined_and_any_byte_survives() -> None:
    headers = [("X-A", "1"), ("x-a", "2"), ("Cookie", "a=1"), ("cookie", "b=2"), ("X-B", "\udcff\udcfe")]
    event = event_of(an_exchange(headers, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]), credential_headers="send")
    assert event["request"]["headers"] == {"x-a": "1, 2", "cookie": "a=1; b=2", "x-b": "ÿþ"}
    assert event["response"]["headers"] == {"set-cookie": "a=1, b=2"}


def test_masked_headers_are_gone_but_still_identify() -> None:
    exchange = an_exchange([("X-User", "ada"), ("X-Keep", "1")], [("X-Secret", "s"), ("X-Keep", "1")])
    event = event_of(
        exchange, user_id_header="x-user", request_header_masks=["X-USER"], response_header_masks="x-secret"
    )
    assert event["request"]["headers"] == {"x-keep": "1"}
    assert event["response"]["headers"] == {"x-keep": "1"}
    assert event["user_id"] == "ada"


CREDENTIALS = ["Authorization", "proxy-authorization", "COOKIE", "apikey", "X-Api-Key", "Set-Cookie", "X-Token"]


def test_headers_with_credentials_are_left_out_and_still_identify() -> None:
    token = "Basic YWRhOnMzY3JldA=="
    headers = [(name, token) for name in CREDENTIALS]
    exchange = an_exchange([*headers, ("X-Keep", "1")], [*headers, ("X-Keep", "1")])
    event = event_of(exchange, authorization_header_name="x-token")
    assert event["request"]["headers"] == event["response"]["headers"] == {"x-keep": "1"}
    assert event["user_id"] == "ada"


@pytest.mark.parametrize("mask", ["x-my-pin", "X_My_Pin"])
def test_a_masked_header_may_be_written_with_underscores(mask: str) -> None:
    """Behind CGI and WSGI it is the same one."""
    names = ("X-My-Pin", "X_MY_PIN", "x_my-pin", "X_API_KEY", "Proxy_Authorization", "X-Other", "x_other")
    headers = event_of(an_exchange([(name, "s3cret") for name in names]), request_header_masks=mask)["request"][
        "headers"
    ]
    assert list(headers) == ["x-other", "x_other"]


@pytest.mark.parametrize("name", ["Authorization ", "\tcookie", "X-PIN \t", "X-Pin\xa0"])
def test_a_blank_around_a_headers_name_does_not_show_it(name: str) -> None:
    """Saved traffic may have one; such a request is refused otherwise."""
    assert event_of(an_exchange([(name, "s3cret")]), request_header_masks="x-pin")["request"]["headers"] == {}


def test_headers_with_credentials_are_sent_where_that_is_asked_for() -> None:
    exchange = an_exchange([("Authorization", "Bearer a"), ("Cookie", "a=1")], [("Set-Cookie", "a=1")])
    event = event_of(exchange, credential_headers="send", request_header_masks="cookie")
    assert event["request"]["headers"] == {"authorization": "Bearer a"}
    assert event["response"]["headers"] == {"set-cookie": "a=1"}


def test_masked_query_parameters_are_masked_in_the_referer_too() -> None:
    exchange = an_exchange([("Referer", "https://x/?token=s3cret&a=1")], target=b"/s?a=1&token=s3cret&t%6Fken=s3cret2")
    event = event_of(exchange, request_query_masks=["token"])
    assert event["request"]["uri"].endswith("/s?a=1&token=*****&t%6Fken=*****")
    assert event["request"]["headers"]["referer"] == "https://x/?token=*****&a=1"
    assert "s3cret" not in json.dumps(event)


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", False),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", False),
        ("nonsense", False),
    ],
)
def test_trace_of_a_valid_traceparent(header: str, valid: bool) -> None:
    event = event_of(an_exchange([("traceparent", header)]))
    assert event.get("trace_id") == ("0af7651916cd43dd8448eb211c80319c" if valid else None)
    assert event.get("span", {}).get("parent_span_id") == ("b7ad6b7169203331" if valid else None)
    if valid:
        assert re.fullmatch("[0-9a-f]{16}", event["span"]["id"])


def grpc_exchange(headers: dict[str, str], trailers: dict[str, str]) -> Exchange:
    exchange = an_exchange([], [("Content-Type", "application/grpc+proto"), *headers.items()])
    exchange.response_trailers = tuple((name.encode(), value.encode()) for name, value in trailers.items())
    return exchange


def test_how_a_grpc_call_ended_is_in_the_metadata() -> None:
    failed = {"grpc-status": "5", "Grpc-Message": "no%20such%20order"}
    event = event_of(grpc_exchange({}, {**failed, "X-Cost": "7"}))
    assert event["metadata"]["grpc"] == {"status": 5, "message": "no such order"}
    assert event["metadata"]["trailers"] == {"grpc-status": "5", "grpc-message": "no%20such%20order", "x-cost": "7"}
    event = event_of(grpc_exchange(failed, {}))
    assert event["metadata"] == {"grpc": {"status": 5, "message": "no such order"}}


def test_header_masks_and_query_masks_hold_for_trailers() -> None:
    trailers = {"grpc-status": "0", "grpc-message": "s3cret", "X-Next": "/p?token=s3cret", "Set-Cookie": "s3cret"}
    exchange = grpc_exchange({}, trailers)
    event = event_of(exchange, response_header_masks="grpc-message", request_query_masks="token")
    assert event["metadata"]["grpc"] == {"status": 0}
    assert event["metadata"]["trailers"] == {"grpc-status": "0", "x-next": "/p?token=*****"}
    assert "s3cret" not in json.dumps(event)


def test_query_masks_hold_for_what_the_metadata_tells_of_headers() -> None:
    said = [("X-Kong-Request-Id", "token=s3cret"), ("Via", "1.1 kong/?token=s3cret")]
    exchange = an_exchange([], said, metadata={"client_transaction_id": "/?token=s3cret", "left_to_kong": True})
    assert event_of(exchange, request_query_masks="token")["metadata"] == {
        "client_transaction_id": "/?token=*****",
        "left_to_kong": True,
        "kong": {"request_id": "token=*****", "version": "?token=*****"},
    }


def test_trailers_of_other_calls_are_told_too() -> None:
    exchange = an_exchange()
    exchange.response_trailers = ((b"Checksum", b"abc"),)
    assert event_of(exchange)["metadata"] == {"trailers": {"checksum": "abc"}}


def test_why_a_body_is_missing_is_said_for_its_side() -> None:
    exchange = an_exchange(request_body=b"x" * 101, response_body=b"password=1")
    event = event_of(exchange, request_max_body_size_limit=100, response_body_masks=["password"])
    assert "body" not in event["request"]
    assert "body" not in event["response"]
    assert event["metadata"]["body_omitted"] == {"request": "too_large", "response": "unmaskable"}


def test_a_body_that_never_ended_is_left_out() -> None:
    exchange = an_exchange()
    exchange.response_body = Payload([b"half of it"], "incomplete")
    assert event_of(exchange)["metadata"]["body_omitted"] == {"response": "incomplete"}


def test_deprecated_masks_serve_only_where_the_new_ones_are_empty() -> None:
    exchange = an_exchange(request_body=b'{"old": 1, "new": 2, "k": 3}')
    assert event_of(exchange, request_masks=["old"])["request"]["body"] == {"new": 2, "k": 3}
    both = event_of(exchange, request_masks=["old"], request_body_masks=["new"])
    assert both["request"]["body"] == {"old": 1, "k": 3}


def test_what_masked_headers_tell_is_left_out_on_demand() -> None:
    headers = [
        ("Authorization", "Basic YWRhOng="),
        ("X-Forwarded-For", "1.2.3.4"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Content-Type", "application/json"),
    ]
    exchange = an_exchange(headers, request_body=b'{"a": 1}')
    builder = EventBuilder(lambda *_: 1, lambda *_: None)

    def event(**parameters: object) -> dict[str, Any]:
        masks = [name for name, _ in headers]
        settings = parse_settings({"application_id": "x", "request_header_masks": masks, **parameters})
        built = builder(exchange, Instance.compile(settings))
        assert isinstance(built, bytes)
        found: dict[str, Any] = json.loads(built)
        return found

    kept, left_out = event(), event(derive_from_masked=False)
    assert (kept["user_id"], kept["request"]["ip_address"], "trace_id" in kept) == ("ada", "1.2.3.4", True)
    assert left_out.keys() & {"user_id", "trace_id", "span"} == set()
    assert left_out["request"]["ip_address"] == "127.0.0.1"
    assert left_out["request"]["body"] == kept["request"]["body"] == {"a": 1}
