"""Entries of HAR files as flows."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.test import tflow

from mitmproxy_moesif.backfill.har import AnotherProtocol, EntryError, flow_of
from tests.backfill.entries import an_entry


def with_request(**more: Any) -> dict[str, Any]:
    entry = an_entry()
    return {**entry, "request": {**entry["request"], **more}}


def with_response(**more: Any) -> dict[str, Any]:
    entry = an_entry()
    return {**entry, "response": {**entry["response"], **more}}


def answer(flow: http.HTTPFlow) -> http.Response:
    assert flow.response is not None
    return flow.response


def test_an_entry_of_chrome() -> None:
    flow = flow_of(an_entry("/orders?a=%20b"))
    request, response = flow.request, answer(flow)
    assert (request.method, request.data.path, request.http_version) == ("POST", b"/orders?a=%20b", "HTTP/2.0")
    assert request.data.authority == b"api.example.com"
    assert request.headers.fields == ((b"content-type", b"application/json"), (b"x-user", b"ada"))
    assert request.raw_content == b'{"password": "s3cret", "n": 1}'
    assert (response.status_code, response.raw_content) == (200, b'{"ok": true}')
    assert "content-encoding" not in response.headers
    assert response.timestamp_end - request.timestamp_start == pytest.approx(0.0125, abs=1e-5)  # type: ignore[operator]
    assert (flow.client_conn.tls, flow.client_conn.peername[0]) == (True, "")


def test_the_id_is_that_of_the_content() -> None:
    assert flow_of(an_entry()).id == flow_of(an_entry()).id
    assert flow_of(an_entry()).id != flow_of(an_entry("/other")).id


def test_an_entry_of_firefox_has_parameters_in_place_of_a_text() -> None:
    params = [{"name": "a", "value": "1 2"}, {"name": "b", "value": "ü"}]
    flow = flow_of(with_request(postData={"mimeType": "application/x-www-form-urlencoded", "params": params}))
    assert flow.request.raw_content == b"a=1+2&b=%C3%BC"


def test_an_entry_of_insomnia_has_an_empty_text_beside_parameters() -> None:
    posted = {"mimeType": "application/x-www-form-urlencoded", "text": "", "params": [{"name": "a", "value": "1"}]}
    assert flow_of(with_request(postData=posted)).request.raw_content == b"a=1"


@pytest.mark.parametrize(("url", "meant"), [("ws://x/a", "http://x/a"), ("wss://x/a?b", "https://x/a?b")])
def test_a_websocket_is_the_exchange_that_it_began_with(url: str, meant: str) -> None:
    flow = flow_of(with_request(url=url))
    assert (flow.request.url, flow.client_conn.tls) == (meant, meant.startswith("https"))


@pytest.mark.parametrize(
    "url", ["data:text/plain,x", "blob:https://x/1", "file:///x", "chrome-extension://x/", "ftp://x"]
)
def test_what_else_browsers_save_is_no_exchange(url: str) -> None:
    with pytest.raises(AnotherProtocol):
        flow_of(with_request(url=url))


def test_headers_as_pairs_and_bodies_in_base64() -> None:
    entry = with_request(headers=[["Host", "h.example"], ["X-A", "1"], ["X-A", "2"]])
    entry["response"]["content"] = {"text": base64.b64encode(b"\x00\xff").decode(), "encoding": "base64"}
    flow = flow_of(entry)
    assert flow.request.headers.get_all("x-a") == ["1", "2"]
    assert (flow.request.data.authority, answer(flow).raw_content) == (b"", b"\x00\xff")


def test_kong_tells_the_clients_address() -> None:
    flow = flow_of(an_entry(clientIPAddress="203.0.113.7"))
    assert flow.client_conn.peername[0] == "203.0.113.7"


@pytest.mark.parametrize("told", ["token=s3cret", "203.0.113.7, s3cret", " 203.0.113.7"])
def test_what_is_no_address_is_not_taken_for_one(told: str) -> None:
    """Events show the address as it is."""
    assert flow_of(an_entry(clientIPAddress=told)).client_conn.peername[0] == ""


@pytest.mark.parametrize("response", [None, {"status": 0, "headers": [], "content": {}}, {}])
def test_where_there_was_no_answer_there_is_none(response: object) -> None:
    assert flow_of(an_entry(response=response)).response is None


def test_what_mitmproxy_writes_is_what_it_had() -> None:
    flow = tflow.tflow(resp=True)
    flow.request.method = "POST"  # of others it writes no body
    flow.request.headers["x-a"] = "1"
    flow.request.timestamp_start = 1_700_000_000.25
    (entry,) = SaveHar().make_har([flow])["log"]["entries"]
    again = flow_of(entry)
    assert again.request.url == flow.request.url
    assert again.request.headers["x-a"] == "1"
    assert (again.request.raw_content, answer(again).raw_content) == (b"content", b"message")
    assert again.request.timestamp_start == pytest.approx(1_700_000_000.25, abs=0.001)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (5, "request is missing"),
        ({}, "request is missing"),
        (an_entry(startedDateTime="yesterday"), "startedDateTime is not ISO 8601"),
        (an_entry(startedDateTime=None), "startedDateTime is missing"),
        (an_entry(time="12"), "time is of the wrong type"),
        (an_entry(time=10**400), "time is not a number of milliseconds"),
        (an_entry(time=float("inf")), "time is not a number of milliseconds"),
        (with_request(url="//x/"), "request.url is not an http or https URL"),
        (with_request(url="http:///x"), "request.url is not an http or https URL"),
        (with_request(url="http://[x/"), "request.url is not a URL"),
        (with_request(method=None), "request.method is missing"),
        (with_request(headers=[{"value": "5ecre7"}]), "request.headers[0].name is missing"),
        (with_request(headers=["5ecre7"]), "request.headers[0].name is missing"),
        (with_response(status="200"), "response.status is of the wrong type"),
        (with_response(status=2000), "response.status is not an HTTP status"),
        (with_response(content={"text": "!", "encoding": "base64"}), "response.content.text is not Base64"),
    ],
)
def test_what_cannot_be_read_names_the_field_and_quotes_nothing(entry: object, problem: str) -> None:
    with pytest.raises(EntryError) as raised:
        flow_of(entry)
    assert str(raised.value) == problem


@pytest.mark.parametrize("text", ["\ud800", "a\nb", "\x00", "ü", "\U0001f600"])
def test_texts_of_any_kind_become_bytes(text: str) -> None:
    headers, params = [{"name": text, "value": text}], [{"name": text, "value": text}]
    flow = flow_of(with_request(method=text, headers=headers, postData={"text": text}))
    assert flow.request.raw_content is not None
    flow = flow_of(with_request(headers=[], url=f"http://x{text}.y/{text}?{text}", postData={"params": params}))
    assert flow.request.raw_content is not None
