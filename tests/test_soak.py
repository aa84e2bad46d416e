"""The soak in small, and its judgement: each law of it finds what breaks it."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.soak import judgement
from tests.soak.audit import Audit
from tests.soak.bodies import LARGEST, MASKED, SMALLEST, body_pool
from tests.soak.collector import Tally
from tests.soak.faults import PROXY_FAULTS, Deck
from tests.soak.journal import Journal
from tests.soak.lives import Life
from tests.soak.monitor import Monitor
from tests.support import REPOSITORY
from tests.support.proxy import Mitmdump

# --- the whole of it, with processes


@contextmanager
def soak(folder: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    # The promised time until an event is on disk is not for a machine that runs other tests at the same time.
    arguments = f"--minutes 0.1 --rate 60 --seed {seed} --on-disk-within 2".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.soak", *arguments, "--keep", str(folder)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # which ends what it started
        process.communicate()


def still_running(folder: Path) -> list[str]:
    """The processes that the journal tells of and that have not ended."""
    pids = re.findall(r"process (\d+)", (folder / "journal.txt").read_text())
    assert len(pids) >= 3
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_a_short_soak_accounts_for_every_event(tmp_path: Path) -> None:
    with soak(tmp_path, 78) as process:
        output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert output.splitlines()[-1] == "soak: all events are accounted for"
    journal = (tmp_path / "journal.txt").read_text()
    assert "proxy: kill" in journal
    assert "collector: 503" in journal
    assert still_running(tmp_path) == []


def test_an_interrupted_soak_ends_what_it_started(tmp_path: Path) -> None:
    journal = tmp_path / "journal.txt"
    with soak(tmp_path, 1) as process:
        deadline = time.monotonic() + 60
        while not (journal.exists() and "life 1 begins" in journal.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(still_running(tmp_path)) == 3
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output.splitlines()[-1] == "soak: interrupted"
    assert still_running(tmp_path) == []


# --- who has which event


@dataclass
class Proxy:
    output: str = ""


@dataclass
class World:
    """What an audit looks at, without processes. `at` are the times of answers; the proxy was killed at second 10."""

    at: dict[str, float]
    accepted: tuple[str, ...] = ()
    spool: tuple[str, ...] = ()
    refusable: Mapping[str, int] = field(default_factory=dict)
    output: str = ""
    how: str = "kill"
    left: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    down: list[tuple[float, float]] = field(default_factory=lambda: [(10.0, 11.0)])
    breaks: tuple[float, ...] = ()
    again: tuple[tuple[str, float, float], ...] = ()

    def ask(self, _what: str, to: str) -> dict[str, int]:
        report = {"fresh": self.accepted, "refused": self.refusable, "again": self.again, "faults": [], "changed": []}
        Path(to).write_text(json.dumps(report))
        return {"leaks": 0}

    def spooled(self) -> list[str]:
        return list(self.spool)

    def damaged(self) -> list[str]:
        return []

    def findings(self, folder: Path, *, finish: bool = False) -> Mapping[str, str]:
        journal = Journal(folder / "journal.txt", lambda _: None)
        proxy, how, status = Proxy(self.output), self.how, {"dropped": self.dropped}
        life: Any = Life(1, proxy, 0, 0.0, self.left, ended=10.0, how=how, status=status)  # type: ignore[arg-type]
        world: Any = self
        world.all, world.seen, world.odd, world.unnamed, world.spoiled = [life], self.at, [], [], set()
        audit = Audit(folder, world, world, world, journal)
        audit.after(life)
        if finish:
            self.spool = ()
            audit.finish(excused=[])
        return journal.findings


REFUSED = "moesif: the receiver refused event a (status 400)"


def test_an_event_that_is_nowhere_is_found(tmp_path: Path) -> None:
    assert "1 events are nowhere" in World({"a": 5.0, "b": 5.0}, accepted=("b",)).findings(tmp_path)["lost"]


@pytest.mark.parametrize(
    "world",
    [
        World({"a": 5.0}, accepted=("a",)),
        World({"a": 5.0}, spool=("a",)),
        World({"a": 5.0}, dropped={"queue_full": 1}),
        World({"a": 5.0}, refusable={"a": 400}, output=REFUSED),
        World({"a": 9.95}),
    ],
    ids=["at the collector", "in the spool", "counted", "refused and named", "read a moment before the kill"],
)
def test_an_event_that_is_somewhere_is_not(world: World, tmp_path: Path) -> None:
    assert world.findings(tmp_path) == {}


def test_a_drop_that_is_counted_as_refused_needs_a_name(tmp_path: Path) -> None:
    assert "lost" in World({"a": 5.0}, dropped={"refused": 1}).findings(tmp_path)


def test_a_good_event_that_was_dropped_as_refused_is_found(tmp_path: Path) -> None:
    assert set(World({"a": 5.0}, output=REFUSED).findings(tmp_path)) == {"refused"}


def test_an_event_that_was_refused_for_another_reason_is_found(tmp_path: Path) -> None:
    assert set(World({"a": 5.0}, refusable={"a": 413}, output=REFUSED).findings(tmp_path)) == {"refused"}


def test_what_a_log_names_as_refused_is_read_field_by_field() -> None:
    """An id may hold the digits of a status, and so may the text around it."""
    poison, large = "413e0400-0000-4000-8413-000000000413", "400e0413-0000-4000-8400-000000000400"
    lines = [
        f"[12:04:13.413] moesif: the receiver refused event {poison} (status 400)",
        f"[12:04:00.400] moesif: the receiver refused event {large} (status 413)",
        f"moesif: queued event {'4130' * 8}, 413 bytes",
        "moesif: the receiver is unavailable (status 503); events are kept and sent later",
    ]
    assert judgement.refusals("\n".join(lines)) == {poison: 400, large: 413}


def test_after_sigterm_the_exit_line_is_believed_and_no_moment_is_granted(tmp_path: Path) -> None:
    line = "moesif: captured 2, delivered 1, waiting 1, dropped 0"
    world = World({"a": 9.95, "b": 9.0}, accepted=("b",), spool=("a",), output=line, how="terminate")
    assert world.findings(tmp_path) == {}
    world.spool = ()
    assert set(world.findings(tmp_path)) == {"lost", "spool"}
    world.spool, world.output = ("a",), "moesif: captured 3, delivered 1, waiting 1, dropped 0"
    assert set(world.findings(tmp_path)) == {"exit line"}


def test_what_a_life_had_not_found_yet_stays_in_the_spool_beside_what_it_says_is_waiting(tmp_path: Path) -> None:
    line = "moesif: captured 1, delivered 0, waiting 1, dropped 0"
    world = World({"a": 9.0, "b": 5.0}, spool=("a", "b"), output=line, how="terminate", left=1)
    assert world.findings(tmp_path) == {}
    world.output = f"moesif: found 1 event that an earlier process left in the spool\n{line}"
    assert set(world.findings(tmp_path)) == {"spool"}


def test_traffic_may_break_only_while_the_proxy_is_down(tmp_path: Path) -> None:
    assert World({}, breaks=(10.5,)).findings(tmp_path, finish=True) == {}
    assert "broke" in World({}, breaks=(8.0,)).findings(tmp_path, finish=True)["traffic"]


def test_one_life_sends_what_was_accepted_only_once(tmp_path: Path) -> None:
    assert "twice" in World({}, again=(("a", 3.0, 4.0),)).findings(tmp_path, finish=True)
    assert judgement.told_twice([("a", 9.0, 12.0)], [(0, 10), (11, 20)], []) == []
    assert judgement.told_twice([("a", 3.0, 4.0)], [(0, 10)], [(3.5, 5)]) == []


# --- the other laws


@pytest.mark.parametrize(
    ("captured", "waiting", "holds"), [(10, 3, True), (11, 3, False), (9, 3, False), (6, -1, False)]
)
def test_the_identity_is_judged(captured: int, waiting: int, holds: bool) -> None:
    status = {
        "captured": captured,
        "delivered": 5,
        "waiting": {"memory": 0, "disk": waiting},
        "dropped": {"refused": 2},
    }
    assert (judgement.identity_fault(status) is None) is holds


def test_a_drop_that_nothing_causes_is_found() -> None:
    assert judgement.drop_fault({"dropped": {"refused": 3}}) is None
    assert "internal_error" in (judgement.drop_fault({"dropped": {"internal_error": 1}}) or "")


@pytest.mark.parametrize(
    ("waiting", "spooled", "settled", "holds"),
    [
        (2, ["a", "b"], [], True),
        (1, ["a", "b"], ["a"], True),
        (2, ["a", "b"], ["a"], True),  # accepted, and the answer was lost
        (3, ["a", "b"], [], False),
        (0, ["a", "b"], ["a"], False),
        (2, ["a", "a"], [], False),
    ],
)
def test_what_waits_is_on_disk(waiting: int, spooled: list[str], settled: list[str], holds: bool) -> None:
    assert (judgement.spool_fault(waiting, spooled, settled) is None) is holds


def samples(size: Callable[[float], float], seconds: int) -> list[tuple[float, float]]:
    dice = random.Random(1)
    return [(at / 2, size(at / 2) + 8 * dice.random()) for at in range(2 * seconds)]


def test_memory_may_be_taken_once_but_not_more_and_more() -> None:
    assert judgement.memory_fault(samples(lambda at: 100 + min(at, 50), 400)) is None
    assert "grows" in (judgement.memory_fault(samples(lambda at: 100 + at / 20, 400)) or "")
    assert "350 MB" in (judgement.memory_fault([(0.0, 120.0), (1.0, 350.0)]) or "")


def test_a_short_life_tells_nothing_of_its_slope() -> None:
    assert judgement.memory_fault(samples(lambda at: 100 + at / 20, 120)) is None
    assert judgement.memory_fit(samples(lambda at: 100 + at / 20, 50)) is None


@pytest.mark.parametrize("growth", [0, 1, 2.5, 4, 20])
def test_a_leak_fails_the_soak_of_ten_minutes(growth: float) -> None:
    """MB a minute, under a backlog that comes and goes; at 200 exchanges a second, 2.5 are 200 bytes for each."""

    def size(at: float) -> float:
        return 100 + growth * at / 60 + 30 * (at % 40 < 12)

    assert ("grows" in (judgement.memory_fault(samples(size, 360)) or "")) is (growth > judgement.MAX_SLOPE)


def test_a_soak_that_could_have_judged_the_memory_and_did_not_fails() -> None:
    flat = [samples(lambda _: 100, 120), samples(lambda _: 100, 360)]
    assert judgement.unjudged(flat, quiet=360) is None
    assert "no life" in (judgement.unjudged(flat[:1], quiet=360) or "")
    assert "no life" in (judgement.unjudged([[]], quiet=360) or "")
    assert judgement.unjudged([[]], quiet=108) is None


GROWS = """
import sys
for megabytes in map(int, sys.stdin):
    block = b"x" * megabytes * 1_000_000
    print("grown", flush=True)
"""


class Grown(Mitmdump):
    """A process that takes memory when it is told to, in the place of the proxy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process  # type: ignore[assignment]


def test_the_memory_that_is_judged_is_what_is_resident_of_the_proxy(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.txt", lambda _: None)
    arguments = [sys.executable, "-c", GROWS]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        life = Life(1, Grown(process), 0, 0.0)
        lives: Any = None
        monitor = Monitor(lives, journal)
        for megabytes in (1, 81):
            assert process.stdin is not None
            assert process.stdout is not None
            print(megabytes, file=process.stdin, flush=True)
            assert process.stdout.readline() == "grown\n"
            monitor.measure(life)
    (_, before), (_, after) = life.samples
    assert 75 < after - before < 90
    assert life.files >= 3


@pytest.mark.parametrize(
    "line", ["Traceback (most recent call last):", "moesif: unexpected while sending: X", f"token={MASKED}"]
)
def test_a_log_is_searched_for_faults_and_secrets(line: str) -> None:
    assert len(judgement.log_faults(f"well\n{line}\nwell", [MASKED])) == 1
    assert judgement.log_faults("moesif: the receiver is back after 3 s", [MASKED]) == []


def test_the_collector_tells_changed_content_and_what_came_again() -> None:
    tally = Tally()
    tally.accept([{"transaction_id": "a", "n": 1}, {"transaction_id": "b"}])
    tally.tell([{"transaction_id": "a"}], 1.0)
    tally.accept([{"transaction_id": "a", "n": 2}])
    tally.tell([{"transaction_id": "a"}], 2.0)
    report = tally.report()
    assert (report["fresh"], report["changed"], report["again"]) == (["a", "b"], ["a"], [("a", 1.0, 2.0)])
    assert tally.report()["fresh"] == []
    assert tally.totals()["arrivals"] == 3


def test_a_deck_deals_every_card_before_it_is_shuffled_again() -> None:
    one, other = (Deck(random.Random(5), PROXY_FAULTS) for _ in range(2))
    for _ in range(3):
        dealt = [one.draw() for _ in PROXY_FAULTS]
        assert sorted(dealt) == sorted(PROXY_FAULTS)
        assert dealt == [other.draw() for _ in PROXY_FAULTS]


def test_bodies_are_of_all_sizes_and_hold_what_has_to_be_masked() -> None:
    bodies = body_pool(1)
    assert bodies == body_pool(1)
    assert SMALLEST <= min(map(len, bodies)) < 1000
    assert 50_000 < max(map(len, bodies)) <= LARGEST + 1000
    assert all(MASKED in json.loads(body)["password"] for body in bodies)
