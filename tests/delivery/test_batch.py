"""What becomes of the events of a batch before it is sent."""

from __future__ import annotations

import pytest

from mitmproxy_moesif.delivery.batch import OLDEST, Batch
from mitmproxy_moesif.delivery.spool.chunk import Chunk
from mitmproxy_moesif.delivery.spool.queue import Waiting

NOW = 1_800_000_000.0
OLD = NOW - 2 * OLDEST


def batch(event: bytes, created: float = OLD) -> Batch:
    return Batch([Waiting(Chunk("account", created, ("1",), (event,)), None, 0.0)])


def an_event(time: str, body: bytes) -> bytes:
    return b'{"transaction_id": "1", "request": {"time": "%b", "body": %b}}' % (time.encode(), body)


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    ("time", "body", "old"),
    [
        ("2020-01-01T00:00:00.000", b"1", 1),
        ("2020-01-01T00:00:00.000", b'"\\ud800"', 1),
        ("2999-01-01T00:00:00.000", b"1", 0),
        ("2020-01-01T00:00:00.000", b'"\xff"', 0),
        ("2020-01-01T00:00:00.000", b"NaN", 0),
        ("2020-01-01T00:00:00.000", DEEP, 0),
    ],
)
def test_too_old_is_what_says_so_and_the_rest_is_the_receiver_s_to_judge(time: str, body: bytes, old: int) -> None:
    given = batch(an_event(time, body))
    assert given.mark_old(NOW) == old
    assert len(given.open()) == 1 - old


def test_what_was_captured_lately_is_not_looked_into() -> None:
    assert batch(an_event("2020-01-01T00:00:00.000", b"1"), created=NOW).mark_old(NOW) == 0


def test_an_event_whose_time_a_hook_has_removed_is_the_receiver_s_to_judge() -> None:
    for event in (b"{}", b'{"request": null}', b'{"transaction_id": "1", "request": {}}'):
        assert batch(event).mark_old(NOW) == 0
