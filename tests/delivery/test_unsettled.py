"""What a delivery process gets, and what the search for the event that kills it drops."""

from __future__ import annotations

from mitmproxy_moesif.delivery import protocol
from mitmproxy_moesif.delivery.protocol import Frame, Plain
from mitmproxy_moesif.delivery.unsettled import CRASH_LOOP, Unsettled
from tests.delivery.test_server import an_exchange


def content(count: int = 1) -> list[tuple[int, Plain]]:
    return [(1, protocol.from_exchange(an_exchange(number))) for number in range(count)]


def in_crash_loop(*frames: int) -> tuple[Unsettled, list[Frame]]:
    """After a process that died with nothing done of these frames, and what its successor got."""
    unsettled = Unsettled()
    for events in frames:
        unsettled.add(content(events), 0.0)
    assert unsettled.died(0, reported=True) is None
    return unsettled, unsettled.for_successor()


def numbers(frames: list[Frame]) -> list[tuple[int, int]]:
    return [(frame.first, frame.last) for frame in frames]


def test_a_crash_loop_gets_one_frame_at_a_time_and_each_once() -> None:
    unsettled, sent = in_crash_loop(1, 1)
    sent += unsettled.add(content(), 0.0)
    assert numbers(sent) == [(1, 1)]
    assert unsettled.next_suspect() == []
    unsettled.settle(1)
    sent += unsettled.next_suspect()
    assert numbers(sent) == [(1, 1), (2, 2)]
    sent += unsettled.leave_crash_loop()
    assert numbers(sent) == [(1, 1), (2, 2), (3, 3)]
    assert unsettled.leave_crash_loop() == []


def test_a_crash_loop_is_over_when_all_is_settled() -> None:
    unsettled, _ = in_crash_loop(1)
    unsettled.settle(1)
    assert unsettled.next_suspect() == []
    assert numbers(unsettled.add(content(2), 0.0)) == [(2, 3)]


def test_what_was_sent_first_when_the_proxy_ends_goes_once() -> None:
    unsettled, sent = in_crash_loop(1, 1, 1)
    sent += unsettled.leave_crash_loop()
    assert numbers(sent) == [(1, 1), (2, 2), (3, 3)]


def test_the_event_that_no_process_survives_is_dropped_alone() -> None:
    """The frame that they die of is split; of its events the second is the poison."""
    unsettled = Unsettled()
    unsettled.add(content(3), 0.0)
    for _ in range(CRASH_LOOP):
        assert unsettled.died(0, reported=True) is None
    assert numbers(unsettled.for_successor()) == [(1, 1)]
    assert unsettled.died(1, reported=True) is None
    found = [unsettled.died(1, reported=True) for _ in range(CRASH_LOOP)]
    assert numbers([frame for frame in found if frame is not None]) == [(2, 2)]
    assert numbers(unsettled.for_successor()) == [(3, 3)]


def test_a_process_that_never_reported_makes_nothing_a_suspect() -> None:
    unsettled = Unsettled()
    unsettled.add(content(3), 0.0)
    for _ in range(2 * CRASH_LOOP):
        assert unsettled.died(0, reported=False) is None
    assert numbers(unsettled.for_successor()) == [(1, 3)]


def test_a_successor_gets_nothing_that_was_settled() -> None:
    unsettled = Unsettled()
    unsettled.add(content(3), 0.0)
    unsettled.died(2, reported=True)
    (frame,) = unsettled.for_successor()
    (only,) = frame.one_by_one()
    assert (frame.first, frame.last, only.data) == (3, 3, frame.data)
    assert unsettled.bytes == frame.size
    unsettled.settle(3)
    assert (unsettled.bytes, bool(unsettled)) == (0, False)
