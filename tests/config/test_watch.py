"""What counts as a change of a file, look by look, and the thread that looks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mitmproxy_moesif.config.watch import FileWatch, Periodic, Stamp, stamp_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text("one")
    return path


def watched(file: Path) -> tuple[FileWatch, list[Stamp]]:
    return FileWatch(file, stamp_of(file)), []


def look(watch: FileWatch, seen: list[Stamp], times: int = 1) -> None:
    seen.extend(watch.seen for _ in range(times) if watch.changed())


def test_what_stays_is_told_never(file: Path) -> None:
    watch, seen = watched(file)
    look(watch, seen, 3)
    assert seen == []


def test_a_change_is_told_once_it_has_come_to_rest(file: Path) -> None:
    watch, seen = watched(file)
    for text in ("o", "on", "one of two"):  # as it is being written
        file.write_text(text)
        look(watch, seen)
        assert seen == []
    look(watch, seen, 3)
    assert seen == [stamp_of(file)]


def test_a_replaced_file_is_a_change_also_with_the_same_size_and_time(file: Path) -> None:
    watch, seen = watched(file)
    status = file.stat()
    other = file.with_name("other")
    other.write_text("two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    look(watch, seen, 2)
    assert len(seen) == 1


def test_a_link_that_leads_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As in the volumes that Kubernetes makes of a ConfigMap or Secret."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.json").write_text(name)
    data, new = tmp_path / "..data", tmp_path / "..new"
    data.symlink_to("first")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    watch, seen = watched(tmp_path / "keys.json")
    new.symlink_to("second")
    new.replace(data)
    look(watch, seen, 2)
    assert len(seen) == 1


def test_a_file_that_goes_and_comes_back_is_told_twice(file: Path) -> None:
    watch, seen = watched(file)
    file.unlink()
    look(watch, seen, 3)
    assert seen == [None]
    file.write_text("three")
    look(watch, seen, 3)
    assert seen == [None, stamp_of(file)]


def test_what_was_there_when_it_was_read_counts(file: Path) -> None:
    """Not what is there when the watch starts: the file may change in between."""
    seen: list[Stamp] = []
    before = stamp_of(file)
    file.write_text("changed meanwhile")
    watch = FileWatch(file, before)
    look(watch, seen, 2)
    assert len(seen) == 1


@pytest.mark.parametrize("path", [None, "/does/not/exist", "\0", "~nobody-of-this-name/key"])
def test_no_file_is_no_stamp(path: str | None) -> None:
    assert stamp_of(path) is None


@pytest.mark.parametrize("path", [None, "/does/not/exist"])
def test_no_file_that_stays_away_is_no_change(path: str | None) -> None:
    watch = FileWatch(path, None)
    assert not any(watch.changed() for _ in range(3))


def test_a_file_of_which_nothing_was_seen_is_to_be_read(file: Path) -> None:
    watch = FileWatch(file, None)
    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_periodic_thread_acts_until_it_is_stopped_whatever_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    acted = threading.Event()
    names: list[str] = []

    def act() -> None:
        names.append(threading.current_thread().name)
        if len(names) < 3:
            raise RuntimeError("a secret")
        acted.set()

    periodic = Periodic("moesif-test", 0.01, act)
    periodic.start()
    assert acted.wait(10)
    assert set(names) == {"moesif-test"}
    periodic.stop()
    for thread in threading.enumerate():
        if thread.name == "moesif-test":
            thread.join(10)
            assert not thread.is_alive()
    (record,) = caplog.records
    assert record.getMessage().startswith("moesif: unexpected in moesif-test: RuntimeError at ")
    assert "a secret" not in caplog.text
