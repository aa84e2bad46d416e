"""What counts as a change of the file of keys, look by look."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mitmproxy_moesif.jwt_gate.watch import KeyFileWatch, Stamp, stamp_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    path.write_text("one")
    return path


def watched(file: Path) -> tuple[KeyFileWatch, list[Stamp]]:
    seen: list[Stamp] = []
    return KeyFileWatch(str(file), stamp_of(str(file)), seen.append), seen


def look(watch: KeyFileWatch, times: int) -> None:
    for _ in range(times):
        watch.look()


def test_what_stays_is_told_never(file: Path) -> None:
    watch, seen = watched(file)
    look(watch, 3)
    assert seen == []


def test_a_change_is_told_once_it_has_come_to_rest(file: Path) -> None:
    watch, seen = watched(file)
    for text in ("o", "on", "one of two"):  # as it is being written
        file.write_text(text)
        watch.look()
        assert seen == []
    look(watch, 3)
    assert seen == [stamp_of(str(file))]


def test_a_replaced_file_is_a_change_also_with_the_same_size_and_time(file: Path) -> None:
    watch, seen = watched(file)
    status = file.stat()
    other = file.with_name("other")
    other.write_text("two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    look(watch, 2)
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
    look(watch, 2)
    assert len(seen) == 1


def test_a_file_that_goes_and_comes_back_is_told_twice(file: Path) -> None:
    watch, seen = watched(file)
    file.unlink()
    look(watch, 3)
    assert seen == [None]
    file.write_text("three")
    look(watch, 3)
    assert seen == [None, stamp_of(str(file))]


def test_what_was_there_when_it_was_read_counts(file: Path) -> None:
    """Not what is there when the watch starts: the file may change in between."""
    seen: list[Stamp] = []
    before = stamp_of(str(file))
    file.write_text("changed meanwhile")
    watch = KeyFileWatch(str(file), before, seen.append)
    look(watch, 2)
    assert len(seen) == 1


@pytest.mark.parametrize("path", [None, "/does/not/exist", "\0", "~nobody-of-this-name/key"])
def test_no_file_is_no_stamp(path: str | None) -> None:
    assert stamp_of(path) is None


def test_it_looks_from_a_thread_until_it_is_stopped(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitmproxy_moesif.jwt_gate.watch.EVERY", 0.01)
    told = threading.Event()
    names: list[str] = []

    def changed(_stamp: Stamp) -> None:
        names.append(threading.current_thread().name)
        told.set()

    watch = KeyFileWatch(str(file), stamp_of(str(file)), changed)
    watch.start()
    file.write_text("another")
    assert told.wait(10)
    assert names == ["moesif-jwt-keys"]
    watch.stop()
    for thread in threading.enumerate():
        if thread.name == "moesif-jwt-keys":
            thread.join(10)
            assert not thread.is_alive()
