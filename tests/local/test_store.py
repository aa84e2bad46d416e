"""The store keeps the newest events, each once, and gives them back newest first."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.local.intake import ReceivedEvent, read_batch
from mitmproxy_moesif.local.store import EventStore, Filter, StoreCounts, StoreError
from tests.local.events import encode, make_event


def received(*numbers: int, **more: Any) -> list[ReceivedEvent]:
    return read_batch(encode(*(make_event(number, **more) for number in numbers)))


def ids(
    store: EventStore, limit: int = 1000, which: Filter | None = None, before: int | None = None
) -> list[str | None]:
    stored = store.newest(limit, which, before)
    return [read_batch(f"[{event.raw}]".encode())[0].transaction_id for event in stored]


def test_newest_first() -> None:
    with EventStore() as store:
        assert store.add(received(1, 2)) == 2
        assert store.add(received(3)) == 1
        assert ids(store) == ["id-3", "id-2", "id-1"]
        assert ids(store, limit=2) == ["id-3", "id-2"]
        assert ids(store, before=store.newest(1)[0].number) == ["id-2", "id-1"]


def test_a_resend_is_counted_and_kept_once() -> None:
    with EventStore() as store:
        store.add(received(1, 2))
        assert store.add(received(2, 3, 3)) == 1
        assert ids(store) == ["id-3", "id-2", "id-1"]
        assert store.counts() == StoreCounts(received=5, duplicates=2, kept=3)


def test_events_without_an_id_are_all_kept() -> None:
    with EventStore() as store:
        assert store.add(received(1, 1, transaction_id=None)) == 2


@given(
    batches=st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=20),
    keep=st.integers(1, 10),
    keep_bytes=st.integers(100, 3000),
)
def test_keeps_the_newest_within_both_bounds(batches: list[list[int]], keep: int, keep_bytes: int) -> None:
    model: list[tuple[str | None, int]] = []
    with EventStore(None, keep, keep_bytes) as store:
        for batch in batches:
            events = received(*batch)
            store.add(events)
            for event in events:
                if event.transaction_id not in [known for known, _ in model]:
                    model.append((event.transaction_id, event.size))
            while len(model) > keep or (len(model) > 1 and sum(size for _, size in model) > keep_bytes):
                del model[0]
            assert ids(store) == [known for known, _ in reversed(model)]
            assert store.counts().kept == len(model)


def test_filters() -> None:
    with EventStore() as store:
        store.add(received(1, response={"status": 200}, user_id="ann", company_id="acme"))
        store.add(received(2, response={"status": 404}, user_id="bob"))
        store.add(received(3, request={**make_event(33)["request"], "verb": "POST"}))
        assert ids(store, which=Filter(status=404)) == ["id-2"]
        assert ids(store, which=Filter(user_id="ann")) == ["id-1"]
        assert ids(store, which=Filter(company_id="acme")) == ["id-1"]
        assert ids(store, which=Filter(verb="POST")) == ["id-3"]
        assert ids(store, which=Filter(uri="com/3")) == ["id-3"]
        assert ids(store, which=Filter(uri="%")) == []
        assert ids(store, which=Filter(verb="GET", user_id="bob")) == ["id-2"]
        assert ids(store, which=Filter(user_id="'; DROP TABLE event; --")) == []


def test_one_by_its_id() -> None:
    with EventStore() as store:
        events = received(1, 2)
        store.add(events)
        assert store.find("id-1") == events[0].raw
        assert store.find("id-9") is None


def test_clearing_forgets_events_and_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    with EventStore(path) as store:
        store.add(received(*range(2000), metadata="x" * 1000))
        store.clear()
        assert ids(store) == []
        assert store.counts().kept == 0
        assert store.add(received(1)) == 1
    assert path.stat().st_size < 100_000


def test_a_file_keeps_its_events_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.sqlite"
    with EventStore(path) as store:
        store.add(received(1, 2))
        assert [stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()] == [0o600] * 3
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with EventStore(path, keep_events=2) as store:
        store.add(received(2, 3))
        assert ids(store) == ["id-3", "id-2"]


def test_several_threads_at_once() -> None:
    with EventStore() as store:
        threads = [
            threading.Thread(target=lambda first=first: [store.add(received(first + step)) for step in range(50)])
            for first in (0, 100, 200)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.counts() == StoreCounts(received=150, duplicates=0, kept=150)


def test_nothing_of_a_batch_is_kept_or_counted_where_the_disk_is_full(tmp_path: Path) -> None:
    with EventStore(tmp_path / "events.sqlite") as store:
        store.add(received(1))
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            store.add(received(*range(2, 50), metadata="x" * 1000))
        assert ids(store) == ["id-1"]
        assert store.counts() == StoreCounts(received=1, duplicates=0, kept=1)


class TestFilesThatAreNoStore:
    def refusal(self, path: Path) -> str:
        with pytest.raises(StoreError) as raised:
            EventStore(path)
        text = str(raised.value)
        assert str(path) in text
        assert "\n" not in text
        return text

    def test_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database, and longer than the header of one\n" * 100)
        self.refusal(path)
        assert path.read_text().startswith("not a database")

    def test_another_programs_database(self, tmp_path: Path) -> None:
        path = tmp_path / "other.sqlite"
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE event (a)")
        db.close()
        assert "another program" in self.refusal(path)

    def test_a_folder_and_a_path_that_cannot_be(self, tmp_path: Path) -> None:
        self.refusal(tmp_path)
        (tmp_path / "file").touch()
        self.refusal(tmp_path / "file" / "events.sqlite")


def test_two_collectors_on_one_file_keep_the_newest(tmp_path: Path) -> None:
    """Each knows what the other has added, and forgotten."""
    file = tmp_path / "events.sqlite"
    with EventStore(file, keep_events=3) as one, EventStore(file, keep_events=3) as other:
        one.add(received(1, 2, 3))
        assert other.counts() == StoreCounts(received=0, duplicates=0, kept=3)
        assert other.clear() == 3
        one.add(received(4))
        assert ids(one) == ids(other) == ["id-4"]
        other.add(received(5, 6, 7))
        one.add(received(8))
        assert ids(one) == ids(other) == ["id-8", "id-7", "id-6"]
        assert one.counts().kept == other.counts().kept == 3
