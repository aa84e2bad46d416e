"""The accounts of delivery processes that died, whatever they had reported last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import FormerProcesses, Ledger, Reading

MOVES = ("enter", "take", "store", "memory", "drop", "deliver", "recover")


def read_after(moves: list[str]) -> Reading:
    """A reading of a ledger after as many of these moves as were possible."""
    ledger = Ledger()
    queued = hand = disk = memory = 0
    for move in moves:
        if move == "enter":
            ledger.entered += 1
            queued += 1
        elif move == "take" and queued:
            ledger.take(1)
            queued, hand = queued - 1, hand + 1
        elif move == "store" and hand:
            ledger.store(1, on_disk=True)
            hand, disk = hand - 1, disk + 1
        elif move == "memory" and hand:
            ledger.store(1, on_disk=False)
            hand, memory = hand - 1, memory + 1
        elif move == "drop" and hand:
            ledger.drop_from_hand(1, "sampled_out")
            hand -= 1
        elif move == "deliver" and disk:
            ledger.deliver(1, on_disk=True)
            disk -= 1
        elif move == "recover":
            ledger.recover(1)
            disk += 1
    return ledger.read()


@given(st.lists(st.lists(st.sampled_from(MOVES), max_size=40), max_size=4))
def test_settled_and_recovered_are_delivered_dropped_or_left(processes: list[list[str]]) -> None:
    past = FormerProcesses()
    for moves in processes:
        past = past.and_then(read_after(moves))
    assert past.settled + past.recovered == past.delivered + past.dropped.total() + past.left


def test_what_was_stored_in_memory_alone_is_lost_and_the_rest_is_left() -> None:
    moves = ["enter", "take"] * 5 + ["store"] * 2 + ["memory"] * 3 + ["enter", "deliver"]
    past = FormerProcesses().and_then(read_after(moves))
    assert (past.settled, past.delivered, past.left, dict(past.dropped)) == (5, 1, 1, {"helper_died": 3})
