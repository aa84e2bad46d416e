"""An offset is committed when everything before it is done: a model that knows all, against the table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.forward.offsets import Offsets

STEPS = st.lists(st.tuples(st.sampled_from(["take", "done", "commit", "forget"]), st.integers(0, 1), st.integers(0, 9)))


@given(STEPS)
def test_nothing_open_is_ever_committed(steps: list[tuple[str, int, int]]) -> None:
    offsets = Offsets()
    reading = dict.fromkeys((0, 1), 0)
    taken: dict[int, list[int]] = {0: [], 1: []}
    delivered: set[tuple[int, int]] = set()
    for step, partition, index in steps:
        if step == "take":
            offsets.take(partition, reading[partition])
            taken[partition].append(reading[partition])
            reading[partition] += 1 + index % 2  # offsets have gaps
        elif step == "done" and taken[partition]:
            offset = taken[partition][index % len(taken[partition])]
            offsets.done(partition, offset)
            delivered.add((partition, offset))
        elif step == "commit":
            due = offsets.due()
            for one, upto in due.items():
                assert all((one, offset) in delivered for offset in taken[one] if offset < upto)
            offsets.commit(due)
            assert offsets.due() == {}
        elif step == "forget":
            offsets.forget([partition])
            taken[partition], delivered = [], {one for one in delivered if one[0] != partition}
            assert partition not in offsets.due()


def test_what_is_done_in_any_order_is_committed_up_to_the_first_gap() -> None:
    offsets = Offsets()
    for offset in (5, 6, 9):
        offsets.take(0, offset)
    offsets.done(0, 6)
    assert offsets.due() == {0: 5}
    offsets.done(0, 5)
    assert offsets.due() == {0: 9}
    offsets.done(0, 9)
    assert offsets.due() == {0: 10}


def test_what_is_delivered_after_the_partition_went_away_and_came_back_counts() -> None:
    offsets = Offsets()
    offsets.take(0, 5)
    offsets.forget([0])
    offsets.done(0, 5)
    offsets.take(0, 5)
    offsets.done(0, 5)
    assert offsets.due() == {0: 6}


def test_a_topic_that_begins_anew_is_committed_from_its_beginning() -> None:
    offsets = Offsets()
    for offset in (10, 11, 0, 1):
        offsets.take(0, offset)
    assert offsets.due() == {0: 0}
    offsets.done(0, 0)
    assert offsets.due() == {0: 1}
