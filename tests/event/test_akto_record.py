"""Akto's records: the fields for each kind of body, and that its runtime keeps each one without a masked value."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.akto import MAX_BODY_BYTES
from mitmproxy_moesif.config.instance import Instance
from mitmproxy_moesif.config.policy import compile_policy
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.akto_record import Record, akto_record, encode_record
from mitmproxy_moesif.event.attributes import read_attributes
from mitmproxy_moesif.event.build import build_event
from mitmproxy_moesif.event.exchange import Exchange
from mitmproxy_moesif.event.pipeline import EventBuilder, NotSent
from tests.support.akto import forgotten
from tests.support.events import an_exchange

SECRET = "s3cr3t-7f21"
JSON = "application/json"
KB = 1024


def record_of(exchange: Exchange, **parameters: object) -> Record:
    sizes = {"request_max_body_size_limit": 10**6, "response_max_body_size_limit": 10**6}
    policy = compile_policy(parse_settings({**sizes, **parameters}))
    facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, policy)
    return akto_record(build_event(exchange, facts, policy), exchange, "1000000")


def sent(body: bytes | None, content_type: str = JSON, **parameters: object) -> str:
    exchange = an_exchange([("Content-Type", content_type)], [("Content-Type", "text/plain")], request_body=body or b"")
    return record_of(exchange, **parameters)["requestPayload"]


def answered(body: bytes, content_type: str, **parameters: object) -> str:
    return record_of(an_exchange([], [("Content-Type", content_type)], response_body=body), **parameters)[
        "responsePayload"
    ]


def test_every_field_of_a_record() -> None:
    exchange = an_exchange([("Host", "api.example.com")], [("Content-Type", JSON)], response_body=b'{"a": []}')
    exchange.kong = {"service_name": "orders", "route_name": "all", "route_hosts": ["h"]}
    assert record_of(exchange) == {
        "path": "/orders/7",
        "method": "GET",
        "requestHeaders": '{"host":"api.example.com"}',
        "responseHeaders": '{"content-type":"application/json"}',
        "requestPayload": "{}",
        "responsePayload": '{"a": []}',
        "ip": "127.0.0.1",
        "time": "1700000000",
        "statusCode": "200",
        "status": "OK",
        "type": "HTTP/1.1",
        "akto_account_id": "1000000",
        "akto_vxlan_id": "0",
        "is_pending": "false",
        "source": "MIRRORING",
        "direction": "",
        "tag": '{"service":"kong","service_name":"orders","route_name":"all"}',
    }


@pytest.mark.parametrize(
    ("body", "content_type", "payload"),
    [
        (None, JSON, "{}"),
        (b" \n", JSON, "{}"),
        (b'{"a": 1}', JSON, '{"a": 1}'),
        (b'{"a": 1', JSON, "{}"),
        (b"[1, 2]", JSON, "[1, 2]"),
        (b"a=b&c=d", "application/x-www-form-urlencoded", "a=b&c=d"),
        (b"<soap:Envelope/>", "text/xml", "<soap:Envelope/>"),
        (b'{"query": "{ me }"}', JSON, '{"query": "{ me }"}'),
        (b"\0\0\0\0\1a", "application/octet-stream", "\0\0\0\0\1a"),
        (b"\xff\xfe", "text/plain", b64encode(b"\xff\xfe").decode()),
    ],
    ids=["absent", "blank", "json", "cut-json", "array", "form", "soap", "graphql", "binary", "not-utf-8"],
)
def test_a_request_body_is_text_that_akto_keeps(body: bytes | None, content_type: str, payload: str) -> None:
    assert sent(body, content_type) == payload


def test_grpc_goes_as_base64() -> None:
    assert sent(b"\0\0\0\0\1a", "application/grpc") == b64encode(b"\0\0\0\0\1a").decode()


@pytest.mark.parametrize(("size", "kept"), [(255 * KB, 255 * KB), (256 * KB, 256 * KB), (257 * KB, 256 * KB)])
def test_text_of_an_answer_is_cut_at_256_kb(size: int, kept: int) -> None:
    assert answered(b"x" * size, "text/plain") == "x" * kept


@pytest.mark.parametrize(("size", "is_kept"), [(255 * KB, True), (256 * KB, True), (257 * KB, False)])
def test_json_over_256_kb_is_left_out_whole(size: int, *, is_kept: bool) -> None:
    body = b'{"a":"' + b"x" * (size - 8) + b'"}'
    assert answered(body, JSON) == (body.decode() if is_kept else "")
    assert sent(body) == (body.decode() if is_kept else "{}")


def test_text_is_not_cut_inside_a_character() -> None:
    cut = answered("é".encode() * MAX_BODY_BYTES, "text/plain").encode()
    assert len(cut) == MAX_BODY_BYTES
    assert len(answered(b"x" + "é".encode() * MAX_BODY_BYTES, "text/plain").encode()) == MAX_BODY_BYTES - 1


def test_without_an_answer_the_status_is_0() -> None:
    record = record_of(an_exchange(status=None))
    assert (record["statusCode"], record["status"], record["responsePayload"]) == ("0", "", "")


def test_credentials_and_masked_fields_are_in_no_record() -> None:
    exchange = an_exchange(
        [("Authorization", SECRET), ("X-Key", SECRET), ("Content-Type", JSON)],
        [("X-Key", SECRET)],
        target=f"/a?key={SECRET}".encode(),
        request_body=orjson.dumps({"password": SECRET, "a": [{"password": SECRET}]}),
    )
    masks = {"request_header_masks": "x-key", "response_header_masks": "x-key", "request_query_masks": "key"}
    record = record_of(exchange, request_body_masks="password", **masks)
    assert SECRET.encode() not in encode_record(record)
    assert record["path"] == "/a?key=*****"


def places(holder: dict[str, Any]) -> Iterator[list[str]]:
    """Of each member of an event, and of what it holds."""
    for name, value in holder.items():
        yield [name]
        yield from ([name, *inner] for inner in (places(value) if isinstance(value, dict) else ()))


def without(event: dict[str, Any], place: list[str]) -> dict[str, Any]:
    holder = event
    for name in place[:-1]:
        holder = holder[name]
    del holder[place[-1]]
    return event


def test_a_hook_may_remove_whatever_it_likes() -> None:
    policy = compile_policy(parse_settings({}))
    headers = [("Content-Type", JSON), ("Host", "api.example.com")]
    exchange = an_exchange(headers, [("Content-Type", "text/plain")], request_body=b'{"a": 1}', response_body=b"text")
    exchange.kong = {"service_name": "orders"}
    facts = read_attributes(exchange.request_headers, exchange.response_headers, exchange.peer, policy)
    removed = list(places(build_event(exchange, facts, policy)))
    assert ["request", "headers", "host"] in removed
    for place in removed:
        event = without(build_event(exchange, facts, policy), place)
        assert forgotten(akto_record(event, exchange, "1000000")) is None, place


@pytest.mark.parametrize(("body", "payload"), [("*****", "*****"), ({"a": []}, '{"a":[]}'), (None, "{}")])
def test_what_a_hook_puts_in_place_of_a_body_goes_as_it_is(body: object, payload: str) -> None:
    policy = compile_policy(parse_settings({}))
    exchange = an_exchange(request_body=b"text")
    event = build_event(exchange, read_attributes((), (), exchange.peer, policy), policy)
    event["request"]["body"] = body
    assert akto_record(event, exchange, "1000000")["requestPayload"] == payload


@given(
    body=st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.sampled_from([b"{", b"{}", b"{\n", b" "]),
    content_type=st.sampled_from([None, JSON, "text/plain", "application/x-www-form-urlencoded", "application/grpc"]),
    target=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(
        lambda text: f"/{text}".encode()
    ),
    status=st.none() | st.integers(100, 999),
    secret=st.booleans(),
)
def test_whatever_the_exchange_akto_keeps_the_record_without_a_masked_value(
    body: bytes, content_type: str | None, target: bytes, status: int | None, *, secret: bool
) -> None:
    headers = [("X-Key", SECRET), *([("Content-Type", content_type)] if content_type is not None else [])]
    if secret:
        body = orjson.dumps({"password": SECRET, "a": body.decode(errors="replace")})
    exchange = an_exchange(headers, target=b"/" + target, status=status, request_body=body)
    record = record_of(exchange, request_header_masks="x-key", request_body_masks="password")
    assert forgotten(record) is None
    assert SECRET.encode() not in encode_record(record)


@pytest.mark.parametrize("content_type", [JSON, "text/plain"])
@pytest.mark.parametrize(("size", "is_kept"), [(255 * KB, True), (256 * KB, True), (257 * KB, False)])
def test_a_record_has_bodies_that_are_too_large_for_the_event(size: int, content_type: str, *, is_kept: bool) -> None:
    """As they are captured by default: events take 100,000 bytes."""
    body = b'"' + b"x" * (size - 2) + b'"' if content_type == JSON else b"x" * size
    settings = parse_settings({"application_id": "x", "akto_service_url": "http://h", "response_header_masks": "x-key"})
    instance = Instance.compile(settings)
    assert instance.captured.response.body.limit == MAX_BODY_BYTES
    exchange = an_exchange([], [("Content-Type", content_type), ("X-Key", SECRET)], response_body=body)
    records: list[Record] = []
    builder = EventBuilder(lambda *_: 1, lambda *_: None)
    event = builder(exchange, instance, lambda event: records.append(akto_record(event, exchange, "1")))
    assert not isinstance(event, NotSent)
    assert orjson.loads(event)["metadata"]["body_omitted"] == {"response": "too_large"}
    (record,) = records
    assert record["responsePayload"] == (body.decode() if is_kept else "")
    assert SECRET not in str(record)
