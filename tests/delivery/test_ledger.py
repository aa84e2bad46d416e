"""The accounts of delivery processes that died, whatever they had reported last."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.delivery.ledger import KEPT_ACCOUNTS, NOTHING, Account, Ledger, Reading, Settlement, Tally

MOVES = ("store", "memory", "drop", "elsewhere", "deliver", "recover", "refuse", "pass on", "miss", "report")
AKTO = "akto@h"


class Process:
    """A process with one spool file, which keeps its account; it reports when it likes."""

    def __init__(self, past: Reading = NOTHING) -> None:
        self.ledger = Ledger(past)
        self.rows = 0
        self.reported = self.ledger.read()
        self.account: Account | None = None
        for name, count in past.spools.items():
            self.ledger.recover(count, name, "spool")
            self.rows += count
        self.ledger.found_all()

    def move(self, move: str) -> None:
        number = self.ledger.read().settled + 1
        if move in ("store", "memory", "drop", "elsewhere"):
            kind = Counter({move: 1})
            stored = Counter({"spool": kind["store"], None: kind["memory"]})
            offered = Counter({AKTO: number % 2 or kind["elsewhere"]})
            settlement = Settlement(number, stored, Counter({"sampled_out": kind["drop"]}), kind["elsewhere"], offered)
            if move == "store":
                self.account = self.ledger.account(settlement)
                self.rows += 1
            self.ledger.settle(settlement)
        elif move == "recover":
            self.ledger.recover(1, "found", "spool")
            self.rows += 1
            self.account = self.ledger.account()
        elif move in ("deliver", "refuse") and self.rows:
            if move == "deliver":
                self.ledger.deliver(1, "spool")
            else:
                self.ledger.drop(1, "refused", "spool")
            self.rows -= 1
            self.account = self.ledger.account()
        elif move in ("pass on", "miss") and self.tally().waiting:
            if move == "pass on":
                self.ledger.passed_on(AKTO, 1)
            else:
                self.ledger.missed(AKTO, 1, "unavailable")
        elif move == "report":
            self.reported = self.ledger.read()

    def tally(self) -> Tally:
        return self.ledger.read().lossy.get(AKTO, Tally())

    def dies(self) -> Reading:
        return self.reported.last("helper_died", self.account, {"spool": self.rows})


@given(st.lists(st.lists(st.sampled_from(MOVES), max_size=40), max_size=4))
def test_what_processes_that_died_had_done_is_told_by_their_files(processes: list[list[str]]) -> None:
    """Whatever they had reported: what was delivered and refused, and how far the exchanges were settled."""
    past, done = NOTHING, Counter[str]()
    for moves in processes:
        process = Process(past)
        for move in moves:
            process.move(move)
        truth = process.ledger.read()
        past = process.dies()
        assert past.captured == past.delivered + past.waiting + sum(past.dropped.values())
        assert (past.waiting_on_disk, past.waiting_in_memory) == (process.rows, 0)
        assert (past.delivered, past.recovered) == (truth.delivered, truth.recovered)
        assert past.dropped.get("refused", 0) == truth.dropped.get("refused", 0)
        assert past.captured == past.settled + past.recovered - past.elsewhere <= truth.captured
        tally = past.lossy.get(AKTO, Tally())
        assert (tally.waiting, tally.captured <= process.tally().captured) == (0, True)
        done += Counter(moves)
    assert past.delivered <= done["deliver"]


def test_what_was_stored_in_memory_alone_is_lost_and_the_rest_is_left() -> None:
    process = Process()
    for move in ("store", "store", "memory", "memory", "memory", "deliver"):
        process.move(move)
    past = process.dies()
    assert (past.settled, past.delivered, past.waiting_on_disk, past.dropped) == (5, 1, 1, {"helper_died": 3})


def test_without_a_file_the_last_report_counts() -> None:
    process = Process()
    for move in ("memory", "memory", "report", "memory"):
        process.move(move)
    past = process.reported.last("helper_died", None, {})
    assert (past.settled, past.dropped) == (2, {"helper_died": 2})


def test_what_the_next_process_does_not_find_is_not_counted_any_more() -> None:
    ledger = Ledger(Reading(5, 0, 2, 0, 3, spools={"here": 1, "gone": 2}, settled=5))
    ledger.recover(1, "here", "here")
    assert ledger.read().captured == 5
    ledger.found_all()
    assert (ledger.read().captured, ledger.read().spools) == (3, {"here": 1})


def accounts_in(account: Account) -> int:
    return 1 + sum(accounts_in(one.account) for one in account.adopted.values() if one.account is not None)


def test_the_account_of_the_first_in_a_row_that_died_is_kept_and_a_long_row_does_not_grow_it() -> None:
    account, sizes = Account("p0", 7, 0, 0, {}), []
    for number in range(1, 100):
        ledger = Ledger(replace(NOTHING, proxy=f"p{number}"))
        ledger.recover(0, f"file{number - 1}", f"file{number}", account)
        account = ledger.account()
        sizes.append(accounts_in(account))
    assert sizes[:4] == [2, 3, 4, 5]
    assert max(sizes) <= KEPT_ACCOUNTS + 2


def test_of_a_file_that_is_taken_over_again_and_again_the_first_and_the_last_few_takeovers_are_known() -> None:
    """As in a row of delivery processes that die, each with the same backlog."""
    ledger = Ledger()
    for number in range(20):
        ledger.recover(number, "file", "file", Account(f"p{number}", 0, 0, 0, {}))
    kept = list(ledger.read().adopted["file"].all())
    assert [one.events for one in kept] == [19, 18, 17, 16, 0]
    assert [one.account is not None for one in kept] == [True] * 5
    assert Account.of(orjson.loads(orjson.dumps(ledger.account()))) == ledger.account()
