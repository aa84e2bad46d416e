"""A record is sent as it is, or it is told why not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_moesif.forward.records import NotEventError, read
from tests.delivery.receivers.test_kafka import event

UNREADABLE = b"\xff"
MINE = frozenset({b"mine", b"kafka"})


class Message:
    """As librdkafka's, which cannot be made."""

    def __init__(self, value: bytes | None, application: bytes | None = b"mine") -> None:
        self._value = value
        self._application = application

    def headers(self) -> Any:
        if self._application == UNREADABLE:
            raise SystemError("returned a result with an exception set")
        return [("moesif-application", self._application)] if self._application else None

    def value(self) -> bytes | None:
        return self._value

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 7

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_042


NO_JSON = (b'"\xff"', b"NaN", b"-Infinity", b'"\\ud800", "more": NaN', b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize("application", [None, b"mine", b"kafka"])
@pytest.mark.parametrize("body", ["plain", "\ud800", 10**400])
def test_an_event_is_a_chunk_of_one_that_knows_where_it_was(application: bytes | None, body: Any) -> None:
    value = event("1", request={"time": "2026", "body": body})
    message: Any = Message(value, application)
    record = read(message, "account", MINE)
    assert (record.destination, record.transaction_ids, record.events) == ("account", ("1",), (value,))
    assert (record.created, record.partition, record.offset) == (1_700_000_000.042, 3, 7)


@pytest.mark.parametrize(
    ("value", "application"),
    [(None, b"mine"), (b"null", b"mine"), (event("", request={"time": "2026"}), None), (event("1"), b"theirs")]
    + [(event("1", request={"time": "2026"}), UNREADABLE)]
    + [(b'{"transaction_id": "1", "request": {"time": "2026"}, "of": %b}' % of, None) for of in NO_JSON],
)
def test_what_is_no_event_for_this_account_is_told(value: bytes | None, application: bytes | None) -> None:
    message: Any = Message(value, application)
    with pytest.raises(NotEventError):
        read(message, "account", MINE)


def test_an_event_is_one_line() -> None:
    message: Any = Message(b'{"transaction_id": "1",\r\n "request":\n{"time": "2026", "body": "a\\nb"}}\n')
    (line,) = read(message, "account", MINE).events
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"transaction_id": "1", "request": {"time": "2026", "body": "a\nb"}}
