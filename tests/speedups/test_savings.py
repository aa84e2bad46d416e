"""Each saving gives what mitmproxy's own code gives, for whatever it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import connection, http, options
from mitmproxy.proxy.context import Context

from mitmproxy_moesif.speedups import savings
from mitmproxy_moesif.speedups.replacing import exchange_class

stock_get_all = http.Headers.get_all

names = st.sampled_from(["Host", "host", "HOST", "Cookie", "x-a", "X-A", "", "é", "K"])  # K: KELVIN SIGN
raw_names = st.sampled_from([b"Host", b"HOST", b"Cookie", b"cookie", b"X-A", b"", b"\xff", "é".encode(), b"k", b"K"])
fields = st.lists(st.tuples(raw_names, st.binary(max_size=5)), max_size=6)


@given(fields, st.one_of(names, raw_names))
def test_headers_are_found_as_before(given_fields: list[tuple[bytes, bytes]], name: str | bytes) -> None:
    headers = http.Headers(given_fields)
    assert savings.get_all(headers, name) == stock_get_all(headers, name)


@given(fields, st.one_of(names, raw_names), st.sampled_from([None, "", "other", 5]))
def test_one_header_is_looked_up_as_before(
    given_fields: list[tuple[bytes, bytes]], name: str | bytes, default: Any
) -> None:
    headers = http.Headers(given_fields)
    assert savings.get(headers, name, default) == headers.get(name, default)
    assert savings.get(headers, name) == headers.get(name)


@pytest.mark.parametrize("name", [None, 5, ["Host"]])
def test_a_name_of_the_wrong_type_is_an_error_as_before(name: Any) -> None:
    headers = http.Headers([(b"Host", b"h")])
    for look in (savings.get_all, stock_get_all):
        with pytest.raises((TypeError, AttributeError)):
            look(headers, name)


@pytest.fixture
def given_options() -> options.Options:
    given = options.Options()
    given.add_option("texts", Sequence[str], ["a"], "")
    given.add_option("nothing", str | None, None, "")
    exchange_class(given, options.Options, savings.PlainOptions)
    return given


def test_options_are_read_as_before(given_options: options.Options) -> None:
    for name in list(given_options._options):
        assert getattr(given_options, name) == given_options._options[name].current()
    given_options.update(http2=False, listen_port=1234, nothing="x", texts=["b", "c"])
    assert (given_options.http2, given_options.listen_port, given_options.nothing) == (False, 1234, "x")
    assert given_options.texts == ["b", "c"]


def test_what_can_change_is_still_a_copy(given_options: options.Options) -> None:
    given_options.texts.append("mine")
    assert given_options.texts == ["a"]


def test_an_option_that_is_none_is_an_attribute_error(given_options: options.Options) -> None:
    with pytest.raises(AttributeError, match="No such option: nonsense"):
        _ = given_options.nonsense
    assert getattr(given_options, "nonsense", 5) == 5


RIGHT: dict[str, Any] = {
    "http_version": b"HTTP/1.1",
    "headers": http.Headers(),
    "content": None,
    "trailers": None,
    "timestamp_start": 1.0,
    "timestamp_end": None,
    "host": "h",
    "port": 80,
    "method": b"GET",
    "scheme": b"http",
    "authority": b"",
    "path": b"/",
}
OTHERS = [None, 5, 1.5, "text", b"bytes", http.Headers(), True, ["list"]]


@given(st.dictionaries(st.sampled_from(list(RIGHT)), st.sampled_from(OTHERS), max_size=2))
def test_messages_are_checked_as_before(wrong: dict[str, Any]) -> None:
    values = {**RIGHT, **wrong}
    message = http.RequestData.__new__(http.RequestData)
    vars(message).update(values)
    assert fault_of(savings.check_fields, message) == fault_of(savings.check_every_field, message)


@given(st.sampled_from(["status_code", "reason", "headers", "timestamp_end"]), st.sampled_from(OTHERS))
def test_answers_are_checked_as_before(name: str, value: Any) -> None:
    message = http.ResponseData(b"HTTP/1.1", http.Headers(), None, None, 1.0, None, 200, b"OK")
    vars(message)[name] = value
    assert fault_of(savings.check_fields, message) == fault_of(savings.check_every_field, message)


def fault_of(check: Any, message: http.MessageData) -> str:
    try:
        check(message)
    except TypeError as error:
        return str(error)
    return ""


def test_a_fork_shares_all_but_the_list_of_layers() -> None:
    client = connection.Client(peername=("127.0.0.1", 1), sockname=("127.0.0.1", 2))
    context = Context(client, options.Options())
    context.layers.append("a layer")  # type: ignore[arg-type]
    forked = savings.fork(context)
    assert vars(forked) == vars(context.fork())
    assert forked.layers is not context.layers
