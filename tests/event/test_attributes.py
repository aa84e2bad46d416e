"""What rules see of a request: each reading that somebody may have of it."""

from __future__ import annotations

import gzip
import tracemalloc
from base64 import b64encode
from typing import Any

import pytest

from mitmproxy_moesif.config.policy import compile_policy
from mitmproxy_moesif.config.settings import parse_settings
from mitmproxy_moesif.event.attributes import RequestAttributes, read_attributes
from mitmproxy_moesif.event.exchange import Fields

LIMIT = 1000


def view(*fields: tuple[bytes, bytes], body: bytes | None = None, method: str = "GET") -> RequestAttributes:
    facts = read_attributes(fields, (), "127.0.0.1", compile_policy(parse_settings({})))
    return RequestAttributes(facts, fields, method, ("/",), "h", lambda: body, LIMIT)


@pytest.mark.parametrize(
    ("method", "verbs"), [("GET", ("GET",)), ("get", ("get", "GET")), ("pUrGe", ("pUrGe", "PURGE")), ("M-X", ("M-X",))]
)
def test_verbs_in_any_case(method: str, verbs: tuple[str, ...]) -> None:
    assert view(method=method).verbs == verbs


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ((), ()),
        (((b"X-Plan", b"free"), (b"Other", b"1")), ("free",)),
        (((b"X-Plan", b"free"), (b"x-plan", b"gold")), ("free, gold", "free", "gold")),
        (((b"Other", b"1"), (b"other", b"2"), (b"X-PLAN", b"free")), ("free", "free")),
    ],
)
def test_a_header_joined_and_each_of_its_lines(fields: Fields, values: tuple[str, ...]) -> None:
    assert tuple(view(*fields).header_values("x-plan")) == values


def test_the_host_of_a_request_without_a_host_field() -> None:
    assert view().header_values("host") == ("h",)
    assert view((b"Host", b"x")).header_values("host") == ("x",)


def test_of_a_repeated_token_header_the_first_line_names_the_caller() -> None:
    lines = [b64encode(name + b":secret") for name in (b"ada", b"bob")]
    fields = [(b"Authorization", b"Basic " + lines[0]), (b"X", b"1"), (b"authorization", b"Basic " + lines[1])]
    facts = read_attributes(tuple(fields), (), "127.0.0.1", compile_policy(parse_settings({})))
    assert facts.caller.user_id == "ada"
    assert facts.request_headers["authorization"].count(",") == 1


JSON = (b"Content-Type", b"application/json")


@pytest.mark.parametrize(
    ("fields", "body", "document", "unreadable"),
    [
        ([], None, None, False),
        ([JSON], b"", None, False),
        ([JSON], b'{"a": 1}', {"a": 1}, False),
        ([], b'{"a": 1}', {"a": 1}, False),
        ([JSON], b'{"a": 1, "a": 2}', {"a": 2}, True),
        ([JSON], b'{"a": 1e400}', None, True),
        ([JSON], b"nonsense", None, True),
        ([], b"nonsense", None, False),
        ([(b"Content-Type", b"text/plain")], b'{"a": 1e400}', None, True),
        ([(b"Content-Type", b"application/vnd.api+json")], b"a=1", None, True),
        ([(b"Content-Type", b"application/x-www-form-urlencoded")], b"a=1", None, False),
        ([(b"Content-Type", b"text/plain"), JSON], b"nonsense", None, True),
        ([(b"Content-Type", b'application/json; charset="UTF-8"')], b"{}", {}, False),
        ([(b"Content-Type", b"application/json; charset=utf-7")], b"{}", {}, True),
        ([(b"Content-Type", b"application/json; charset=utf-8; charset=utf-16")], b"{}", {}, True),
        ([(b"Content-Type", b"text/plain; charset=latin-1")], b"7", 7, False),
        ([JSON, (b"Content-Encoding", b"gzip")], gzip.compress(b'{"a": 1}', mtime=0), {"a": 1}, False),
        ([JSON, (b"Content-Encoding", b"gzip")], b'{"a": 1}', None, True),
        ([(b"Content-Encoding", b"gzip")], gzip.compress(b"x" * LIMIT * 2, mtime=0), None, True),
        ([(b"Content-Encoding", b"unknown")], b"nonsense", None, True),
        ([(b"Content-Encoding", b"gzip"), (b"Content-Encoding", b"unknown")], b"x", None, True),
        ([(b"Transfer-Encoding", b"gzip, chunked")], b"x", None, True),
        ([(b"Transfer-Encoding", b"Chunked")], b"x", None, False),
        ([], b"x" * (LIMIT + 1), None, True),
        ([(b"Content-Type", b"Application/GraphQL; charset=utf-8")], b"query", {"query": "query"}, False),
    ],
)
def test_a_body_and_whether_it_can_be_read(fields: Any, body: bytes | None, document: Any, unreadable: bool) -> None:
    seen = view(*fields, body=body)
    assert not seen.unreadable
    assert seen.body() == document
    assert seen.unreadable is unreadable


def test_what_strangers_send_is_not_kept() -> None:
    """Names and addresses are remembered, since most come again; long ones would fill the memory."""
    tracemalloc.start()
    try:
        for number in range(1500):
            long = b"%d" % number + 60_000 * b"x"
            view((long, b""), (b"X-Forwarded-For", long))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 20_000_000
