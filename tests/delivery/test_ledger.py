"""The accounts of delivery processes that died, whatever they had reported last."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import FormerProcesses, Ledger, Reading, Settlement

MOVES = ("enter", "store", "memory", "drop", "deliver", "recover")


def read_after(moves: list[str], already_settled: int = 0) -> Reading:
    """A reading of a ledger after as many of these moves as were possible; numbers go on after the settled ones."""
    ledger = Ledger()
    number, queued, disk = already_settled, 0, 0
    for move in moves:
        if move == "enter":
            ledger.enter(1)
            queued += 1
        elif move in ("store", "memory", "drop") and queued:
            number, queued = number + 1, queued - 1
            kind = Counter({move: 1})
            stored = Counter({"spool": kind["store"], None: kind["memory"]})
            ledger.settle(Settlement(number, stored, Counter({"sampled_out": kind["drop"]})))
            disk += move == "store"
        elif move == "deliver" and disk:
            ledger.deliver(1, "spool")
            disk -= 1
        elif move == "recover":
            ledger.recover(1, "found", "spool")
            disk += 1
    return ledger.read()


@given(st.lists(st.lists(st.sampled_from(MOVES), max_size=40), max_size=4))
def test_settled_and_recovered_are_delivered_dropped_or_left(processes: list[list[str]]) -> None:
    past = FormerProcesses()
    for moves in processes:
        past = past.and_then(read_after(moves, past.settled))
    assert past.settled + past.recovered == past.delivered + past.dropped.total() + past.left.total()


def test_what_was_stored_in_memory_alone_is_lost_and_the_rest_is_left() -> None:
    moves = ["enter"] * 5 + ["store"] * 2 + ["memory"] * 3 + ["enter", "deliver"]
    past = FormerProcesses().and_then(read_after(moves))
    assert (past.settled, past.delivered, past.left.total(), dict(past.dropped)) == (5, 1, 1, {"helper_died": 3})


def test_the_successor_counts_on_from_what_was_settled() -> None:
    past = FormerProcesses().and_then(read_after(["enter"] * 3 + ["memory"]))
    past = past.and_then(read_after(["enter"] * 2 + ["store"], past.settled))
    assert (past.settled, past.left.total(), dict(past.dropped)) == (2, 1, {"helper_died": 1})


def test_a_file_is_its_successor_s_from_the_moment_it_is_taken_over() -> None:
    past = FormerProcesses(settled=3, left=Counter(first=2, second=1))
    successor = Reading(2, 2, 0, 0, 2, spools={"first": 2}, adopted={"first": 1.0})
    now = past.handed_over(successor, has_looked=False)
    assert (now.left, now.recovered) == (Counter(second=1), -2)
    assert past.handed_over(successor, has_looked=True).left == Counter()
