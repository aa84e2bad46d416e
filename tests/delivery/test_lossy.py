"""Receivers that may lose records: bounded, tried once, and each lost record is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from mitmproxy_moesif.config.akto import AktoTarget
from mitmproxy_moesif.delivery.ledger import Ledger, Settlement, Tally
from mitmproxy_moesif.delivery.lossy import MOST_BYTES, MOST_CALLS, MOST_RECORDS, LossyReceiver, LossyReceivers
from mitmproxy_moesif.delivery.receivers.base import Outcome, Verdict

OK = Outcome(Verdict.ACCEPTED)


def target(host: str = "h", level: int = logging.WARNING) -> AktoTarget:
    return AktoTarget(f"http://{host}", 1.0, level, "1000000")


class Held:
    """A receiver whose calls wait for `released`, and its counts."""

    def __init__(self, outcome: Outcome = OK, *, held: bool = True, level: int = logging.WARNING) -> None:
        self.outcome = outcome
        self.ledger = Ledger()
        self.sizes: list[int] = []
        self.calls = threading.Semaphore(0)
        self.released = threading.Event()
        if not held:
            self.released.set()
        self.lossy = LossyReceiver(target(level=level), lambda: self, self.ledger)
        self._number = 0

    def send(self, events: Sequence[bytes]) -> Outcome:
        self.sizes.append(len(events))
        self.calls.release()
        assert self.released.wait(20)
        return self.outcome

    def close(self) -> None:
        pass

    def put(self, count: int, record: bytes = b"{}") -> None:
        for _ in range(count):
            self._number += 1
            self.ledger.settle(Settlement(self._number, elsewhere=1, offered=Counter({"akto@h": 1})))
            self.lossy.put(record, "GET / 200")

    def tally(self) -> Tally:
        return self.ledger.read().lossy["akto@h"]

    def wait_until_idle(self) -> Tally:
        self.released.set()
        end = time.monotonic() + 20
        while self.lossy.busy and time.monotonic() < end:
            self.ledger.changed.wait(0.01)
        return self.tally()


def test_a_batch_goes_out_when_it_is_full() -> None:
    akto = Held(held=False)
    akto.put(MOST_RECORDS + 1)
    akto.put(1, b"x" * MOST_BYTES)
    assert akto.calls.acquire(timeout=20)
    assert akto.calls.acquire(timeout=20)
    assert sorted(akto.sizes) == [2, MOST_RECORDS]
    assert akto.wait_until_idle() == Tally(MOST_RECORDS + 2, MOST_RECORDS + 2)


def test_exactly_twenty_calls_are_under_way_and_more_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    akto = Held()
    akto.put(MOST_RECORDS * (MOST_CALLS + 3))
    for _ in range(MOST_CALLS):
        assert akto.calls.acquire(timeout=20)
    assert not akto.calls.acquire(blocking=False)
    assert akto.tally() == Tally(2300, 0, {"in_flight": 300})
    assert akto.tally().waiting == 2000
    assert [record.message for record in caplog.records] == ["[akto-api] ingest dropped - 20 in flight"]
    assert akto.wait_until_idle() == Tally(2300, 2000, {"in_flight": 300})
    akto.put(MOST_RECORDS)
    assert akto.wait_until_idle() == Tally(2400, 2100, {"in_flight": 300})


@pytest.mark.parametrize(
    ("verdict", "cause"),
    [
        (Verdict.REFUSED, "refused"),
        (Verdict.UNAUTHORIZED, "unauthorized"),
        (Verdict.UNAVAILABLE, "unavailable"),
    ],
)
def test_a_batch_that_fails_is_counted_told_once_and_not_tried_again(
    verdict: Verdict, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    akto = Held(Outcome(verdict, "ingest failed (status 1)"), held=False)
    akto.put(3 * MOST_RECORDS)
    assert akto.wait_until_idle() == Tally(300, 0, {cause: 300})
    assert akto.sizes == [MOST_RECORDS] * 3
    assert [record.message for record in caplog.records] == ["[akto-api] ingest failed (status 1)"]
    assert akto.lossy.health.down_since is not None
    assert akto.lossy.health.unauthorized == (verdict is Verdict.UNAUTHORIZED)
    akto.outcome = OK
    akto.put(MOST_RECORDS)
    akto.wait_until_idle()
    assert akto.lossy.health.down_since is None


def test_it_is_known_to_be_up_once_it_has_taken_something() -> None:
    akto = Held(held=False)
    assert akto.lossy.health.heard is None
    akto.put(MOST_RECORDS)
    akto.wait_until_idle()
    assert akto.lossy.health.heard is not None


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        (logging.DEBUG, ["-> GET / 200", "ingest ok", "1 records, 2 bytes"]),
        (logging.INFO, ["-> GET / 200", "ingest ok"]),
        (logging.WARNING, []),
    ],
)
def test_what_is_logged_of_a_success(level: int, lines: list[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    akto = Held(held=False, level=level)
    akto.put(1)
    akto.lossy.flush()
    akto.wait_until_idle()
    said = [record.message for record in caplog.records]
    assert len(said) == len(lines)
    assert all(one.startswith(f"[akto-api] {line}") for one, line in zip(said, lines, strict=True))


def test_at_level_error_failures_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    akto = Held(Outcome(Verdict.UNAVAILABLE, "connect failed"), held=False, level=logging.ERROR)
    akto.put(MOST_RECORDS)
    akto.wait_until_idle()
    assert caplog.records == []


def test_a_fault_of_ours_loses_its_batch_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    akto = Held(held=False)

    def send(events: Sequence[bytes]) -> Outcome:
        raise ZeroDivisionError

    akto.send = send  # type: ignore[method-assign]
    akto.put(MOST_RECORDS)
    assert akto.wait_until_idle() == Tally(100, 0, {"internal_error": 100})
    assert "unexpected while sending: ZeroDivisionError" in caplog.text


def test_what_waits_goes_out_by_itself() -> None:
    akto = Held(held=False)
    all_of_them = LossyReceivers(lambda _: akto, akto.ledger)
    akto.ledger.settle(Settlement(1, offered=Counter({"akto@h": 1})))
    all_of_them.put(target(), b"{}", "")
    assert akto.calls.acquire(timeout=20)
    assert list(all_of_them.health({target(), target("other")})) == ["akto@h"]
    assert list(all_of_them.health({target("other")})) == [], "it is configured no more"
    all_of_them.close()


def test_at_the_end_what_is_under_way_is_waited_for_and_what_hangs_is_dropped() -> None:
    for held, expected in ((False, Tally(1, 1)), (True, Tally(1, 0, {"shutdown": 1}))):
        akto = Held(held=held)
        all_of_them = LossyReceivers(lambda _, akto=akto: akto, akto.ledger)  # type: ignore[misc]
        akto.ledger.settle(Settlement(1, offered=Counter({"akto@h": 1})))
        all_of_them.put(target(), b"{}", "")
        all_of_them.drain(time.monotonic() + 20)
        all_of_them.close()
        akto.ledger.abandon("shutdown")
        assert akto.wait_until_idle() == expected
